"""What a reward function does wrong is found, named with its row, and ends the run or abstains; never half of it."""

import asyncio
import pickle
import signal
import time

import pytest
import torch

from omnirl_core.rewards import load_rewards
from omnirl_core.trainer.fault_tolerance.reward_guard import GuardedReward, RewardTimeout, in_time

COLUMNS = {
    "prompts": ["p", "q", "r"], "completions": ["one", "two", "three"], "row_id": ["a:1", "a:2", "a:3"],
    "solution": ["1", "2", "3"], "trainer_state": object(),
}  # fmt: skip


def judge(function, abstains=False, timeout_s=None):
    faults = []
    guarded = GuardedReward(function, "mine", timeout_s, abstains, 0, faults).guarded()
    return guarded(**COLUMNS), faults


def raises(completions, **columns):
    return [1 / (c != "two") for c in completions]


def hangs(completions, **columns):
    while "two" in completions:
        pass
    return [0.5] * len(completions)


def swallows(completions, **columns):
    while "two" in completions:
        try:
            time.sleep(1)
        except Exception:  # noqa: BLE001  as users write
            return [0.0] * len(completions)
    return [0.5] * len(completions)


@pytest.mark.parametrize(
    ("function", "what", "rows", "abstained"),
    [
        (raises, "raised ZeroDivisionError: division by zero", ("a:2",), [1, None, 1]),
        (lambda completions, **c: [float("nan"), 1, 0][: len(completions)], "returned nan", ("a:1",), [None, 1, 0]),
        (lambda completions, **c: [1, float("inf"), 0], "returned inf", ("a:2",), [1, None, 0]),
        (lambda completions, **c: [1, "0.5", 0], "returned '0.5'", ("a:2",), [1, None, 0]),
        (lambda completions, **c: [1, 2], "returned 2 values for 3 completions", ("a:1", "a:2", "a:3"), [None] * 3),
        (lambda completions, **c: None, "returned None in place of 3 values", ("a:1", "a:2", "a:3"), [None] * 3),
        (lambda completions, **c: 1.0, "returned 1.0 in place of 3 values", ("a:1", "a:2", "a:3"), [None] * 3),
        (hangs, "took longer than its timeout_s 0.2", ("a:2",), [0.5, None, 0.5]),
        (swallows, "took longer than its timeout_s 0.2", ("a:2",), [0.5, None, 0.5]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("abstains", [False, True])
def test_what_is_wrong_is_named(function, what, rows, abstained, abstains):
    scores, faults = judge(function, abstains, timeout_s=0.2)
    assert [(fault.what, fault.row_ids) for fault in faults] == [(what, rows)]
    if abstains:
        assert scores == abstained
    reported = str(faults[0])
    assert "reward 'mine'" in reported
    assert "completion" in reported
    assert "rank 0" in reported
    if rows == ("a:2",):
        assert "row 'a:2' (completion 'two', solution '2')" in reported


@pytest.mark.parametrize("values", [[1, None, 0.5], (True, 0, 2), torch.tensor([1.0, 0.0, 0.5])])
def test_what_trl_takes_passes(values):
    scores, faults = judge(lambda **columns: values)
    assert not faults
    assert scores == [None if value is None else float(value) for value in values]


def test_a_batch_on_which_no_row_alone_fails():
    def together(completions, **columns):
        if len(completions) > 1:
            raise KeyError("together")
        return [1.0]

    scores, faults = judge(together, abstains=True)
    assert scores == [1.0, 1.0, 1.0]
    assert faults[0].what == "raised KeyError: 'together' (on no completion alone)"
    assert faults[0].row_ids == ("a:1", "a:2", "a:3")
    assert "in together" in faults[0].trace


def test_rows_that_all_hang_cost_three_timeouts_not_one_each():
    calls = []

    def always(completions, **columns):
        calls.append(completions)
        time.sleep(5)

    scores, faults = judge(always, abstains=True, timeout_s=0.05)
    assert scores == [None] * 3
    assert len(calls) == 3
    assert len(faults) == 2


async def slow(completions, **columns):
    await asyncio.sleep(5 if "two" in completions else 0)
    return [0.5] * len(completions)


async def not_finite(completions, **columns):
    return [float("nan") if text == "two" else 0.5 for text in completions]


async def gave_up(completions, **columns):
    if "two" in completions:
        raise TimeoutError("the judge's server did not answer")
    return [0.5] * len(completions)


async def cancels_itself(completions, **columns):
    if "two" in completions:
        asyncio.current_task().cancel()
        await asyncio.sleep(0)
    return [0.5] * len(completions)


@pytest.mark.parametrize(
    ("function", "timeout_s", "what"),
    [
        (slow, 0.1, "took longer than its timeout_s 0.1"),
        (not_finite, 0.1, "returned nan"),
        (gave_up, None, "raised TimeoutError: the judge's server did not answer"),
        (gave_up, 5.0, "raised TimeoutError: the judge's server did not answer"),
        (cancels_itself, None, "raised CancelledError: the function cancelled its own task"),
    ],
)
@pytest.mark.parametrize("abstains", [False, True])
def test_asynchronous_functions(function, timeout_s, what, abstains):
    faults = []
    guarded = GuardedReward(function, "mine", timeout_s, abstains, 0, faults).guarded()
    assert asyncio.run(guarded(**COLUMNS)) == [0.5, None, 0.5]
    assert [(fault.what, fault.row_ids) for fault in faults] == [(what, ("a:2",))]
    assert "row 'a:2' (completion 'two', solution '2')" in str(faults[0])
    assert pickle.loads(pickle.dumps(faults)) == faults


def test_an_asynchronous_function_that_fails_on_no_completion_alone():
    async def together(completions, **columns):
        if len(completions) > 1:
            raise TimeoutError
        return [1.0]

    faults = []
    guarded = GuardedReward(together, "mine", None, True, 0, faults).guarded()
    assert asyncio.run(guarded(**COLUMNS)) == [1.0, 1.0, 1.0]
    assert [(fault.what, len(fault.row_ids)) for fault in faults] == [
        ("raised TimeoutError (on no completion alone)", 3)
    ]
    assert "in together" in faults[0].trace


def test_an_alarm_that_was_set_before_still_rings():
    rung = []
    handler = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    before = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        assert in_time(lambda: 7, 5.0) == 7
        with pytest.raises(RewardTimeout):
            in_time(lambda: time.sleep(5), 0.05)
        time.sleep(0.4)
        assert rung == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
        signal.signal(signal.SIGALRM, handler)


def test_timeout_of_an_entry_in_rewards_yaml(tmp_path):
    path = tmp_path / "rewards.yaml"
    path.write_text("rewards:\n  - {name: think_format, timeout_s: 2.5}\n")
    assert load_rewards(path)[0].timeout_s == 2.5
    path.write_text("rewards:\n  - {name: think_format, timeout_s: 0}\n")
    with pytest.raises(ValueError, match=r"rewards.yaml:2: timeout_s: 0 is not above 0"):
        load_rewards(path)
