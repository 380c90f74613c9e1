import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from omnirl_core.trainer.reward_stats import RewardScaleCallback, reward_scales

ARGS = SimpleNamespace(max_completion_length=64, multi_objective_aggregation="sum_then_normalize")


def test_spread_is_the_mean_standard_deviation_within_groups():
    rewards = np.random.default_rng(0).random((5, 4, 3))
    weights = [1.0, 0.5, 2.0]
    scales = reward_scales(torch.tensor(rewards), weights)
    expected = (rewards * weights).std(axis=1, ddof=1).mean(axis=0)
    np.testing.assert_allclose([scale.spread for scale in scales], expected)


def test_shares_decompose_the_variance_of_the_sum():
    rewards = np.random.default_rng(1).random((6, 8, 3))
    scales = reward_scales(torch.tensor(rewards), [1.0, 1.0, 1.0])
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    total = centred.sum(axis=-1)
    expected = [(centred[..., k] * total).sum() / (total**2).sum() for k in range(3)]
    np.testing.assert_allclose([scale.share for scale in scales], expected)
    assert sum(scale.share for scale in scales) == pytest.approx(1.0)


def test_a_reward_that_abstains_tells_only_where_it_judges():
    rewards = torch.tensor([[[0.0, math.nan], [1.0, math.nan]], [[0.0, 0.2], [0.0, 0.4]]])
    first, second = reward_scales(rewards, [1.0, 1.0])
    assert first.spread == pytest.approx(math.sqrt(0.5) / 2)
    assert second.spread == pytest.approx(0.2 / math.sqrt(2))
    nowhere = reward_scales(torch.full((2, 2, 1), math.nan), [1.0])[0]
    assert math.isnan(nowhere.spread)
    assert math.isnan(nowhere.share)


def test_weight_zero_is_for_watching():
    watched, driving = reward_scales(torch.rand(3, 4, 2), [0.0, 1.0])
    assert math.isnan(watched.spread)
    assert driving.share == pytest.approx(1.0)


@pytest.fixture
def diagnosed(caplog):
    def run(lines, patience=5, args=ARGS, start=0):
        doctor = RewardScaleCallback(patience=patience)
        doctor.on_train_begin(args, SimpleNamespace(global_step=start), None)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            for step, line in enumerate(lines, start + 1):
                state = SimpleNamespace(global_step=step, is_world_process_zero=True)
                doctor.on_log(args, state, None, logs={"completions/clipped_ratio": 0.0, **line})
        return [record.getMessage() for record in caplog.records]

    return run


def _line(loud=0.5, quiet=0.01, clipped=0.0):
    return {
        "rewards/length/spread": loud, "rewards/length/share": 0.97, "rewards/length/mean": 0.4,
        "rewards/answer/spread": quiet, "rewards/answer/share": 0.03, "rewards/answer/mean": 0.2,
        "completions/clipped_ratio": clipped,
    }  # fmt: skip


def test_a_healthy_run_hears_nothing(diagnosed):
    assert diagnosed([_line(0.1, 0.2)] * 30) == []


def test_a_drowned_reward_is_said_once(diagnosed):
    [message] = diagnosed([_line()] * 30)
    assert "'length' spreads 50 times as wide within a group as 'answer' (0.5 against 0.01" in message
    assert "makes 97% of the advantage" in message


def test_normalised_rewards_cannot_drown_each_other(diagnosed):
    gdpo = SimpleNamespace(max_completion_length=64, multi_objective_aggregation="normalize_then_sum")
    assert diagnosed([_line()] * 30, args=gdpo) == []


def test_a_constant_reward(diagnosed):
    lines = [_line(0.3, 0.0)] * 4 + [_line(0.3, 0.3)] + [_line(0.3, 0.0)] * 6
    [message] = diagnosed(lines)
    assert message.startswith("reward 'answer' gave all completions of a group the same value for 5 steps (mean 0.2)")


@pytest.mark.parametrize("spread", [0.0, 0.01])
def test_a_reward_at_its_top_is_learned_and_no_fault(diagnosed, spread):
    assert diagnosed([{**_line(0.3, spread), "rewards/answer/mean": 0.99}] * 30) == []


def test_a_reward_on_a_scale_of_hundreds_is_not_taken_for_learned(diagnosed):
    line = {"rewards/length/spread": 60.0, "rewards/length/mean": 400.0, "rewards/exact/spread": 0.2}
    (message,) = diagnosed([line] * 5)
    assert "reward 'length' spreads 300 times as wide within a group as 'exact'" in message


def test_clipped_completions(diagnosed):
    lines = [_line(0.1, 0.1)] * 9 + [_line(0.1, 0.1, clipped=0.5)] * 11
    [message] = diagnosed(lines)
    assert message.startswith("30% of the completions of the last 5 steps were cut at max_completion_length 64")
    assert "mask_truncated_completions" in message


@pytest.mark.parametrize("start", [0, 300])
def test_clipped_completions_of_a_short_run_are_reported_at_its_second_logged_step(diagnosed, start):
    ratios = [0.96, 0.33, 0.5, 0.4]
    assert diagnosed([_line(0.1, 0.1, clipped=ratios[0])], patience=20, start=start) == []
    lines = [_line(0.1, 0.1, clipped=ratio) for ratio in ratios * 3]
    for n_lines in (2, 12):
        [message] = diagnosed(lines[:n_lines], patience=20, start=start)
        assert message.startswith("64% of the completions of the last 2 steps were cut")


def test_too_early_and_just_resumed_say_nothing(diagnosed):
    assert diagnosed([_line()] * 4) == []
    assert diagnosed([_line()] * 4, start=300) == []


def test_other_lines_of_the_log_are_passed_over(diagnosed):
    doctor = RewardScaleCallback(patience=1)
    doctor.on_log(ARGS, SimpleNamespace(global_step=9), None, logs={"train_runtime": 3.0})
    assert doctor._window == []


def test_a_run_logs_spread_and_share(trainer, rows):
    def fine(completions, **columns):
        return [len(c[0]["content"]) / 7 for c in completions]

    def flat(completions, **columns):
        return [1.0 for _ in completions]

    worker = trainer(rows, [fine, flat], scripted=True, per_device_train_batch_size=12, reward_weights=[1.0, 2.0])
    worker.train()
    line = worker.state.log_history[0]
    assert line["rewards/fine/spread"] > 0
    assert line["rewards/flat/spread"] == 0
    assert line["rewards/fine/share"] == pytest.approx(1.0)
