"""Held-out rows are graded by the very objects that training uses, called as TRL calls them."""

import inspect

import pytest
from trl import GRPOTrainer

from omnirl_core.rewards import Reward, load_rewards, think_format
from omnirl_core.rewards.grounding import box_iou
from omnirl_core.rewards.reference_probability import reference_probability
from omnirl_core.rewards.reward import _say_no_policy, on_answer
from omnirl_tools.evaluation.generate import Generation
from omnirl_tools.evaluation.lines import read_lines, weighted_mean, write_lines
from omnirl_tools.evaluation.score import evaluate, guarded_scores, score_rows


@on_answer
def same(prediction: str, reference: str | None) -> float | None:
    return None if reference is None else float(prediction == reference)


REWARDS = [
    Reward("think_format", think_format, weight=0.5),
    Reward("same", same, weight=1.0, tasks=("word",)),
    Reward("box_iou", box_iou, weight=2.0, tasks=("boxes",), settings={"space": "resized"}),
]


def asked(number: int, task: str | None, solution, images=(), **columns) -> dict:
    blocks = [*({"type": "image"} for _ in images), {"type": "text", "text": "?"}]
    prompt = [{"role": "user", "content": blocks}]
    given = {
        "task": task,
        "solution": solution,
        "images": list(images),
        "problem": "?",
        "row_id": f"r:{number}",
    }
    return {"prompt": prompt, **given, **columns}


def said(text: str, sizes=(), resized=(), n: int = 3, clipped: bool = False) -> Generation:
    return Generation(text, tuple(range(n)), clipped, tuple(sizes), tuple(resized))


def test_lines_hold_what_the_contract_of_the_run_folder_names():
    rows = [
        asked(1, "word", "cat"),
        asked(2, "word", "cat"),
        asked(3, "boxes", [0, 0, 100, 50], ["/a.png"]),
        asked(4, None, "cat", ["/a.png", "/b.png"]),
        asked(5, "word", None),
    ]
    answers = [
        said("<think>it is</think><answer>cat</answer>"),
        said("cat"),
        said("<answer>[0, 0, 20, 20]</answer>", [(100, 100)], [(20, 20)], clipped=True),
        said("<think>no</think><answer>dog</answer>", [(8, 8), (9, 9)], [(16, 16), (16, 16)], n=7),
        said("<think>no reference</think><answer>dog</answer>"),
    ]
    lines = score_rows(rows, answers, REWARDS)
    assert [line["rewards"] for line in lines] == [
        {"think_format": 1.0, "same": 1.0, "box_iou": None},
        {"think_format": 0.0, "same": 0.0, "box_iou": None},
        {"think_format": 0.0, "same": None, "box_iou": 0.5},  # the answer is the whole image
        {"think_format": 1.0, "same": None, "box_iou": None},
        {"think_format": 1.0, "same": None, "box_iou": None},
    ]
    assert [line["score"] for line in lines] == [1.0, 0.0, (0.5 * 0 + 2 * 0.5) / 2.5, 1.0, 1.0]
    assert [line["modality"] for line in lines] == ["text", "text", "image", "multi-image", "text"]
    assert lines[2]["boxes"] == {"space": "resized", "solution_space": "pixels", "image_index": 0}
    assert "boxes" not in lines[0]
    assert lines[3]["image_sizes"] == [[8, 8], [9, 9]]
    assert lines[3]["resized_sizes"] == [[16, 16], [16, 16]]
    assert (lines[2]["clipped"], lines[3]["n_tokens"]) == (True, 7)
    assert lines[0]["weights"] == {"think_format": 0.5, "same": 1.0, "box_iou": 2.0}
    assert lines[0]["format_rewards"] == ["think_format"]
    assert lines[0]["row_id"] == "r:1"


def test_a_row_that_no_reward_judges_has_no_score():
    (line,) = score_rows([asked(1, "other", "cat")], [said("dog")], REWARDS[1:])
    assert line["score"] is None
    assert line["rewards"] == {"same": None, "box_iou": None}


def test_extra_columns_reach_the_scorer_row_by_row_also_where_a_row_lacks_them():
    seen = []

    def look(completion, solution, *, level=None, completion_ids=None, image_sizes=None, resized_sizes=None):
        seen.append((completion, solution, level, completion_ids, image_sizes, resized_sizes))
        return 1.0

    rows = [asked(1, None, "a", level=3), asked(2, None, "b", ["/x.png"])]
    score_rows(rows, [said("A", n=2), said("B", [(5, 6)], [(8, 8)], n=1)], [Reward("look", look)])
    assert seen == [("A", "a", 3, [0, 1], [], []), ("B", "b", None, [0], [[5, 6]], [[8, 8]])]


def test_called_with_the_names_that_trl_uses():
    """TRL 1.16 calls reward functions with these names; a reward may read any of them."""
    source = inspect.getsource(GRPOTrainer._calculate_rewards)
    for name in (
        "prompts=prompts",
        "completions=completions",
        "completion_ids=completion_ids_list",
        "log_metric",
    ):
        assert name in source
    calls = []

    class Spy(Reward):
        def __call__(self, **columns):
            calls.append(columns)
            return super().__call__(**columns)

    rows = [asked(1, None, "a"), asked(2, None, "b", ["/x.png"])]
    score_rows(rows, [said("A"), said("B", [(5, 6)], [(8, 8)])], [Spy("think_format", think_format)])
    (columns,) = calls
    assert columns["completions"] == [[{"role": "assistant", "content": text}] for text in "AB"]
    assert columns["prompts"] == [row["prompt"] for row in rows]
    assert columns["solution"] == ["a", "b"]
    assert columns["images"] == [[], ["/x.png"]]
    assert columns["row_id"] == ["r:1", "r:2"]
    columns["log_metric"]("anything", 1.0)


def test_evaluate_generates_grades_and_writes_what_it_reads_back(policy, processor, mixed_rows, tmp_path):
    (tmp_path / "rewards.yaml").write_text("rewards:\n  - {name: think_format, weight: 0.5}\n")
    rewards = load_rewards(tmp_path / "rewards.yaml")
    lines = evaluate(policy, processor, mixed_rows, rewards, max_new_tokens=6, batch_size=3)
    assert [line["row_id"] for line in lines] == [row["row_id"] for row in mixed_rows]
    assert all(line["clipped"] and line["n_tokens"] == 6 and line["score"] == 0.0 for line in lines)
    assert read_lines(write_lines(tmp_path / "before.jsonl", lines)) == lines


@pytest.mark.parametrize(
    ("values", "weights", "mean"),
    [
        ({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 3.0}, 0.25),
        ({"a": 1.0, "b": None}, {"a": 1.0, "b": 3.0}, 1.0),
        ({"a": 1.0, "b": 0.0}, {}, 0.5),
        ({"a": 1.0}, {"a": 0.0}, None),
        ({}, {}, None),
    ],
)
def test_weighted_mean(values, weights, mean):
    assert weighted_mean(values, weights) == mean


def test_a_reward_that_needs_the_policy_gives_null_and_says_so(caplog):
    _say_no_policy.cache_clear()
    rewards = [Reward("think_format", think_format, weight=0.5), Reward("own", reference_probability)]
    answers = [said("<think>it is</think><answer>cat</answer>"), said("cat")]
    lines = score_rows([asked(1, "word", "cat"), asked(2, "word", None)], answers, rewards, guarded_scores)
    assert [line["rewards"] for line in lines] == [
        {"think_format": 1.0, "own": None},
        {"think_format": 0.0, "own": None},
    ]
    assert [line["score"] for line in lines] == [1.0, 0.0]
    assert any("'own' needs the policy" in message for message in caplog.messages)
