"""Before and after on the same rows: figures worked out by hand, pairing, and what the table shows."""

import numpy as np
import pytest

from omnirl_tools.evaluation.compare import Change, compare, extremes, pair_lines, table
from omnirl_tools.evaluation.intervals import bootstrap_interval, mcnemar

WEIGHTS = {"think_format": 0.5, "exact": 1.0, "iou": 2.0}


def line(row_id, task, modality, **rewards):
    judged = {name: value for name, value in rewards.items() if value is not None}
    total = sum(WEIGHTS[name] for name in judged)
    score = sum(WEIGHTS[name] * value for name, value in judged.items()) / total if total else None
    return {
        "row_id": row_id, "task": task, "modality": modality, "score": score, "weights": WEIGHTS,
        "rewards": {name: rewards.get(name) for name in WEIGHTS},
    }  # fmt: skip


BEFORE = [
    line("a", "word", "text", think_format=0.0, exact=0.0),
    line("b", "word", "text", think_format=1.0, exact=1.0),
    line("c", "boxes", "image", think_format=0.0, iou=0.25),
    line("d", "boxes", "multi-image", think_format=1.0, iou=0.5),
]
AFTER = [
    line("d", "boxes", "multi-image", think_format=1.0, iou=0.25),
    line("c", "boxes", "image", think_format=1.0, iou=0.75),
    line("b", "word", "text", think_format=1.0, exact=1.0),
    line("a", "word", "text", think_format=1.0, exact=1.0),
]


def by_name(changes: list[Change]) -> dict[tuple[str, str, str], Change]:
    return {(change.measure, change.kind, change.group): change for change in changes}


def test_figures_by_hand():
    found = by_name(compare(BEFORE, AFTER))
    accuracy = found["accuracy", "all", "all"]
    assert accuracy.n == 4
    assert accuracy.before == pytest.approx((0 + 1 + 0.25 + 0.5) / 4)
    assert accuracy.after == pytest.approx((1 + 1 + 0.75 + 0.25) / 4)
    assert (accuracy.wins, accuracy.losses) == (2, 1)
    assert accuracy.p_value is None  # not every value is 0 or 1
    boxes = found["score", "task", "boxes"]
    assert boxes.before == pytest.approx(((2 * 0.25) / 2.5 + (0.5 + 2 * 0.5) / 2.5) / 2)
    assert boxes.after == pytest.approx(((0.5 + 2 * 0.75) / 2.5 + (0.5 + 2 * 0.25) / 2.5) / 2)
    assert boxes.difference == pytest.approx(boxes.after - boxes.before)
    exact = found["exact", "all", "all"]
    assert (exact.n, exact.before, exact.after, exact.p_value) == (2, 0.5, 1.0, mcnemar(1, 0))
    assert ("exact", "task", "boxes") not in found  # judged nowhere


def test_order_of_measures_and_groups():
    changes = compare(BEFORE, AFTER)
    assert list(dict.fromkeys(change.measure for change in changes)) == ["score", "accuracy", *WEIGHTS]
    groups = [(c.kind, c.group) for c in changes if c.measure == "score"]
    modalities = [("modality", name) for name in ("text", "image", "multi-image")]
    assert groups == [("all", "all"), *modalities, ("task", "boxes"), ("task", "word")]


def test_interval_is_the_paired_bootstrap_of_the_rows():
    change = by_name(compare(BEFORE, AFTER, seed=7, n_resamples=500))["accuracy", "all", "all"]
    differences = np.array([1 - 0, 0, 0.75 - 0.25, 0.25 - 0.5])
    assert (change.low, change.high) == bootstrap_interval(differences, seed=7, n_resamples=500)


def test_pairing_tells_apart_what_unpaired_figures_cannot():
    """Every row gains 0.1 on scores that spread over [0, 0.9]: the paired interval is narrow."""
    scores = np.linspace(0, 0.9, 40)
    old = [line(str(k), None, "text", exact=float(value)) for k, value in enumerate(scores)]
    new = [line(str(k), None, "text", exact=float(value) + 0.1) for k, value in enumerate(scores)]
    change = by_name(compare(old, new))["score", "all", "all"]
    assert change.low == pytest.approx(0.1)
    assert change.high == pytest.approx(0.1)
    assert change.verdict == "up"
    assert by_name(compare(new, old))["score", "all", "all"].verdict == "down"
    assert by_name(compare(old, old))["score", "all", "all"].verdict == "unsure"


def test_format_rewards_and_weights_are_settings():
    own = by_name(compare(BEFORE, AFTER, format_rewards=("exact", "iou"), weights={"think_format": 3.0}))
    assert own["accuracy", "all", "all"].before == 0.5  # the mean of think_format now
    flat = by_name(compare(BEFORE, AFTER, weights=dict.fromkeys(WEIGHTS, 1.0)))
    assert flat["score", "all", "all"].before == pytest.approx((0 + 1 + 0.125 + 0.75) / 4)


def test_a_format_reward_of_any_name_is_left_out_of_accuracy():
    old, new = (
        [{**line("a", None, "text", iou=shape, exact=0.5), "format_rewards": ["iou"]} for shape in shapes]
        for shapes in ([0.0], [1.0])
    )
    own = by_name(compare(old, new))
    assert own["accuracy", "all", "all"].after == own["accuracy", "all", "all"].before == 0.5
    reported = by_name(compare(old, new, format_rewards=("exact",)))  # what the caller says comes first
    assert reported["accuracy", "all", "all"].after == 1.0


def test_rows_that_only_one_side_judges_are_not_counted():
    new = [
        {**entry, "rewards": {**entry["rewards"], "iou": None}} if entry["row_id"] == "c" else entry for entry in AFTER
    ]
    assert by_name(compare(BEFORE, new))["iou", "all", "all"].n == 1


def test_samples_of_one_row_pair_in_order():
    old = [line("a", None, "text", exact=value) for value in (0.0, 1.0)]
    new = [line("a", None, "text", exact=value) for value in (1.0, 1.0)]
    assert [(x["score"], y["score"]) for x, y in pair_lines(old, new)] == [(0.0, 1.0), (1.0, 1.0)]


def test_rows_of_a_json_file_on_one_line_are_kept_apart():
    """All have the same `file:line`; what they ask tells them apart, in whatever order they come."""
    old = [line("a.json:1", None, "text", exact=value) | {"problem": str(value)} for value in (0.0, 0.5, 1.0)]
    assert all(x == y for x, y in pair_lines(old, old[::-1]))


def test_files_of_other_rows_are_refused_by_name():
    with pytest.raises(ValueError, match=r"2 rows are in only one.*'a', 'z'.*same rows"):
        compare(BEFORE, [*AFTER[:3], line("z", None, "text", exact=1.0)])
    many = [line(str(k), None, "text", exact=1.0) for k in range(30)]
    with pytest.raises(ValueError, match="and 20 more"):
        compare(many, [])


def test_table_shows_groups_for_the_measures_asked_for():
    text = table(compare(BEFORE, AFTER))
    lines = text.splitlines()
    assert lines[0].split() == ["rows", "before", "after", "change", "95", "%", "interval", "rows", "up/down"]
    assert lines[2].split()[:5] == ["score", "4", "0.450", "0.800", "+0.350"]
    assert "  modality multi-image" in text
    assert "  task word" in text
    assert sum(entry.startswith("iou") for entry in lines) == 1  # rewards: all rows only
    assert max(map(len, lines)) <= 100
    assert all(entry == entry.rstrip() for entry in lines)
    assert "  task word" not in table(compare(BEFORE, AFTER), detailed=())


def test_extremes_are_the_largest_changes_both_ways():
    scores = [(0.5, 0.9), (0.5, 0.6), (0.5, 0.5), (0.5, 0.1), (0.5, None), (0.9, 0.8)]
    old = [line(str(k), None, "text", exact=before) for k, (before, _) in enumerate(scores)]
    new = [line(str(k), None, "text", exact=after) for k, (_, after) in enumerate(scores)]
    wins, losses = extremes(old, new, n=2)
    assert [after["row_id"] for _, after in wins] == ["0", "1"]
    assert [after["row_id"] for _, after in losses] == ["3", "5"]
    assert extremes(old, new, n=1, measure="exact")[0] == [(old[0], new[0])]
    assert extremes(old, new, measure="iou") == ([], [])


def test_empty_table_is_its_head():
    assert table([]).splitlines()[0].split()[0] == "rows"
