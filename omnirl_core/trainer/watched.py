"""A trainer that notices what would spoil a run: rewards that fail and numbers that are none; all ranks act alike."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from omnirl_core.trainer.fault_tolerance.checkpoint_mixin import ResumableTrainer
from omnirl_core.trainer.fault_tolerance.nonfinite import GRADIENT, Divergence, NonFinite, NonFiniteError
from omnirl_core.trainer.fault_tolerance.reward_guard import RewardError, RewardFault, RewardGuard
from omnirl_core.trainer.fault_tolerance.watchdog import Heartbeat, last_seen

ROWS = "rows_as_json"
"""Key of the rows, a line of JSON each, in what TRL buffers between rollout and training."""
MOST_SHOWN = 5


class WatchedTrainer(ResumableTrainer):
    """`OmniGRPOTrainer`'s layer for faults; with a plain GRPOConfig, which has no settings for it, it does nothing.

    No rank raises alone: what one has found is gathered where all of them pass, and all raise the same error.
    test_watched.py holds the signatures of what is overridden.
    """

    run_files: Any
    reward_funcs: list[Any]
    reward_func_names: list[str]
    _metrics: dict[str, Any]
    _on_reward_error: str | None = None
    _on_nonfinite: str | None = None
    _heartbeat = Heartbeat("", 0, None)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._on_reward_error = getattr(self.args, "on_reward_error", None)
        self._on_nonfinite = getattr(self.args, "on_nonfinite", None)
        self._divergence = Divergence(self.accelerator.process_index, self.accelerator.device)
        self._heartbeat = Heartbeat(
            self.args.output_dir, self.accelerator.process_index, stall_timeout_s(self.args)
        )
        self._micro_batch: list[dict[str, Any]] = []
        """Rows of the micro-batch at hand, as completions.jsonl has them."""
        self._step_rows: list[dict[str, Any]] = []
        """Of all micro-batches of the step at hand."""
        if self._on_nonfinite == "skip" and self.is_deepspeed_enabled:
            raise ValueError(
                "on_nonfinite: skip cannot be had with DeepSpeed, which takes its step together with the gradients; "
                "set on_nonfinite: stop"
            )

    # -- life ---------------------------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Watched from here on; what fails leaves the ranks' files, and carries what they say."""
        if self._on_nonfinite is None:
            return super().train(*args, **kwargs)
        self._heartbeat.start()
        self._beat("start")
        try:
            result = super().train(*args, **kwargs)
        except BaseException as error:  # also a user's Ctrl-C in a notebook
            error.add_note(last_seen(self.args.output_dir))
            self._heartbeat.stop(keep=True)
            raise
        self._heartbeat.stop()
        return result

    def _beat(self, doing: str, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        self._heartbeat.beat(doing, self.state.global_step + 1, (row.get("row_id") for row in rows))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """May take long; a step's time starts anew."""
        self._beat("saving a checkpoint")
        super()._save_checkpoint(model, trial)
        self._beat("going on after a checkpoint")

    # -- rewards ------------------------------------------------------------------------------------------------

    def _calculate_rewards(
        self, inputs: list[Any], prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        """TRL 1.16 calls each function inside; what they do wrong is told after all ranks have met."""
        if self._on_reward_error is None:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        faults: list[RewardFault] = []
        plain = self.reward_funcs
        self.reward_funcs = [
            self._guard(function, name, faults, inputs).guarded()
            for function, name in zip(plain, self.reward_func_names, strict=True)
        ]
        try:
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        finally:
            self.reward_funcs = plain
        faults += self._faults_of_models(rewards, inputs)
        faults = gather_object(faults)
        if not faults and self.model.training and rewards.isnan().all():
            names = ", ".join(f"'{name}'" for name in self.reward_func_names)
            ids = gather_object([row.get("row_id") for row in inputs])
            faults = [RewardFault(names, "gave None for every completion", tuple(ids))]
        self._settle_rewards(faults)
        return torch.where(rewards.isfinite(), rewards, torch.nan)

    def _guard(
        self, function: Any, name: str, faults: list[RewardFault], inputs: Sequence[Mapping[str, Any]]
    ) -> RewardGuard:
        def begins() -> None:
            self._beat(f"reward '{name}'", inputs)

        timeout_s = getattr(function, "timeout_s", None) or self.args.reward_timeout_s
        abstains = self._on_reward_error == "abstain"
        return RewardGuard(
            function, name, timeout_s, abstains, self.accelerator.process_index, faults, begins
        )

    def _faults_of_models(self, rewards: Tensor, inputs: Sequence[Mapping[str, Any]]) -> list[RewardFault]:
        """Reward models cannot abstain: what they give has to be finite."""
        rank, n = self.accelerator.process_index, len(inputs)
        own = rewards[rank * n : (rank + 1) * n]
        found = []
        for k, (function, name) in enumerate(zip(self.reward_funcs, self.reward_func_names, strict=True)):
            if isinstance(function, nn.Module):
                bad = (~own[:, k].isfinite()).nonzero().flatten().tolist()
                ids = tuple(inputs[i].get("row_id", f"{i} of the batch") for i in bad)
                if ids:
                    found.append(RewardFault(name, f"gave {own[bad[0], k].item()}", ids, rank=rank))
        return found

    def _settle_rewards(self, faults: list[RewardFault]) -> None:
        """`faults` of all ranks, the same on each."""
        mode = "train" if self.model.training else "eval"
        for name in self.reward_func_names:
            n_failed = sum(len(fault.row_ids) for fault in faults if fault.reward == name)
            if n_failed:
                self._metrics[mode][f"rewards/{name}/errors"].append(float(n_failed))
        self._record(faults)
        if faults and self._on_reward_error == "stop":
            raise RewardError(
                _told(faults) + "\n" + self._advice("on_reward_error: abstain", "scores None there")
            )

    # -- numbers ------------------------------------------------------------------------------------------------

    def _remember_rows(self, output: dict[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
        """Send each row along with its completion, through TRL's shuffle, to the step that learns from it."""
        if self._on_nonfinite is not None and self.model.training:  # no step learns from an evaluation
            output[ROWS] = [json.dumps(line, default=str) for line in lines]
            self._micro_batch = [dict(line) for line in lines]
            mask = output["completion_mask"]
            for key in ("old_per_token_logps", "ref_per_token_logps"):
                if key in output:
                    self._divergence.look_at("log-probability", output[key], self._micro_batch, mask)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Looks at the loss; with DeepSpeed, whose backward pass also takes the step, ranks agree here."""
        if self._on_nonfinite is None or not model.training:
            return super()._compute_loss(model, inputs)
        self._micro_batch = [json.loads(line) for line in inputs.get(ROWS, ())]
        self._step_rows += self._micro_batch
        self._beat("training", self._micro_batch)
        loss = super()._compute_loss(model, inputs)
        self._divergence.look_at("loss", loss, self._micro_batch)
        if self.is_deepspeed_enabled:
            self._settle_numbers()
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **fields: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Looks at the log-probabilities that a step learns from."""
        values, entropies, aux_loss = super()._get_per_token_logps_and_entropies(
            model,
            input_ids,
            attention_mask,
            logits_to_keep,
            batch_size=batch_size,
            compute_entropy=compute_entropy,
            compute_aux_loss=compute_aux_loss,
            **fields,
        )
        if self._on_nonfinite is not None and values.requires_grad:
            mask = attention_mask[:, -logits_to_keep:]
            self._divergence.look_at("log-probability", values, self._micro_batch, mask)
        return values, entropies, aux_loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called once a step, between the last backward pass and the optimizer."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self._on_nonfinite is not None:
            # where fp16 scales the loss, gradients overflow now and then, and the scaler leaves the step out
            if norm is not None and getattr(self.accelerator, "scaler", None) is None:
                value = torch.as_tensor(norm, dtype=torch.float32)
                self._divergence.look_at(GRADIENT, value, self._step_rows)
            self._step_rows = []
            self._settle_numbers()
        return norm

    def _settle_numbers(self) -> None:
        """Stop, or leave the step out, on every rank or on none."""
        found = self._divergence.agreed()
        state = self._divergence
        if not found:
            state.in_a_row = 0
            return
        self._record(found)
        state.in_a_row += 1
        if self._on_nonfinite == "stop":
            raise NonFiniteError(
                _told(found) + "\n" + self._advice("on_nonfinite: skip", "leaves out such steps")
                + ". A lower learning_rate or max_grad_norm, or bf16 in place of fp16, may avoid it"
            )  # fmt: skip
        if state.in_a_row > self.args.max_nonfinite_steps:
            raise NonFiniteError(
                f"{_told(found)}\n{state.in_a_row} steps in a row were not finite, above max_nonfinite_steps "
                f"{self.args.max_nonfinite_steps}: the weights or the data are at fault; see faults.jsonl in "
                f"{self.args.output_dir}"
            )
        state.skipped += 1
        self._metrics["train"]["nonfinite_steps"].append(float(state.skipped))
        for parameter in self.model.parameters():
            parameter.grad = None  # optimizers pass over it: no step, no decay, no momentum

    # -- the record ---------------------------------------------------------------------------------------------

    def _record(self, faults: Sequence[RewardFault | NonFinite]) -> None:
        step = self.state.global_step + 1
        lines = [{"step": step, "time": time.time(), **fault.line()} for fault in faults]
        self.run_files.write_faults(lines, self.state)

    def _advice(self, setting: str, effect: str) -> str:
        return f"Written to {self.args.output_dir}/faults.jsonl; `{setting}` {effect} and goes on"


def stall_timeout_s(args: Any) -> float | None:
    """The setting; where there is none, what torch allows a collective, or nothing for a single process."""
    given = getattr(args, "stall_timeout_s", None)
    return given if given is not None or args.world_size == 1 else float(args.ddp_timeout)


def _told(faults: Sequence[RewardFault | NonFinite]) -> str:
    """The first few; the traceback of the first that has one."""
    shown = [str(fault) for fault in faults[:MOST_SHOWN]]
    if len(faults) > MOST_SHOWN:
        shown.append(f"... and {len(faults) - MOST_SHOWN} more")
    trace = next((fault.trace for fault in faults if isinstance(fault, RewardFault) and fault.trace), None)
    return "\n".join([*shown, *([trace.rstrip()] if trace else [])])
