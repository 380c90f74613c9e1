"""Functions of a user's own file: of one sample, and of a batch as TRL's reward functions are."""

import pickle

import pytest

from omnirl_core.rewards import RewardsError, load_rewards
from omnirl_core.trainer.fault_tolerance.reward_guard import RewardError
from omnirl_tools.evaluation.generate import Generation
from omnirl_tools.evaluation.score import guarded_scores, score_rows

MINE = """
calls = []
def one(completion, solution):
    return float(solution in completion)
def batch(completions, solution, **kwargs):
    calls.append((len(completions), sorted(kwargs)))
    return [float(reference in turns[0]["content"]) for turns, reference in zip(completions, solution, strict=True)]
def longest(prompts, completions, bonus=1.0):
    most = max(len(turns[0]["content"]) for turns in completions)
    return [bonus * (len(turns[0]["content"]) == most) for turns in completions]
def anything(**kwargs):
    return [0.5 for _ in kwargs["completions"]]
def scalar(completions, **kwargs):
    return 0.5
def short(completions, **kwargs):
    return [1.0]
def breaks_on_blue(completions, solution, **kwargs):
    return [1.0 if reference != "blue" else 1 / 0 for reference in solution]
def not_finite(completions, solution, **kwargs):
    return [float("inf") for _ in solution]
async def later(completions, **kwargs):
    return [1.0]
"""
TEXTS, REFERENCES, TASKS = ["red car", "a blue sky is up", "green"], ["red", "blue", "grey"], ["a", None, "a"]


@pytest.fixture
def reward(tmp_path):
    def load(entry: str):
        (tmp_path / "mine.py").write_text(MINE)
        (tmp_path / "rewards.yaml").write_text(f"rewards:\n- {{{entry}}}\n")
        return load_rewards(tmp_path / "rewards.yaml")[0]

    return load


def said(texts=TEXTS):
    return [[{"role": "assistant", "content": text}] for text in texts]


@pytest.mark.parametrize(
    ("entry", "scores"),
    [
        ("function: 'mine.py:one'", [1, 1, 0]),
        ("function: 'mine.py:batch'", [1, 1, 0]),
        ("function: 'mine.py:batch', tasks: [a]", [1, None, 0]),
        ("function: 'mine.py:batch', tasks: [null]", [None, 1, None]),
        ("function: 'mine.py:longest', settings: {bonus: 0.25}", [0, 0.25, 0]),
        ("function: 'mine.py:anything'", [0.5, 0.5, 0.5]),
    ],
)
def test_both_signatures_are_taken(reward, entry, scores):
    found = reward(entry)
    columns = {
        "solution": REFERENCES,
        "task": TASKS,
        "row_id": ["r:1", "r:2", "r:3"],
        "trainer_state": object(),
    }
    assert found(prompts=["p"] * 3, completions=said(), **columns) == scores
    assert pickle.loads(pickle.dumps(found))(prompts=["p"] * 3, completions=said(), **columns) == scores


def test_a_batch_function_is_called_once_with_the_samples_of_its_tasks(reward):
    found = reward("function: 'mine.py:batch', tasks: [a]")
    found.scorer.load().__globals__["calls"].clear()
    found(prompts=["p"] * 3, completions=said(), solution=REFERENCES, task=TASKS, log_metric=lambda *_: None)
    assert found.scorer.load().__globals__["calls"] == [(2, ["log_metric", "prompts", "task"])]


def test_one_sample_is_a_batch_of_one(reward):
    assert reward("function: 'mine.py:batch'").score("<answer>red</answer>", "red", task="a") == 1.0


def test_an_asynchronous_function_is_refused_when_the_file_is_read(reward):
    with pytest.raises(RewardsError, match="'later' is asynchronous"):
        reward("function: 'mine.py:later'")


@pytest.mark.parametrize(
    ("function", "reported"),
    [
        ("scalar", r"raised TypeError: returned 0\.5 in place of a list of 1 values"),
        ("short", r"raised ValueError: returned 1 values for 3 completions \(on no completion alone\)"),
        (
            "breaks_on_blue",
            r"raised ZeroDivisionError.* on row 'r:2' \(completion 'a blue sky.*solution 'blue'",
        ),
        ("not_finite", r"returned inf on row 'r:1'"),
    ],
)
def test_the_evaluation_names_function_sample_and_value(reward, function, reported):
    found = reward(f"function: 'mine.py:{function}'")
    rows = [{"prompt": "p", "row_id": f"r:{k}", "solution": reference} for k, reference in enumerate(REFERENCES, 1)]
    answers = [Generation(text, [1], False) for text in TEXTS]
    with pytest.raises(RewardError, match=rf"held-out samples: reward '{function}' {reported}"):
        score_rows(rows, answers, [found], guarded_scores)


def test_an_evaluation_that_abstains_goes_on(reward, caplog):
    found = reward("function: 'mine.py:breaks_on_blue'")
    columns = {
        "prompts": ["p"] * 3,
        "completions": said(),
        "solution": REFERENCES,
        "row_id": ["r:1", "r:2", "r:3"],
    }
    assert guarded_scores(found, on_error="abstain", **columns) == [1.0, None, 1.0]
    assert "r:2" in caplog.text
