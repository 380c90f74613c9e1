"""Reward functions held to their contract: a finite number or None for each completion, in time.

TRL 1.16 lets what a function raises end one rank while the others wait for it, and takes NaN for an abstention.
"""

import asyncio
import logging
import math
import numbers
import signal
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from trl.trainer.utils import is_async_callable

from omnirl_core.text import completion_text
from omnirl_core.trainer.grpo_config import OmniGRPOConfig

logger = logging.getLogger(__name__)

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
    row_ids: tuple[Any, ...]
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

    def line(self) -> dict[str, Any]:
        """As faults.jsonl has it."""
        return {"kind": "reward", **asdict(self)}


@dataclass
class GuardedReward:
    """Calls one function as TRL does; what is wrong goes to `faults`, and None in its place to TRL.

    A function that raises or runs out of time on a batch is called again for one completion at a time, to find the
    row, and, where it should `abstain` there only, to score the others.
    """

    function: Callable[..., Any]
    name: str
    timeout_s: float | None
    abstains: bool
    rank: int
    faults: list[RewardFault]
    begins: Callable[[], None] = lambda: None
    """Called before each call."""

    def guarded(self) -> Callable[..., Any]:
        """What to give TRL in the function's place."""
        if isinstance(self.function, nn.Module):  # a reward model: TRL calls it otherwise
            return self.function
        if is_async_callable(self.function):

            async def judge(**columns: Any) -> list[float | None]:
                return await self._judge_later(columns)

            return judge
        return lambda **columns: self._judge(columns)

    def _judge(self, columns: dict[str, Any]) -> list[float | None]:
        n = len(columns["completions"])
        self.begins()
        try:
            values = in_time(lambda: self.function(**columns), self.timeout_s)
        except (Exception, RewardTimeout) as error:  # noqa: BLE001  a user's function may raise anything
            return self._one_by_one(columns, n, error)
        return self._checked(values, columns, n)

    async def _judge_later(self, columns: dict[str, Any]) -> list[float | None]:
        """As `_judge`; all completions alone are awaited at once, so that together they take one timeout at most."""
        n = len(columns["completions"])
        values, error = await in_time_later(self.function(**columns), self.timeout_s)
        if error is None:
            return self._checked(values, columns, n)
        samples = [_row(columns, i, n) for i in range(n)]
        alone = [in_time_later(self.function(**sample), self.timeout_s) for sample in samples]
        scores: list[float | None] = []
        known = len(self.faults)
        for i, (value, found) in enumerate(await asyncio.gather(*alone)):
            if found is None:
                scores += self._checked(value, samples[i], 1)
            else:
                self._add(_raised(found), columns, [i], found)
                scores.append(None)
        if len(self.faults) == known:
            self._add(f"{_raised(error)} (on no completion alone)", columns, range(n), error)
        return scores

    def _one_by_one(self, columns: dict[str, Any], n: int, first: BaseException) -> list[float | None]:
        scores: list[float | None] = []
        timeouts = 0
        known = len(self.faults)
        for i in range(n):
            if len(self.faults) > known and (not self.abstains or timeouts > 1):
                break
            self.begins()
            try:
                value = in_time(lambda: self.function(**_row(columns, i, n)), self.timeout_s)  # noqa: B023  called here
            except (Exception, RewardTimeout) as error:  # noqa: BLE001  as above
                timeouts += isinstance(error, RewardTimeout)
                self._add(_raised(error), columns, [i], error)
                scores.append(None)
            else:
                scores += self._checked(value, _row(columns, i, n), 1)
        if len(self.faults) == known:
            self._add(f"{_raised(first)} (on no completion alone)", columns, range(n), first)
        return scores + [None] * (n - len(scores))

    def _checked(self, values: Any, columns: dict[str, Any], n: int) -> list[float | None]:
        try:
            values = list(values)
        except TypeError:
            self._add(f"returned {values!r:.80} in place of {n} values", columns, range(n))
            return [None] * n
        if len(values) != n:
            self._add(f"returned {len(values)} values for {n} completions", columns, range(n))
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
        accelerator: of the run.
        args: with `on_reward_error`, `reward_timeout_s` and `output_dir`, where faults.jsonl is.
    """

    def __init__(self, accelerator: Accelerator, args: OmniGRPOConfig):
        self.accelerator = accelerator
        self.args = args
        self._found: list[RewardFault] = []

    def wrap(
        self, functions: Sequence[Any], names: Sequence[str], begins: Callable[[str], None]
    ) -> list[Callable[..., Any]]:
        """What to give TRL in place of the functions for one batch; `begins` is called with a name before each."""
        self._found = []
        return [
            self._guarded(function, name, partial(begins, name))
            for function, name in zip(functions, names, strict=True)
        ]

    def _guarded(self, function: Any, name: str, begins: Callable[[], None]) -> Callable[..., Any]:
        seconds = getattr(function, "timeout_s", None) or self.args.reward_timeout_s
        abstains, rank = self.args.on_reward_error == "abstain", self.accelerator.process_index
        return GuardedReward(function, name, seconds, abstains, rank, self._found, begins).guarded()

    def errors(
        self,
        rewards: Tensor,
        functions: Sequence[Any],
        names: Sequence[str],
        samples: Sequence[Mapping[str, Any]],
        needs_one: bool,
    ) -> list[RewardFault]:
        """What went wrong with a batch on any rank, the same list on each.

        Args:
            rewards: (ranks*B*G, K), with NaN for None.
            functions: the K reward functions or models.
            names: theirs.
            samples: of this rank.
            needs_one: a batch that no function judges is an error.
        """
        faults = gather_object([*self._found, *self._of_models(rewards, functions, names, samples)])
        if not faults and needs_one and rewards.isnan().all():
            ids = gather_object([sample.get("row_id") for sample in samples])
            all_names = ", ".join(f"'{name}'" for name in names)
            faults = [RewardFault(all_names, "gave None for every completion", tuple(ids))]
        return faults

    def _of_models(
        self,
        rewards: Tensor,
        functions: Sequence[Any],
        names: Sequence[str],
        samples: Sequence[Mapping[str, Any]],
    ) -> list[RewardFault]:
        """Reward models cannot abstain: what they give has to be finite."""
        rank, n = self.accelerator.process_index, len(samples)
        own = rewards[rank * n : (rank + 1) * n]
        found = []
        for k, (function, name) in enumerate(zip(functions, names, strict=True)):
            if isinstance(function, nn.Module):
                bad = (~own[:, k].isfinite()).nonzero().flatten().tolist()
                ids = tuple(samples[i].get("row_id", f"{i} of the batch") for i in bad)
                if ids:
                    found.append(RewardFault(name, f"gave {own[bad[0], k].item()}", ids, rank=rank))
        return found

    @staticmethod
    def counts(faults: Sequence[RewardFault], names: Sequence[str]) -> dict[str, float]:
        """Completions that each reward failed on, by the name of the metric; only of those that failed."""
        found = {name: sum(len(fault.row_ids) for fault in faults if fault.reward == name) for name in names}
        return {f"rewards/{name}/errors": float(n) for name, n in found.items() if n}

    def raise_unless_abstaining(self, faults: Sequence[RewardFault]) -> None:
        if faults and self.args.on_reward_error == "stop":
            raise RewardError(
                f"{listed(faults)}\n{written_to(self.args)}; `on_reward_error: abstain` scores None there and "
                "goes on"
            )


def listed(errors: Sequence[Any]) -> str:
    """The first few; the traceback of the first that has one."""
    shown = [str(error) for error in errors[:MOST_SHOWN]]
    if len(errors) > MOST_SHOWN:
        shown.append(f"... and {len(errors) - MOST_SHOWN} more")
    trace = next((e.trace for e in errors if isinstance(e, RewardFault) and e.trace), None)
    return "\n".join([*shown, *([trace.rstrip()] if trace else [])])


def written_to(args: OmniGRPOConfig) -> str:
    return f"Written to {args.output_dir}/faults.jsonl"


def guarded_scores(
    reward: Callable[..., Any],
    *,
    timeout_s: float | None = None,
    on_error: str = "stop",
    rank: int = 0,
    **columns: Any,
) -> list[float | None]:
    """The reward's values, held to the contract that it has in training.

    Raises:
        RewardError: it broke the contract, and `on_error` is not `abstain`, which gives None there and warns.
    """
    faults: list[RewardFault] = []
    name = str(getattr(reward, "__name__", reward))
    seconds = getattr(reward, "timeout_s", None) or timeout_s
    guard = GuardedReward(reward, name, seconds, on_error == "abstain", rank, faults)
    scores = guard.guarded()(**columns)
    if faults:
        shown = [str(fault) for fault in faults[:MOST_SHOWN]]
        shown += [f"... and {len(faults) - MOST_SHOWN} more"] * (len(faults) > MOST_SHOWN)
        message = "held-out samples: " + "\n".join(shown)
        if on_error != "abstain":
            remedy = "fix the function, or set on_reward_error: abstain, which scores None there"
            raise RewardError(
                "\n".join([message, remedy, *([faults[0].trace.rstrip()] if faults[0].trace else [])])
            )
        logger.warning("%s", message)
    return scores


def in_time(function: Callable[[], Any], seconds: float | None) -> Any:
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


async def in_time_later(awaitable: Awaitable[Any], seconds: float | None) -> tuple[Any, BaseException | None]:
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


def _interrupted(function: Callable[[], Any], seconds: float) -> Any:
    def expire(number: int, frame: Any) -> None:
        raise RewardTimeout(f"took longer than its timeout_s {seconds:g}")

    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, expire)
    remaining, interval = signal.setitimer(
        signal.ITIMER_REAL, seconds, 1.0
    )  # again, if a bare except swallows it

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


def _row(columns: dict[str, Any], i: int, n: int) -> dict[str, Any]:
    """The columns of one completion; what a second call logs would be logged twice."""
    row = {
        name: value[i : i + 1] if isinstance(value, list) and len(value) == n else value
        for name, value in columns.items()
    }
    silent = {name: _nothing for name in ("log_extra", "log_metric") if name in row}
    return row | silent


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


def _raised(error: BaseException) -> str:
    if isinstance(error, RewardTimeout):
        return str(error)
    said = f": {error!s:.{SHOWN}}" if str(error) else ""
    return f"raised {type(error).__name__}{said}"
