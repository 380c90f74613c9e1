"""What the curves show of a log."""

import json

import numpy as np

from omnirl_core.report.panels import Series, panels, read_metrics, smoothed, thinned


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
    assert (reward.low[0], reward.high[0]) == (1 / 40 - 0.2, 1 / 40 + 0.2)
    (exact,) = found["exact"].series
    assert [step for step, _ in exact.points] == list(
        range(1, 31, 2)
    )  # steps without a judged row have no point
    (length,) = found["Completion length"].series
    assert (length.low[0], length.high[0]) == (10, 30)
    assert [series.label for series in found["Where the time goes"].series] == ["rollout", "score"]


def test_seconds_per_step_by_the_clock():
    times = [(1, 100.0), (2, 103.0), (4, 109.0), (5, 50.0), (6, 51.0)]  # step 5 comes from another machine
    (panel,) = panels([{"step": step, "time": time} for step, time in times])
    assert panel.series[0].points == ((2, 3.0), (4, 3.0), (6, 1.0))


def test_kl_is_shown_where_it_is_used():
    assert titles([{"step": 1, "kl": 0.0}, {"step": 2, "kl": 0.01}]) == ["KL to the reference"]


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


def test_rewards_in_the_unit_interval_share_a_scale():
    inside, outside = panels([{"step": 1, "rewards/a/mean": 0.4, "rewards/b/mean": -0.1}])
    assert (inside.limits, outside.limits) == ((0.0, 1.0), (None, None))


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
