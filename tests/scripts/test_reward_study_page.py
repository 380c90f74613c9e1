"""docs/reward_study.md: its tables and figures are those of the runs that are kept, and what it says of them is so."""

import io
import json
from statistics import fmean

import pytest
from PIL import Image, ImageChops

from omnirl_tools.evaluation.intervals import bootstrap_interval
from omnirl_tools.report.figures import png
from scripts.reward_study import REWARDS, SKILLS, WORLDS, all_runs
from scripts.reward_study_judges import MEASURES
from scripts.reward_study_page import (
    BASE,
    BLOCK,
    BLOCKS,
    FIGURE_FOLDER,
    FIGURES,
    PAGE,
    differences,
    mean_curve,
    read_kept,
    render,
    rewards_of,
    seeds_of,
)

KEPT = read_kept()


def test_every_run_of_the_study_is_kept():
    assert sorted(KEPT) == sorted(run.name for run in all_runs())
    for world in WORLDS.values():
        assert set(world.rewards) <= set(REWARDS)
    assert {name.split("/")[1] for name in KEPT if name.startswith("skills/")} == set(SKILLS)


@pytest.mark.parametrize("world", WORLDS)
def test_runs_of_a_world_cost_the_same(world):
    """Equal compute: the same steps, completions and learning rate for every reward and seed."""
    settings = [run["settings"] for name, run in KEPT.items() if name.startswith(f"{world}/")]
    assert all(one == settings[0] for one in settings)
    assert all(str(value) == str(WORLDS[world].settings[key]) for key, value in settings[0].items())


def test_tables_are_of_the_runs():
    page = PAGE.read_text(encoding="utf-8")
    assert {name for _, name, _ in BLOCK.findall(page)} == set(BLOCKS)
    assert render(page, KEPT) == page, "run scripts/reward_study.py --write"


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_of_the_runs(name):
    stored = Image.open(FIGURE_FOLDER / f"{name}.png").convert("RGB")
    drawn = Image.open(io.BytesIO(png(FIGURES[name](KEPT)))).convert("RGB")
    assert drawn.size == stored.size
    assert ImageChops.difference(drawn, stored).getbbox() is None
    assert f"pictures/{name}.png" in PAGE.read_text(encoding="utf-8")


READERS = [name for name in REWARDS if name != "reference_probability"]
"""The rewards that read the answer."""


def scores(reward: str, kind: str, measure: str) -> list[float]:
    return [run["scores"][kind][measure] for run in seeds_of(KEPT, "shapes", reward)]


def curve(name: str, key: str, steps: range) -> list[float]:
    return [value for step, value in KEPT[name]["curves"][key] if step in steps]


EARLY, LATE, LONG = range(21), range(61, 81), range(81)


def test_what_the_page_says_of_rewards_that_read_the_answer():
    captions, answers = (
        {name: fmean(scores(name, kind, "right")) for name in READERS} for kind in ("captions", "answers")
    )
    assert [round(one(captions.values()), 2) for one in (min, max)] == [0.64, 0.71]
    assert all(0.485 < one < 0.555 for one in answers.values())
    assert [round(scores("before", kind, "right")[0], 2) for kind in ("captions", "answers")] == [0.14, 0.36]
    assert max(captions, key=captions.get) == "unified"
    assert sorted(answers, key=answers.get).index("unified") == 1
    for name in READERS:
        for kind in ("captions", "answers"):
            low, high = bootstrap_interval(differences(KEPT, "shapes", name, kind).mean(axis=0))
            assert (low <= 0 <= high) == ((name, kind) != ("original", "captions"))
    by_seed = differences(KEPT, "shapes", "original", "captions").mean(axis=1)
    assert by_seed.min() < 2 * sorted(by_seed)[1] < 0 < by_seed.max()


def test_what_the_page_says_of_metrics_as_judges():
    every = {measure: [one for name in READERS for one in scores(name, "captions", measure)] for measure in MEASURES}
    assert [round(one(every["meteor"]), 2) for one in (min, max)] == [0.92, 0.97]
    assert [round(one(every["rouge"]), 2) for one in (min, max)] == [0.93, 0.96]
    assert 0.25 < fmean(every["false"]) < 0.35
    assert min(every["false"]) > scores("before", "captions", "false")[0]
    assert min(every["named"]) >= 0.9
    for name in READERS[1:]:
        gaps = [
            fmean(
                a - b
                for run in seeds_of(KEPT, "shapes", name)
                for (step, a), (_, b) in zip(run["curves"]["judge"], run["curves"]["right"], strict=True)
                if step in steps
            )
            for steps in (EARLY, LATE)
        ]
        assert 0.1 < gaps[1] <= gaps[0] < 0.3
    assert all(one == 0 for name in rewards_of(KEPT, "shapes") for one in scores(name, "captions", "echo"))


def test_what_the_page_says_of_reference_probability():
    assert scores("reference_probability", "captions", "right") == [0, 0, 0]
    first, last = (
        [fmean(curve(f"shapes/reference_probability/{seed}", "judge", steps)) for seed in (0, 1, 2)]
        for steps in (range(11), range(71, 81))
    )
    assert all(b > a for a, b in zip(first, last, strict=True))
    assert 10 < max(b / a for a, b in zip(first, last, strict=True)) < 15
    assert fmean(scores("reference_probability", "answers", "right")) < scores("before", "answers", "right")[0]
    assert round(fmean(last) / fmean(first)) == 4
    right = [mean_curve(seeds_of(KEPT, "shapes", name), "right") for name in ("reference_probability", "exact")]
    assert right[0][-1][1] < right[0][0][1] < right[1][0][1] < right[1][-1][1]


def test_what_the_page_says_of_facts_into_sentences():
    before, exact, *gamed = (
        KEPT[f"facts/{name}/0"]["scores"]["facts"] for name in ("before", "exact", "original", "unified")
    )
    assert exact == before
    assert KEPT["facts/exact/0"]["curves"]["judge"][-1][1] == 0
    assert all(value == 1 for _, value in KEPT["facts/exact/0"]["curves"]["constant"])
    for one in gamed:
        assert one["echo"] > 0.8 > 0.2 > one["right"]
        assert all(
            one[name] > before[name] for name in ("bleu", "rouge", "meteor", "original", "unified", "chrf", "cider")
        )
        assert min(one["rouge"], one["meteor"]) > 0.5
        assert fmean(one[name] for name in ("bleu", "rouge", "meteor")) < 0.756
    recipe = json.loads((PAGE.parents[1] / "recipes" / "results" / "text_only_smollm2_135m.json").read_text())
    assert recipe["config"]["max_steps"] == 24
    assert ("overlap", 0.756) in {(one["measure"], round(one["after"], 3)) for one in recipe["changes"]}


def test_what_the_page_says_of_training_skills():
    def right(name: str, steps: range) -> float:
        return fmean(curve(name, "right", steps))

    drowned, small = "skills/length_500/0", "skills/length_small/0"
    assert max(curve(drowned, "right", range(6, 81))) < curve(drowned, "right", range(6))[0]
    assert min(curve(drowned, "tokens", LATE)) > 2 * curve(drowned, "tokens", range(6))[0]
    assert abs(right(small, range(61)) - right(BASE, range(61))) < 0.03
    assert right(small, LATE) < right(BASE, LATE) - 0.05
    assert fmean(curve(small, "tokens", LATE)) > fmean(curve(BASE, "tokens", LATE)) + 2

    none, heavy, cut = ("skills/format_none/0", "skills/format_heavy/0", "skills/cut_8/0")
    assert curve(BASE, "form", range(30, 31))[0] > 0.9
    assert curve(heavy, "form", range(30, 31))[0] < curve(BASE, "form", range(30, 31))[0] + 0.05
    assert sum(a < b for a, b in zip(curve(heavy, "right", LONG), curve(BASE, "right", LONG), strict=True)) > 12
    assert 0.45 < min(curve(none, "form", LONG)) < max(curve(none, "form", LONG)) < 0.75
    assert 0.6 < fmean(curve(cut, "cut", range(61))) < 0.7
    assert fmean(curve(cut, "form", range(61))) < 0.15
    assert curve(cut, "form", range(80, 81))[0] > 0.5
    assert right(cut, LONG) < 0.25
    assert KEPT[cut]["scores"]["captions"]["right"] == 0
