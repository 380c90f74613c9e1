"""Non-finite losses, gradients and log-probabilities: a run stops before they reach the weights, or skips the step."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from accelerate.utils import gather, gather_object
from torch import Tensor

from omnirl_core.trainer.fault_tolerance.reward_guard import listed, written_to
from omnirl_core.types import Line, ModelInputs, Sample, Settings

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

GRADIENT = "gradient norm"
LINES = "rows_as_json"
"""Key of the samples, a line of JSON each, in what TRL buffers between rollout and training."""


@dataclass(frozen=True)
class NonFinite:
    """One non-finite value, and the samples of the micro-batch that it came from; picklable."""

    what: str
    """loss, gradient norm, or log-probability"""
    value: str
    rows: tuple[Sample, ...]
    """Lines as completions.jsonl has them: row, completion and rewards."""
    rank: int = 0

    def __str__(self) -> str:
        ids = sorted({str(row.get("row_id")) for row in self.rows})
        return f"{self.what} {self.value} on rank {self.rank}, rows {', '.join(ids) or 'unknown'}"

    def line(self) -> Line:
        """As faults.jsonl has it."""
        ids = [row.get("row_id") for row in self.rows]
        return {"kind": self.what, "value": self.value, "rank": self.rank, "row_ids": ids, "rows": list(self.rows)}


class NonFiniteError(RuntimeError):
    """A loss, gradient norm or log-probability is NaN or infinite; names the rank and the rows."""


class NonFiniteGuard:
    """Keeps non-finite values from the weights: every rank stops, or every rank leaves the step out.

    Args:
        trainer: OmniGRPOTrainer, whose settings have `on_nonfinite`, `max_nonfinite_steps` and `output_dir`, where
            faults.jsonl is.

    Raises:
        ValueError: `skip` with DeepSpeed.
    """

    def __init__(self, trainer: "OmniGRPOTrainer"):
        if trainer.settings.on_nonfinite == "skip" and trainer.is_deepspeed_enabled:
            raise ValueError(
                "on_nonfinite: skip cannot be had with DeepSpeed, which takes its step together with the gradients; "
                "set on_nonfinite: stop"
            )
        self._trainer = trainer
        self.in_a_row = 0
        """Steps left out since the last one that was taken."""
        self.skipped = 0
        self._micro_batch: Sequence[str] = ()
        """Samples of the micro-batch at hand, as completions.jsonl has them."""
        self._step_samples: list[str] = []
        self._found: list[NonFinite] = []

    def remember(self, output: ModelInputs, lines: Sequence[str]) -> None:
        """Send each sample's line of completions.jsonl, through TRL's shuffle, to the step that learns from it."""
        output[LINES] = self._micro_batch = list(lines)
        for key in ("old_per_token_logps", "ref_per_token_logps"):
            if key in output:
                self.check("log-probability", output[key], output["completion_mask"])

    def begin(self, inputs: Settings) -> None:
        """A micro-batch of the step at hand."""
        self._micro_batch = inputs.get(LINES, ())
        self._step_samples += self._micro_batch

    def check(self, what: str, values: Tensor, mask: Tensor | None = None) -> None:
        """Note the samples of `values` (), (B,) or (B, C) that are not finite where `mask` is 1."""
        self._check(what, values, self._micro_batch, mask)

    def check_gradient(self, norm: Tensor | float | None) -> None:
        """Note the step's samples where its gradient norm is not finite."""
        # where fp16 scales the loss, gradients overflow now and then, and the scaler leaves the step out
        if norm is not None and getattr(self._trainer.accelerator, "scaler", None) is None:
            self._check(GRADIENT, torch.as_tensor(norm, dtype=torch.float32), self._step_samples)
        self._step_samples = []

    def _check(self, what: str, values: Tensor, samples: Sequence[str], mask: Tensor | None = None) -> None:
        is_bad = ~values.detach().isfinite()
        if mask is not None:
            is_bad &= mask.bool()
        if not is_bad.any():
            return
        bad = values.detach()[is_bad][0].item()
        if is_bad.ndim and len(samples) == len(is_bad):
            per_sample = is_bad.flatten(1).any(1).tolist()
            samples = [sample for sample, is_one in zip(samples, per_sample, strict=True) if is_one]
        rows = tuple(map(json.loads, samples))
        self._found.append(NonFinite(what, str(bad), rows, self._trainer.accelerator.process_index))

    def agreed(self) -> list[NonFinite]:
        """What any rank has found since the last call, on every rank; a collective that all of them must reach."""
        found, self._found = self._found, []
        n_found = torch.tensor([len(found)], device=self._trainer.accelerator.device)
        if not int(gather(n_found).sum()):
            self.in_a_row = 0
            return []
        everywhere: list[NonFinite] = gather_object(found)
        causes = [one for one in everywhere if one.what != GRADIENT]
        return causes or everywhere  # a gradient that a loss has spoiled says nothing of its own

    def stop_or_skip(self) -> None:
        """Leave the step out, on every rank or on none; NonFiniteError where the run is to stop."""
        found = self.agreed()
        if not found:
            return
        trainer, settings = self._trainer, self._trainer.settings
        trainer.jsonl_logger.write_faults([one.line() for one in found], trainer.state)
        self.in_a_row += 1
        if settings.on_nonfinite == "stop":
            raise NonFiniteError(
                f"{listed(found)}\n{written_to(trainer.args)}; `on_nonfinite: skip` leaves out such steps and goes "
                "on. A lower learning_rate or max_grad_norm, or bf16 in place of fp16, may avoid it"
            )
        if self.in_a_row > settings.max_nonfinite_steps:
            raise NonFiniteError(
                f"{listed(found)}\n{self.in_a_row} steps in a row were not finite, above max_nonfinite_steps "
                f"{settings.max_nonfinite_steps}: the weights or the data are at fault; see faults.jsonl in "
                f"{settings.output_dir}"
            )
        self.skipped += 1
        trainer._metrics["train"]["nonfinite_steps"].append(float(self.skipped))
        for parameter in trainer.model.parameters():
            parameter.grad = None  # optimizers pass over it: no step, no decay, no momentum
