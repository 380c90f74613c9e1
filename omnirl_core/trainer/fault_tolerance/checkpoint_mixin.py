"""What a trainer overrides so that a run that is killed at any moment resumes as if it had not been."""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, is_peft_model
from safetensors import SafetensorError
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from omnirl_core.trainer.fault_tolerance.checkpoint_storage import (
    REFERENCE,
    STATE,
    UNFINISHED,
    abandon_later,
    has_full_weights,
    pickled_weights,
    publish,
    restore_reference,
    restore_weights,
    save_reference,
    write_error,
)
from omnirl_core.trainer.fault_tolerance.watchdog import Watchdog
from omnirl_core.trainer.shared_prefix.packing import Prompt

logger = logging.getLogger(__name__)


class RestoredWeights(Trainer):
    """Trainer of transformers 5.23 restores no weight of a vision-language model; see `restore_weights`."""

    model: Any
    _is_vlm: bool

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if fault := pickled_weights(resume_from_checkpoint):
            raise ValueError(fault)
        if self._loads_full_weights(resume_from_checkpoint):
            restore_weights(self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        """As `_load_from_checkpoint`."""
        best = self.state.best_model_checkpoint
        if not self.is_deepspeed_enabled and self._loads_full_weights(best):
            restore_weights(self.model, best)
        else:
            super()._load_best_model()

    def _loads_full_weights(self, folder: str | None) -> bool:
        plain = not is_peft_model(self.model) and not self.is_fsdp_enabled
        return self._is_vlm and plain and has_full_weights(folder)


class CheckpointMixin(RestoredWeights, GRPOTrainer):
    """What concerns checkpoints; it changes nothing of a run that nothing disturbs."""

    args: Any
    model: Any
    watchdog: Watchdog | None = None
    _step: int
    _saving_in: Path | None = None

    def _ping(self, doing: str, samples: Sequence[Mapping[str, Any]] = ()) -> None:
        """Tell the watchdog, where there is one, what begins now."""
        if self.watchdog is not None:
            ids = (sample.get("row_id") for sample in samples)
            self.watchdog.ping(doing, self.state.global_step + 1, ids)

    # -- saving -------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """transformers 5.23 writes in place, so that a killed run leaves half a checkpoint under its full name."""
        self._ping("saving a checkpoint")
        run_folder = Path(self._get_output_dir(trial))
        final = run_folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        written = run_folder / UNFINISHED / final.name
        if self.args.should_save:
            shutil.rmtree(written.parent, ignore_errors=True)  # of a run that was killed here
        self.accelerator.wait_for_everyone()
        self._write_checkpoint(model, trial, written, final)
        self.accelerator.wait_for_everyone()  # no name before every rank has written
        if self.accelerator.is_main_process:
            publish(written, final)
        self.accelerator.wait_for_everyone()
        # the first rank has moved it, but on nodes without a shared file system there are their own ranks' files
        if self.accelerator.is_local_main_process and written.exists():
            publish(written, final)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self._delete_old(run_folder)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))
        self._ping("going on after a checkpoint")

    def _write_checkpoint(self, model: Any, trial: Any, written: Path, final: Path) -> None:
        """All files of a checkpoint, in the temporary folder; a push waits for its name."""
        pushes, self.args.push_to_hub = self.args.push_to_hub, False
        self._saving_in = written.parent
        try:
            super()._save_checkpoint(model, trial)
            if self.state.best_model_checkpoint == str(written):
                self.state.best_model_checkpoint = str(final)
                if self.args.should_save:
                    self.state.save_to_json(str(written / STATE))
            if not self.args.save_only_model:
                self._save_cycle(written)
                self._save_reference(written)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have no OSError
            described = write_error(final, error)
            shutil.rmtree(written.parent, ignore_errors=True)
            if described is error:
                raise
            raise described from error
        finally:
            self._saving_in = None
            self.args.push_to_hub = pushes

    def _delete_old(self, run_folder: Path) -> None:
        """`save_total_limit`, counted by step: times of files say little on many file systems."""
        rotate_checkpoints(
            output_dir=str(run_folder),
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
        )

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saving_in) if self._saving_in is not None else super()._get_output_dir(trial)

    # -- the generation cycle -----------------------------------------------------------------------------------

    @property
    def _is_within_cycle(self) -> bool:
        """Whether steps are left that learn from completions already drawn."""
        return self._step % (self.args.steps_per_generation * self.num_iterations) != 0

    def _save_cycle(self, folder: Path) -> None:
        """TRL 1.16 keeps its place among the steps of a generation batch, and the batch, in memory only.

        A run resumed there would draw new completions, and out of step from then on.
        """
        if self._is_within_cycle:
            folder.mkdir(parents=True, exist_ok=True)
            state = {"step": self._step, "batches": self._buffered_inputs, **self._cycle_shape}
            torch.save(state, folder / self._cycle_file)

    @property
    def _cycle_shape(self) -> dict[str, int]:
        """What has to be the same for a run to go on within a generation batch of another."""
        args = self.args
        return {
            "processes": self.accelerator.num_processes,
            "per_device_train_batch_size": args.per_device_train_batch_size,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
            "steps_per_generation": args.steps_per_generation,
            "num_generations": args.num_generations,
            "num_iterations": args.num_iterations,
        }

    @property
    def _cycle_file(self) -> str:
        return f"generation_batch_{self.accelerator.process_index}.pt"

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Called once on a resume, for every engine; restores the generation cycle too."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        run_folder = Path(self._get_output_dir(None))
        if self.args.should_save and Path(checkpoint).resolve().parent == run_folder.resolve():
            abandon_later(run_folder, self.state.global_step)
            self._delete_old(run_folder)  # a run may have been killed just before it did
        self._restore_reference(Path(checkpoint))
        state = self._read_cycle(Path(checkpoint) / self._cycle_file)
        # where it differs on one rank, all draw: one that draws alone would wait for the others forever
        obstacles = [found for found in gather_object([self._cycle_obstacle(state)]) if found is not None]
        if not obstacles:
            self._step, self._buffered_inputs = state["step"], state["batches"]
            return
        self._step = self.state.global_step * self.args.gradient_accumulation_steps
        if state or self._is_within_cycle:
            message = "%s %s: the steps that were left of its generation batch learn from new completions"
            logger.warning(message, checkpoint, obstacles[0])
            self._step = 0  # a new generation batch begins

    def _cycle_obstacle(self, state: dict[str, Any]) -> str | None:
        """Why this rank cannot go on with the completions of the checkpoint; None where it can."""
        if not state:
            return f"holds no {self._cycle_file}"
        differ = [
            f"{name} {state.get(name, 'unknown')} where this run has {value}"
            for name, value in self._cycle_shape.items()
            if state.get(name) != value
        ]
        return f"was saved within a generation batch with {', '.join(differ)}" if differ else None

    def _read_cycle(self, path: Path) -> dict[str, Any]:
        if not path.exists():
            return {}
        device = self.accelerator.device
        place = "cpu" if device.type == "cpu" else device  # a rank's CPU is cpu:0, which torch cannot read to
        # checkpoints of before the trainer's modules were renamed have the second name
        with torch.serialization.safe_globals([Prompt, (Prompt, "omnirl_core.trainer.shared_prefix.Prompt")]):
            return torch.load(path, map_location=place, weights_only=True)

    # -- the reference model ------------------------------------------------------------------------------------

    def _save_reference(self, folder: Path) -> None:
        """TRL 1.16 keeps a reference model that follows the policy (`sync_ref_model`) in memory only."""
        if self.args.sync_ref_model:
            model = self.accelerator.unwrap_model(self.ref_model)
            save_reference(model, folder / REFERENCE, self.args.should_save)

    def _restore_reference(self, checkpoint: Path) -> None:
        if not self.args.sync_ref_model:
            return
        if (checkpoint / REFERENCE).exists():
            restore_reference(self.accelerator.unwrap_model(self.ref_model), checkpoint / REFERENCE)
        else:
            logger.warning(
                f"{checkpoint} holds no {REFERENCE}: sync_ref_model goes on from the reference that the run began "
                "with, and kl is not the uninterrupted run's"
            )

    def _run_epoch(self, **kwargs: Any) -> None:  # type: ignore[override]  # Trainer calls it by name
        """transformers 5.23 looks whether a run has ended only after a step, so a finished one would take another."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(**kwargs)
        else:
            self.control.should_training_stop = True

    # -- samples -----------------------------------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Any = None) -> "EpochSampler":
        """TRL 1.16's sampler forgets on resume which epoch it is in."""
        sampler: Any = super()._get_train_sampler(dataset)
        return EpochSampler(sampler)


class EpochSampler(Sampler[int]):
    """TRL's RepeatSampler, which shuffles anew each epoch, told which epoch it is in.

    TRL 1.16's own always begins with the first epoch's order, so that a run resumed in its second epoch would
    draw other samples than the uninterrupted one. An uninterrupted run draws what it draws with TRL.
    """

    def __init__(self, sampler: RepeatSampler):
        self.sampler = sampler

    def __iter__(self) -> Iterator[int]:
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer, through accelerate's loader, before each epoch."""
        generator = getattr(self.sampler, "generator", None)  # none where samples are not shuffled
        if generator is None or self.sampler.seed is None:
            return
        generator.manual_seed(self.sampler.seed)
        for _ in range(epoch):
            torch.randperm(self.sampler.num_samples, generator=generator)
