"""Reward functions held to their contract: a finite number or None for each completion, in time.

TRL 1.16 lets what a function raises end one rank while the others wait for it, and takes NaN for an abstention.
"""

import asyncio
import math
import numbers
import signal
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from trl import GRPOConfig
from trl.trainer.grpo_trainer import RewardFunc
from trl.trainer.utils import is_async_callable

from omnirl_core.text import completion_text
from omnirl_core.types import Line, Sample

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

T = TypeVar("T")

MOST_SHOWN = 5
"""Most breaches in a message."""
SHOWN = 300
"""Most characters of a completion or solution in a message."""


class RewardTimeout(BaseException):
    """A reward function took longer than its timeout_s. No Exception, so that its own `except` does not swallow it."""


class RewardError(RuntimeError):
    """A reward function broke its contract; names function, row and value."""


@dataclass(frozen=True)
class RewardFault:
    """One breach: what the function did, and on which rows; picklable, so that ranks can tell each other."""

    reward: str
    what: str
    """What it did, as in "returned nan"."""
    row_ids: tuple[object, ...]
    completion: str | None = None
    """Of the row, where it is one."""
    solution: str | None = None
    trace: str | None = None
    rank: int = 0

    def __str__(self) -> str:
        if len(self.row_ids) == 1:
            value = f"completion {self.completion!r:.{SHOWN}}, solution {self.solution or '':.{SHOWN}}"
            rows = f"row {self.row_ids[0]!r} ({value})"
        else:
            rows = f"a batch of {len(self.row_ids)} completions, of rows {sorted({str(x) for x in self.row_ids})}"
        return f"reward '{self.reward}' {self.what} on {rows}, rank {self.rank}"

    def line(self) -> Line:
        """As faults.jsonl has it."""
        return {"kind": "reward", **asdict(self)}


@dataclass
class GuardedReward:
    """Calls one function as TRL does; what is wrong goes to `faults`, and None in its place to TRL.

    A function that raises or runs out of time on a batch is called again for one completion at a time, to find the
    row, and, where it should `abstain` there only, to score the others.
    """

    function: RewardFunc
    name: str
    timeout_s: float | None
    """Most seconds of a call, unless the function has a `timeout_s` of its own."""
    abstains: bool
    rank: int
    faults: list[RewardFault]
    begins: Callable[[], None] = lambda: None
    """Called before each call."""

    def guarded(self) -> RewardFunc:
        """What to give TRL in the function's place."""
        if isinstance(self.function, nn.Module):  # a reward model: TRL calls it otherwise
            return self.function
        if is_async_callable(self._function):

            async def judge(**columns: Any) -> list[float | None]:
                return await self._judge_later(columns)

            return cast(RewardFunc, judge)
        return lambda **columns: self._judge(columns)

    def _judge(self, columns: dict[str, Any]) -> list[float | None]:
        values, error = self._call(columns)
        if error is None:
            return self._checked(values, columns)
        scores: list[float | None] = []
        n, known, timeouts = len(columns["completions"]), len(self.faults), 0
        for i in range(n):
            if len(self.faults) > known and (not self.abstains or timeouts > 1):
                break
            value, found = self._call(_row(columns, i))
            timeouts += isinstance(found, RewardTimeout)
            scores += self._alone(value, found, columns, i)
        self._blame(error, columns, known)
        return scores + [None] * (n - len(scores))

    async def _judge_later(self, columns: dict[str, Any]) -> list[float | None]:
        """As `_judge`; all completions alone are awaited at once, so that together they take one timeout at most."""
        values, error = await in_time_later(self._function(**columns), self._seconds)
        if error is None:
            return self._checked(values, columns)
        known = len(self.faults)
        samples = [_row(columns, i) for i in range(len(columns["completions"]))]
        alone = [in_time_later(self._function(**sample), self._seconds) for sample in samples]
        scores: list[float | None] = []
        for i, (value, found) in enumerate(await asyncio.gather(*alone)):
            scores += self._alone(value, found, columns, i)
        self._blame(error, columns, known)
        return scores

    @property
    def _function(self) -> Callable[..., Any]:
        return cast(Callable[..., Any], self.function)

    @property
    def _seconds(self) -> float | None:
        return getattr(self.function, "timeout_s", None) or self.timeout_s

    def _call(self, columns: dict[str, Any]) -> tuple[Any, BaseException | None]:
        """What the function gives, or what it raised."""
        self.begins()
        try:
            return in_time(lambda: self._function(**columns), self._seconds), None
        except (Exception, RewardTimeout) as error:  # noqa: BLE001  a user's function may raise anything
            return None, error

    def _alone(self, value: Any, error: BaseException | None, columns: dict[str, Any], i: int) -> list[float | None]:
        """The score of completion i, called alone, in a list of one."""
        if error is None:
            return self._checked(value, _row(columns, i))
        self._add(_raised(error), columns, [i], error)
        return [None]

    def _blame(self, error: BaseException, columns: dict[str, Any], known: int) -> None:
        """Blame the batch where none of its completions has failed alone: the faults are still the `known` ones."""
        if len(self.faults) == known:
            rows = range(len(columns["completions"]))
            self._add(f"{_raised(error)} (on no completion alone)", columns, rows, error)

    def _checked(self, values: Any, columns: dict[str, Any]) -> list[float | None]:
        n = len(columns["completions"])
        try:
            values = list(values)
            wrong = f"returned {len(values)} values for {n} completions" if len(values) != n else None
        except TypeError:
            wrong = f"returned {values!r:.80} in place of {n} values"
        if wrong:
            self._add(wrong, columns, range(n))
            return [None] * n
        scores: list[float | None] = []
        for i, value in enumerate(values):
            score = value.item() if hasattr(value, "item") else value
            is_number = isinstance(score, numbers.Real) and math.isfinite(score)
            if score is not None and not is_number:
                self._add(f"returned {score!r:.80}", columns, [i])
            scores.append(float(score) if is_number else None)
        return scores

    def _add(
        self, what: str, columns: dict[str, Any], rows: Sequence[int], error: BaseException | None = None
    ) -> None:
        ids = columns.get("row_id") or [f"{i} of the batch" for i in range(len(columns["completions"]))]
        completion = solution = None
        if len(rows) == 1:
            completion = completion_text(columns["completions"][rows[0]])
            solution = repr((columns.get("solution") or [None] * len(ids))[rows[0]])
        trace = None if error is None else "".join(traceback.format_exception(error))
        at = tuple(ids[i] for i in rows)
        self.faults.append(RewardFault(self.name, what, at, completion, solution, trace, self.rank))


class RewardGuard:
    """Holds all reward functions of a run to their contract; what one rank finds, all ranks raise.

    Args:
        trainer: OmniGRPOTrainer, whose settings have `on_reward_error`, `reward_timeout_s` and `output_dir`, where
            faults.jsonl is.
    """

    def __init__(self, trainer: "OmniGRPOTrainer"):
        self._trainer = trainer
        self._found: list[RewardFault] = []

    def wrap(
        self, functions: Sequence[RewardFunc], names: Sequence[str], begins: Callable[[str], None]
    ) -> list[RewardFunc]:
        """What to give TRL in place of the functions for one batch; `begins` is called with a name before each."""
        self._found = []
        settings, rank = self._trainer.settings, self._trainer.accelerator.process_index
        how = (settings.reward_timeout_s, settings.on_reward_error == "abstain", rank, self._found)
        return [
            GuardedReward(function, name, *how, partial(begins, name)).guarded()
            for function, name in zip(functions, names, strict=True)
        ]

    def checked(self, rewards: Tensor, samples: Sequence[Sample]) -> Tensor:
        """The rewards, NaN where they are not finite; raises, or counts and records, what went wrong on any rank.

        Args:
            rewards: (ranks*B*G, K), with NaN for None.
            samples: of this rank.
        """
        trainer, faults = self._trainer, self._faults(rewards, samples)
        metrics = trainer._metrics["train" if trainer.model.training else "eval"]
        for name in trainer.reward_func_names:  # completions that each reward failed on, only of those that failed
            if n_failed := sum(len(fault.row_ids) for fault in faults if fault.reward == name):
                metrics[f"rewards/{name}/errors"].append(float(n_failed))
        trainer.jsonl_logger.write_faults([fault.line() for fault in faults], trainer.state)
        if faults and trainer.settings.on_reward_error == "stop":
            remedy = "`on_reward_error: abstain` scores None there and goes on"
            raise RewardError(f"{listed(faults)}\n{written_to(trainer.args)}; {remedy}")
        return torch.where(rewards.isfinite(), rewards, torch.nan)

    def _faults(self, rewards: Tensor, samples: Sequence[Sample]) -> list[RewardFault]:
        """What went wrong with a batch on any rank, the same list on each; in training also that no function judges."""
        trainer, names = self._trainer, self._trainer.reward_func_names
        first = trainer.accelerator.process_index * len(samples)
        own = rewards[first : first + len(samples)].T  # (K, B*G)
        functions = zip(names, trainer.reward_funcs, own, strict=True)
        models = [(name, values) for name, function, values in functions if isinstance(function, nn.Module)]
        faults = gather_object([*self._found, *self._of_models(models, samples)])
        if not faults and trainer.model.training and rewards.isnan().all():
            ids = gather_object([sample.get("row_id") for sample in samples])
            all_names = ", ".join(f"'{name}'" for name in names)
            faults = [RewardFault(all_names, "gave None for every completion", tuple(ids))]
        return faults

    def _of_models(self, models: Sequence[tuple[str, Tensor]], samples: Sequence[Sample]) -> Iterator[RewardFault]:
        """Reward models cannot abstain: what each gives, (B*G,), has to be finite."""
        for name, values in models:
            bad = (~values.isfinite()).nonzero().flatten().tolist()
            if bad:
                ids = tuple(samples[i].get("row_id", f"{i} of the batch") for i in bad)
                what = f"gave {values[bad[0]].item()}"
                yield RewardFault(name, what, ids, rank=self._trainer.accelerator.process_index)


def listed(errors: Sequence[object], then: str | None = None) -> str:
    """The first few, a line each; what to do `then`; and the traceback of the first that has one."""
    shown = [str(error) for error in errors[:MOST_SHOWN]]
    if len(errors) > MOST_SHOWN:
        shown.append(f"... and {len(errors) - MOST_SHOWN} more")
    trace = next((e.trace.rstrip() for e in errors if isinstance(e, RewardFault) and e.trace), None)
    return "\n".join(line for line in (*shown, then, trace) if line)


def written_to(args: GRPOConfig) -> str:
    return f"Written to {args.output_dir}/faults.jsonl"


def in_time(function: Callable[[], T], seconds: float | None) -> T:
    """The function's value; RewardTimeout where it takes longer than `seconds`.

    Interrupted by an alarm in the main thread, where TRL calls rewards; elsewhere, or in C code that looks for no
    signals, it is noticed when the function returns.
    """
    if seconds is None:
        return function()
    start = time.monotonic()
    can_interrupt = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    value = _interrupted(function, seconds) if can_interrupt else function()
    if time.monotonic() - start > seconds:
        raise RewardTimeout(f"took longer than its timeout_s {seconds:g}")
    return value


async def in_time_later(awaitable: Awaitable[T], seconds: float | None) -> tuple[T | None, BaseException | None]:
    """The value of an asynchronous call, or what it raised; RewardTimeout where it takes longer than `seconds`.

    A TimeoutError or CancelledError of the function's own (a client that gave up) is what it raised.
    """
    task = asyncio.ensure_future(awaitable)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.cancel()
        await asyncio.wait({task}, timeout=1)  # a function may hold on to its task
        return None, RewardTimeout(f"took longer than its timeout_s {seconds:g}")
    if task.cancelled():
        return None, asyncio.CancelledError("the function cancelled its own task")
    error = task.exception()
    return (None, error) if error is not None else (task.result(), None)


def _interrupted(function: Callable[[], T], seconds: float) -> T:
    def expire(number: int, frame: Any) -> None:
        raise RewardTimeout(f"took longer than its timeout_s {seconds:g}")

    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, expire)
    # and each second again, where a bare except swallows it
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)

    def disarm() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if remaining:  # an alarm that was set before, as test runners do
            left = max(remaining - (time.monotonic() - start), 0.001)
            signal.setitimer(signal.ITIMER_REAL, left, interval)

    try:
        value = function()
        disarm()
    except BaseException:  # also an alarm between the last two lines
        disarm()
        raise
    return value


def _row(columns: dict[str, Any], i: int) -> dict[str, Any]:
    """The columns of one completion; what a second call logs would be logged twice."""
    n = len(columns["completions"])
    row = {
        name: value[i : i + 1] if isinstance(value, list) and len(value) == n else value
        for name, value in columns.items()
    }
    return row | {name: _log_nothing for name in ("log_extra", "log_metric") if name in row}


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    """In the place of TRL's `log_extra` and `log_metric`."""


def _raised(error: BaseException) -> str:
    if isinstance(error, RewardTimeout):
        return str(error)
    said = f": {error!s:.{SHOWN}}" if str(error) else ""
    return f"raised {type(error).__name__}{said}"
