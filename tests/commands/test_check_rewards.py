"""`omnirl check-rewards`: references that cannot win are named with the reward and the reason; sound ones pass."""

import json
from pathlib import Path

import pytest
from PIL import Image

from omnirl_core.data import Record
from omnirl_core.models import load_processor
from omnirl_core.rewards import box_iou, load_rewards, think_format
from omnirl_core.rewards.reward import Reward
from omnirl_core.shapes import tiny_policy
from omnirl_tools.checks.hack_advice import ADVICE
from omnirl_tools.checks.hacks import BLIND
from omnirl_tools.checks.reference import reference_answers, reference_completions
from omnirl_tools.checks.reward_check import PixelGrid, RewardCheck
from omnirl_tools.cli import main

ROOT = Path(__file__).parents[2]


def recipe(folder, rows, rewards, **settings):
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "rewards.yaml").write_text(f"rewards:\n{rewards}")
    keys = {
        "output_dir": str(folder / "run"), "dataset_name": str(folder / "train.jsonl"),
        "model_name_or_path": "tiny_policy", "rewards": str(folder / "rewards.yaml"), "max_completion_length": 256,
        **settings,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
    return str(folder / "recipe.yaml")


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    return "a.png"


MIXED = """
- {name: think_format, weight: 0.5}
- {name: exact, tasks: [color]}
- {name: number, tasks: [count]}
- {name: box_iou, tasks: [boxes], settings: {space: resized}}
- {name: length_band, weight: 0.1, tasks: [color], settings: {low: 40, high: 200}, gated_by: exact}
"""


def test_rows_whose_reference_cannot_win_are_named_with_reward_value_and_reason(tmp_path, image, capsys):
    rows = [
        {"problem": "Color?", "solution": "red", "task": "color"},
        {"problem": "Color?", "solution": None, "task": "color"},
        {"problem": "How many?", "solution": "several", "task": "count"},
        {"problem": "How many?", "solution": 3, "task": "count"},
        {"problem": "Where?", "solution": [1, 2, 30, 40], "image": image, "task": "boxes"},
        {"problem": "Where?", "solution": [100, 200, 900, 800], "image": image, "task": "boxes"},
        {"problem": "Where?", "solution": [1, 2, 30, 40], "task": "boxes"},
        {"problem": "What?", "solution": "a cat", "task": "caption"},
        {"problem": "Color?", "solution": "red " * 300, "task": "color"},
    ]
    assert main(["check-rewards", recipe(tmp_path, rows, MIXED), "--workers", "1"]) == 1
    lines = (tmp_path / "run" / "check_rewards.txt").read_text().splitlines()
    reported = dict(line.split(": ", 1) for line in lines)
    place = f"{tmp_path}/train.jsonl"
    assert sorted(reported) == [f"{place}:{n}" for n in (2, 3, 6, 7, 8, 9)]
    assert reported[f"{place}:2"] == "exact: cannot read the reference None"
    assert reported[f"{place}:3"] == "number: cannot read the reference 'several'"
    assert reported[f"{place}:6"] == (
        "box_iou: reference box [100, 200, 900, 800] lies outside of its image of 64 x 48; check solution_space"
    )
    assert reported[f"{place}:7"].endswith("space 'resized' needs an image's size, and the row has no image")
    assert reported[f"{place}:8"] == "-: no reward judges answers of task 'caption'"
    [band, cut] = [line.partition(f"{place}:9: ")[2] for line in lines if line.startswith(f"{place}:9: ")]
    assert band.startswith("length_band: 0.4")
    assert band.endswith("gated by exact")
    assert "is cut at max_completion_length 256" in cut
    out = capsys.readouterr().out
    assert "9 rows, 6 whose own reference cannot earn full marks" in out
    assert sum(f"  {hack} " in out for hack in BLIND) >= 10


def test_the_mixed_demo_passes_and_two_workers_say_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    shapes = json.dumps({"task": "mixed", "train": 140, "test": 7, "seed": 0})
    here = [f"--dataset_name={tmp_path}/data/train.json", f"--eval_dataset_name={tmp_path}/data/test.json"]
    arguments = [
        "check-rewards",
        "recipes/mixed/demo.yaml",
        "--output_dir",
        str(tmp_path),
        "--draw_shapes",
        shapes,
    ]
    outputs = []
    for workers in ("1", "2"):
        assert main([*arguments, *here, "--workers", workers]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert "140 rows, 0 whose own reference cannot earn full marks" in outputs[0]
    assert "<- pays" not in outputs[0]
    assert outputs[0].splitlines()[-1].startswith("all is well: ")


def test_a_reward_that_pays_for_anything_is_marked(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def wordy(completion, solution):\n    return min(1.0, len(completion) / 60)\n")
    rewards = "- {name: think_format, weight: 0.1}\n- {function: mine.py:wordy}\n"
    rows = [{"problem": "Color?", "solution": "red"}]
    assert main(["check-rewards", recipe(tmp_path, rows, rewards), "--workers", "1"]) == 0
    out = capsys.readouterr().out
    line, advice = [line for line in out.splitlines() if "ramble" in line]
    assert line.endswith("<- pays")
    assert "a long thought and an evasive answer; wordy pays for it. Gate length_band" in advice
    assert "1 row, 0 whose own reference" in out
    assert out.splitlines()[-1].startswith("not well yet: ")


def test_the_reward_that_pays_most_for_a_hack_is_named(tmp_path, capsys):
    """Not the one that pays its little on more of the samples: the form, here."""
    rows = [{"problem": f"How many in box {n}?", "solution": str(n + 1)} for n in range(4)]  # "one" is common
    rewards = "- {name: think_format, weight: 0.2}\n- {name: answer}\n"
    assert main(["check-rewards", recipe(tmp_path, rows, rewards), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "common words: the most frequent words of a language; answer pays for it" in said, said


def test_every_hack_has_its_advice():
    assert set(ADVICE) >= set(BLIND)


def test_a_space_that_the_model_does_not_answer_in_is_a_warning(tmp_path, image, capsys):
    rows = [{"problem": "Where?", "solution": [1, 2, 30, 40], "image": image}]
    assert main(["check-rewards", recipe(tmp_path, rows, "- name: box_iou\n"), "--workers", "1"]) == 0
    assert "box_iou reads boxes in space 'pixels'; qwen2_5_vl answers in 'resized'" in capsys.readouterr().out


@pytest.mark.parametrize("space", ["pixels", "resized", "0-1000", "0-1"])
@pytest.mark.parametrize("solution_space", ["pixels", "0-1000"])
def test_reference_boxes_win_in_every_space(tmp_path, image, space, solution_space):
    reference = [5, 6, 40, 30] if solution_space == "pixels" else [78, 125, 625, 625]
    reward = Reward("iou", box_iou, settings={"space": space, "solution_space": solution_space})
    grid = PixelGrid(28, 56 * 56, 28 * 28 * 64)
    record = Record("Where?", reference, (str(tmp_path / image),), source="a.json:1")
    [row] = RewardCheck([reward], grid).many([(record, True)])
    assert row.faults == ()
    assert row.scores["iou"] == pytest.approx(1.0, abs=0.02)
    assert row.hacks["nothing"] == 0.0


def test_resized_sizes_are_the_processors():
    processor = load_processor(tiny_policy(), max_pixels=96 * 96)
    grid = PixelGrid.of(processor)
    side = processor.image_processor.patch_size
    for size in [(64, 48), (200, 100), (33, 97), (300, 20)]:
        [[_, height, width]] = processor.image_processor([Image.new("RGB", size)])["image_grid_thw"]
        assert grid.resized(size) == (int(width) * side, int(height) * side)


@pytest.mark.parametrize(
    ("solution", "answers"),
    [
        ("<answer>a cat</answer>", ["a cat"]),
        (["a cat", "a kitten"], ["a cat", "a kitten"]),
        (3.0, ["3"]),
        ({"answer": "B"}, ["B"]),
        ([], ["[]"]),
        (None, []),
        ({"tests": []}, []),
    ],
)
def test_references_as_text(solution, answers):
    assert reference_answers(solution, [], [], []) == answers


def test_labelled_boxes_are_tried_together_and_alone():
    reward = Reward("iou", box_iou)
    reference = [{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6, 7, 8], "label": "dog"}]
    together, *alone = reference_answers(reference, [reward], [(10, 10)], [])
    assert json.loads(together) == [{**one, "bbox_2d": [float(x) for x in one["bbox_2d"]]} for one in reference]
    assert alone == ["[1.0, 2.0, 3.0, 4.0]", "[5.0, 6.0, 7.0, 8.0]"]


def test_a_template_that_opens_the_thought_gets_completions_without_the_tag():
    opened = Reward("form", think_format, settings={"think_opened": True})
    for completion in list(reference_completions("4", [opened]))[:-1]:
        assert not completion.startswith("<think>")
        assert opened.score(completion) == 1.0


NO_REFERENCE_TEXT = (
    "code",
    "original_scheme",
    "judge",
)  # tests of a program; a peak at 499 characters that no reference has; a model that is not there
CONFIGS = [path for path in (ROOT / "recipes" / "rewards").glob("*.yaml") if path.stem not in NO_REFERENCE_TEXT]


@pytest.mark.parametrize("path", sorted(CONFIGS), ids=lambda path: path.stem)
def test_references_of_every_shipped_config_win(tmp_path, image, path):
    """One row of each kind of reference that the config is for."""
    references = {
        "math": r"\frac{1}{2}", "multiple_choice": "B", "counting": 3, "visual_qa": "no",
        "rec_soft": [10, 20, 50, 40], "rec_strict": [10, 20, 50, 40],
        "pointing": [10, 20, 50, 40],
        "detection": [{"bbox_2d": [1, 2, 30, 40], "label": "dog"}, {"bbox_2d": [40, 2, 60, 30], "label": "cat"}],
    }  # fmt: skip
    rewards = load_rewards(path)
    tasks = [task for reward in rewards for task in reward.tasks or ()] or [None]
    reference = references.get(path.stem, "a small boy kicks the ball over the fence")
    record = Record("What?", reference, (str(tmp_path / image),), tasks[0], source="a.json:1")
    grid = PixelGrid(28, 56 * 56, 28 * 28 * 64)
    check = RewardCheck(rewards, grid, count_tokens=lambda text: list(range(len(text) // 4)))
    [row] = check.many([(record, False)])
    assert row.faults == (), path.stem


FACTS = {
    "problem": "Write one short sentence that tells these facts.\ncity: Oslo | day: Monday | sky: windy | high: 4",
    "solution": "On Monday it will be windy in Oslo, with a high of 4 degrees.",
}
ASKED = {
    "problem": "What is the man on the left holding?",
    "solution": "The man on the left is holding a cup.",
}


@pytest.mark.parametrize(
    ("row", "settings", "warned"),
    [(FACTS, "{}", True), (FACTS, "{light: 1}", False), (ASKED, "{}", False)],
    ids=["data to text", "weighed in full", "a question"],
)
def test_answers_made_of_the_prompts_own_words_are_warned_of(tmp_path, capsys, row, settings, warned):
    rewards = f"- {{name: overlap, settings: {settings}}}\n"
    main(["check-rewards", recipe(tmp_path, [row], rewards), "--workers", "1"])
    assert ("warning: overlap counts words of the prompt lightly" in capsys.readouterr().out) is warned


@pytest.mark.parametrize(
    ("name", "said"),
    [("nope.yaml", "rewards: no file nope.yaml"), (".", "rewards: . cannot be read (Is a directory)")],
)
def test_a_file_of_rewards_that_is_none_is_named(tmp_path, capsys, name, said):
    path = recipe(tmp_path, [{"problem": "How is the day?", "solution": "windy"}], "- {name: exact}\n")
    assert main(["check-rewards", path, "--rewards", name]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("solution", "code"), [("a windy day", 0), ({"tests": [1]}, 1)])
def test_what_only_the_policy_can_judge_is_read_and_not_scored(tmp_path, capsys, solution, code):
    rewards = "- {name: think_format, weight: 0.2}\n- {name: reference_probability}\n"
    path = recipe(tmp_path, [{"problem": "How is the day?", "solution": solution}], rewards)
    assert main(["check-rewards", path, "--workers", "1"]) == code
    out = capsys.readouterr().out
    assert "note: reference_probability asks the policy, which only training does" in out
    assert ("cannot read the reference" in out) is bool(code)
