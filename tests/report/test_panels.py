"""What the curves show of a log."""

import json

import numpy as np
import pytest

from omnirl_tools.report.panels import Series, panels, read_metrics, smoothed, thinned, training_seconds


def titles(metrics) -> list[str]:
    return [panel.title for panel in panels(metrics)]


def test_panels_follow_the_log(run_folder):
    found = {panel.title: panel for panel in panels(read_metrics(run_folder))}
    assert list(found) == [
        "Reward", "exact", "Completion length", "Clipped completions", "Groups without signal", "Gradient norm",
        "Where the time goes", "Seconds per step",
    ]  # fmt: skip  # no KL: beta is 0 all along. No entropy: it is NaN all along
    (reward,) = found["Reward"].series
    assert reward.points[0] == (1, 1 / 40)
    assert (reward.low[0], reward.high[0]) == (
        1 / 40 - 0.2,
        1 / 40 + 0.2,
    )  # nothing tells how large it can be
    (exact,) = found["exact"].series
    assert [step for step, _ in exact.points] == list(range(1, 31, 2))  # steps without a judged row have no point
    (length,) = found["Completion length"].series
    assert (length.low[0], length.high[0]) == (10, 30)
    assert [series.label for series in found["Where the time goes"].series] == ["rollout", "score"]


def test_seconds_per_step_by_the_clock():
    times = [(1, 100.0), (2, 103.0), (4, 109.0), (5, 50.0), (6, 51.0)]  # step 5 comes from another machine
    (panel,) = panels([{"step": step, "time": time} for step, time in times])
    assert panel.series[0].points == ((2, 3.0), (4, 3.0), (6, 1.0))


def test_kl_is_shown_where_it_is_used():
    assert titles([{"step": 1, "kl": 0.0}, {"step": 2, "kl": 0.01}]) == ["KL to the reference"]


def test_the_gap_to_vllm_is_drawn_by_modality():
    logged = {"text": (0.001, 0.01, 1.0), "image": (0.2, 3.0, 0.9)}  # mean, largest, ratio
    names = ("logp_difference/mean", "logp_difference/max", "importance_ratio/mean")
    line: dict[str, float | None] = {"step": 1, "rollout/tokens_per_second": 40.0}
    for kind, values in logged.items():
        line |= {f"sampling/{kind}/{name}": value for name, value in zip(names, values, strict=True)}
    line |= {f"sampling/multi-image/{name}": None for name in names}  # no such sample
    mean, largest, ratio, speed = panels([line])
    assert [series.label for series in mean.series] == ["text", "image"]
    assert [series.points for series in largest.series] == [((1, 0.01),), ((1, 3.0),)]
    assert [series.points[0][1] for series in ratio.series] == pytest.approx([0.0, -0.1])
    assert [speed.title, *(panel.title for panel in (mean, largest, ratio))] == [
        "Rollout speed", "Gap to vLLM", "Largest gap to vLLM", "Importance ratio less 1",
    ]  # fmt: skip


def test_of_a_step_logged_twice_the_later_numbers_count(tmp_path):
    """A run resumed from step 2 logs step 3 again; evaluation and training log the same step apart."""
    lines = [{"step": 2, "reward": 0.2}, {"step": 3, "reward": 0.9}, {"step": 3, "eval_reward": 0.5}]
    lines += [{"step": 3, "reward": 0.3}, {"step": 4, "reward": 0.4}, {"train_runtime": 9.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_metrics(tmp_path) == [
        {"step": 2, "reward": 0.2},
        {"step": 3, "reward": 0.3, "eval_reward": 0.5},
        {"step": 4, "reward": 0.4},
    ]


def test_rewards_in_the_unit_interval_share_a_scale_and_their_bands_end_there():
    log = {"rewards/a/mean": 0.4, "rewards/b/mean": -0.1, "rewards/c/mean": 0.9, "rewards/d/mean": 0.5}
    spreads = {"rewards/c/std": 0.4, "rewards/d/std": 0.8}  # no values in [0, 1] spread as wide as d's
    inside, below, at_the_top, wide = panels([{"step": 1, **log, **spreads}])
    assert inside.limits == at_the_top.limits == (0.0, 1.0)
    assert below.limits == (-0.1, 0.9)
    assert wide.limits == pytest.approx((-0.3, 1.3))
    (series,) = at_the_top.series
    assert (series.low, series.high) == ((0.5,), (1.0,))


@pytest.mark.parametrize(
    ("judging", "limits"),
    [
        ([], (0.2, 1.2)),  # nothing tells what the sum can be
        ([{"a": 0.2}, {"a": 0.2, "b": 1.0}], (0.0, 1.2)),  # rewards of different tasks do not add up
        ([{"a": 1.0, "b": -0.5}], (-0.5, 1.0)),
        ([{"a": 1.0, "c": 1.0}], (0.2, 1.2)),  # the log does not know c
    ],
)
def test_the_sum_reaches_as_far_as_the_weights_of_the_rewards_that_judge_together(judging, limits):
    log = {"reward": 0.7, "reward_std": 0.5, "rewards/a/mean": 0.4, "rewards/b/mean": 0.4}
    total, *_ = panels([{"step": 1, **log}], judging)
    assert total.limits == pytest.approx(limits)
    (series,) = total.series
    assert limits[0] <= series.low[0] + 1e-9
    assert series.high[0] <= limits[1] + 1e-9


@pytest.mark.parametrize(("share", "top"), [(0.0, 0.05), (0.004, 0.05), (0.5, 0.55), (1.0, 1.0)])
def test_a_share_is_on_an_axis_from_0_to_no_more_than_all(share, top):
    (panel,) = panels([{"step": 1, "completions/clipped_ratio": share}])
    assert panel.limits == pytest.approx((0.0, top))


def test_time_that_a_resumed_run_stood_still_is_not_counted():
    times = [(1, 100.0), (2, 103.0), (3, 106.0)]
    log = [{"step": step, "time": time, "time/train": 2.5} for step, time in times]
    log += [{"step": 5, "time": 9006.0, "time/train": 2.5, "resumed": {"step": 3, "time": 9000.0}}]
    assert training_seconds(log) == 2.5 + 3 + 3 + 6
    (panel,) = [panel for panel in panels(log) if panel.title == "Seconds per step"]
    assert panel.series[0].points == ((2, 3.0), (3, 3.0), (5, 3.0))


def test_smoothing_keeps_a_line_and_shrinks_noise():
    line = [(step, 2.0 * step) for step in range(100)]
    assert np.allclose(smoothed(line)[5:95], line[5:95])
    noise = [(step, float(step % 2)) for step in range(100)]
    assert all(abs(value - 0.5) <= 0.1 for _, value in smoothed(noise))


def test_thinning_keeps_means_and_the_reach_of_bands():
    points = tuple((step, float(step % 10)) for step in range(1000))
    series = Series("x", points, tuple(-v for _, v in points), tuple(v + 1 for _, v in points))
    thin = thinned(series, 100)
    assert len(thin.points) == len(thin.low) == len(thin.high) == 100
    assert {value for _, value in thin.points} == {4.5}
    assert (set(thin.low), set(thin.high)) == ({-9.0}, {10.0})
    assert thin.points[-1][0] == 999
    assert thinned(series, 1000) is series
