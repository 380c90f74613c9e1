"""Callbacks of a run: its log files, the progress bar, the time of a step by phase, and the end by a signal."""

import json
import math
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerControl, TrainerState

from omnirl_core.trainer.fault_tolerance.checkpoint_storage import write_error
from omnirl_core.types import Line

METRICS, COMPLETIONS, FAULTS = "metrics.jsonl", "completions.jsonl", "faults.jsonl"
EVAL_METRICS, EVAL_COMPLETIONS = "eval_metrics.jsonl", "eval_completions.jsonl"
"""What `evaluate()` without `train()` writes in place of the first two: those are a run's, which may be resumed."""
MOST_FAULTS = 1000
"""Lines that faults.jsonl gets from one process: a reward that fails on every sample says nothing new after that."""


class JsonlLogger(TrainerCallback):
    """Appends what TRL logs, and every completion with its rewards, to the run's folder line by line.

    A new run puts the files of an earlier one aside (`metrics.old.jsonl`); a resumed one continues them, less
    what an earlier process wrote after the checkpoint, and its first line of metrics says where and when it went on
    (`resumed`). A trainer that only evaluates leaves them alone, and appends to `eval_metrics.jsonl` and
    `eval_completions.jsonl`. A file that would become larger than `most_mb` is begun anew, and the one before kept as
    `completions.1.jsonl`, so that no file takes more than twice of it.
    """

    def __init__(self, folder: str | os.PathLike[str], most_mb: float = math.inf):
        self.folder = Path(folder)
        self.most_bytes = most_mb * 1e6
        self._started = False
        self._n_faults = 0
        self._resumed: dict[str, Any] = {}

    def on_train_begin(self, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        if state.is_world_process_zero:
            self._start(state.global_step)
        if state.global_step:
            self._resumed = {"resumed": {"step": state.global_step, "time": time.time()}}

    def on_log(self, args: object, state: TrainerState, *_: object, logs: dict | None = None, **__: object) -> None:
        if state.is_world_process_zero and logs:
            line = {"step": state.global_step, "time": time.time(), **self._resumed, **logs}
            self._append(METRICS if self._started else EVAL_METRICS, [as_json(line)])
            self._resumed = {}

    def write_completions(self, lines: Iterable[str], state: TrainerState) -> None:
        """Lines of `completion_lines` `as_json`, of all ranks; only the first rank writes."""
        if state.is_world_process_zero:
            self._append(COMPLETIONS if self._started else EVAL_COMPLETIONS, lines)

    def write_faults(self, lines: Sequence[Line], state: TrainerState) -> None:
        """Errors of the step at hand: lines with a `kind`, the samples, and what they hold."""
        lines = lines[: MOST_FAULTS - self._n_faults]
        self._n_faults += len(lines)
        if lines and state.is_world_process_zero:
            now = {"step": state.global_step + 1, "time": time.time()}
            self._append(FAULTS, [as_json(now | line) for line in lines])

    def _append(self, name: str, lines: Iterable[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        text = "".join(line + "\n" for line in lines)
        try:
            if path.exists() and path.stat().st_size + len(text) > self.most_bytes:
                path.replace(_part_before(path))
            with open(path, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise write_error(path, error) from error

    def _start(self, step: int) -> None:
        if self._started:
            return
        self._started = True
        self.folder.mkdir(parents=True, exist_ok=True)
        files = [self.folder / name for name in (METRICS, COMPLETIONS, FAULTS)]
        for path in (*files, *map(_part_before, files)):
            if path.exists() and step:
                _keep_until(path, step)
            elif path.exists():
                path.replace(path.with_suffix(".old.jsonl"))


SHOWN = (
    ("reward", "reward"),
    ("completions/mean_length", "tokens"),
    ("completions/clipped_ratio", "clipped"),
    ("kl", "kl"),
)
"""Of the forty numbers of a log line those that a user watches, and what they are called there."""


class RewardProgress(ProgressCallback):
    """TRL's bar with the reward on it, in place of a line of forty numbers at every log; a line an evaluation."""

    shown: tuple[tuple[str, str], ...] = SHOWN

    def on_log(self, args: object, state: TrainerState, *_: object, logs: dict | None = None, **__: object) -> None:
        if self.training_bar is not None and logs and (shown := _shown(logs, self.shown)):
            self.training_bar.set_postfix(shown, refresh=True)
        if state.is_world_process_zero and logs and (line := _evaluation(logs, self.shown, state)):
            tqdm.write(line)


class RewardLines(PrinterCallback):
    """A short line at every log, where no bar is wanted (`disable_tqdm`) and in notebooks."""

    shown: tuple[tuple[str, str], ...] = SHOWN

    def on_log(self, args: object, state: TrainerState, *_: object, logs: dict | None = None, **__: object) -> None:
        if state.is_local_process_zero and logs and (shown := _shown(logs, self.shown)):
            values = "  ".join(f"{label} {value:<6}" for label, value in shown.items())
            print(f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}  {values}".rstrip())
        if state.is_local_process_zero and logs and (line := _evaluation(logs, self.shown, state)):
            print(line)


def in_place_of(
    callback: type[TrainerCallback],
    bar: type[TrainerCallback] = RewardProgress,
    lines: type[TrainerCallback] = RewardLines,
) -> type[TrainerCallback] | None:
    """What shows a run's progress instead of the one that transformers has added; None for any other callback."""
    if callback is ProgressCallback:
        return bar
    if callback is PrinterCallback or callback.__name__ == "NotebookProgressCallback":  # which needs IPython
        return lines
    return None


def replace_progress(trainer: Trainer, **shown: type[TrainerCallback]) -> None:
    """Put `in_place_of` each of the trainer's callbacks what it names."""
    for callback in [type(callback) for callback in trainer.callback_handler.callbacks]:
        if replacement := in_place_of(callback, **shown):
            trainer.remove_callback(callback)
            trainer.add_callback(replacement())


def _part_before(path: Path) -> Path:
    return path.with_suffix(".1.jsonl")


def _keep_until(path: Path, step: int) -> None:
    beside = path.with_suffix(".part")
    with path.open(encoding="utf-8") as old, beside.open("w", encoding="utf-8") as new:
        new.writelines(line for line in old if _is_before(line, step))
    beside.replace(path)


def _is_before(line: str, step: int) -> bool:
    try:
        logged = json.loads(line)
        # a summary is the last line of a train(), which a resumed run has not come to yet
        return logged["step"] <= step and "train_runtime" not in logged
    except (ValueError, KeyError, TypeError):  # the half line of a killed run
        return False


def as_json(line: Line) -> str:
    """A line of a run's files: values of other types as text, NaN and infinities as null."""
    try:
        return json.dumps(line, ensure_ascii=False, default=str, allow_nan=False)
    except (ValueError, TypeError):  # a number that is not finite, or a key that is no text
        return json.dumps(_finite(line), ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    """NaN and infinities as null: they are no JSON, and browsers refuse a whole file for one."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(logs: Mapping[str, Any], names: Sequence[tuple[str, str]], prefix: str = "") -> dict[str, str]:
    found = ((label, logs.get(prefix + name)) for name, label in names)
    return {label: f"{x:.3g}" for label, x in found if isinstance(x, int | float) and math.isfinite(x)}


def _evaluation(logs: Mapping[str, Any], names: Sequence[tuple[str, str]], state: Any) -> str | None:
    """A line of an evaluation's result; None for any other log. Of several data sets each has its name."""
    shown = _shown(logs, names, "eval_")
    if not shown:
        return None
    name = next((key.removesuffix("_runtime") for key in logs if key.endswith("_runtime")), "eval")
    values = "  ".join(f"{label} {value:<6}" for label, value in shown.items())
    return f"{name.replace('_', ' ', 1)} at step {state.global_step}  {values}".rstrip()


ROLLOUT, SCORE, PREPARE, TRAIN = PHASES = ("rollout", "score", "prepare", "train")
"""Where the time of a step goes."""


class StepTimer(TrainerCallback):
    """Seconds of each optimizer step by phase, into the log as `time/rollout` and so on; their sum is the step.

    `rollout` is generation, `score` the rewards, `prepare` the rest of making a batch (images opened, log-probs
    of the old policy and the reference), `train` forward, backward and the optimizer. Each process times itself;
    the log is the first one's. A phase that a step does without (`num_iterations` above 1) counts 0.
    """

    def __init__(self, metrics: MutableMapping[str, list[float]]):
        self._metrics = metrics
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._inner = 0.0
        self._begun: float | None = None

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Count the time of the block under this phase, less what phases within it count."""
        begun, outer, self._inner = time.perf_counter(), self._inner, 0.0
        try:
            yield
        finally:
            whole = time.perf_counter() - begun
            self._spent[phase] += whole - self._inner
            self._inner = outer + whole

    def on_step_begin(self, *_: object, **__: object) -> None:
        self._begun = time.perf_counter()
        self._spent.clear()  # of an evaluation since the last step

    def on_step_end(self, *_: object, **__: object) -> None:
        if self._begun is None:
            return
        whole = time.perf_counter() - self._begun
        self._spent[TRAIN] = whole - sum(self._spent.values())
        for phase in PHASES:
            self._metrics[f"time/{phase}"].append(self._spent[phase])


SIGNALS = (signal.SIGTERM, signal.SIGINT)


class GracefulShutdown(TrainerCallback):
    """While it trains, the first signal asks for a checkpoint and the end; a second one ends the process at once.

    `enable_jit_checkpoint` of transformers 5.23 does so for SIGTERM on one process only, three seconds later, and
    also between the gradient and the step that it is for; a resumed run then draws other random numbers.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The signal that stopped the run, on whichever rank it came in."""
        self._received = 0
        self._replaced: dict[signal.Signals, Any] = {}

    def on_train_begin(self, *_: object, **__: object) -> None:
        if threading.current_thread() is threading.main_thread():  # Python takes handlers from no other
            self._replaced = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_step_end(self, args: object, state: object, control: TrainerControl, **kwargs: object) -> None:
        """Each rank asks the others at each step, so that no rank stops alone and leaves the others waiting."""
        received = torch.tensor([self._received], device=PartialState().device)
        agreed = int(gather(received).max())
        if agreed:
            self.signal = signal.Signals(agreed)
            control.should_save = control.should_training_stop = True

    def on_train_end(self, *_: object, **__: object) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, handler)
        self._replaced = {}

    def _receive(self, number: int, frame: Any) -> None:
        if self._received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received = number
