"""Reward: one scorer on a TRL batch."""

import dataclasses
import pickle
import subprocess
import sys
import threading

import pytest

from omnirl_core.rewards import (
    Reward,
    describe_rewards,
    length_band,
    on_answer,
    overlap,
    reads_columns,
    rouge,
    think_format,
)
from omnirl_core.rewards.registry import SCORERS, FileFunction, scorer_named
from omnirl_core.rewards.reward import signature_of
from scripts.build_embedding import demo_folder

GOOD = "<think>a</think><answer>{}</answer>"


@on_answer
def says(prediction, solution, *, loud=False):
    return None if solution is None else float(prediction == (solution.upper() if loud else solution))


def batch(reward, answers, **columns):
    return reward(prompts=["?"] * len(answers), completions=[GOOD.format(a) for a in answers], **columns)


def test_a_batch_as_trl_calls_it():
    """Strings or messages, columns as lists, things that are no columns, one score or None a row."""
    columns = {
        "completion_ids": [[1], [2]],
        "problem": ["p", "q"],
        "trainer_state": object(),
        "log_extra": print,
    }
    reward = Reward("overlap", overlap)
    assert batch(reward, ["a cat", "a dog"], solution=["a cat", None], **columns) == [1.0, None]
    messages = [[{"role": "assistant", "content": GOOD.format("a cat")}]]
    assert reward(prompts=[[]], completions=messages, solution=["a cat"]) == [1.0]
    assert reward(prompts=[], completions=[], solution=[]) == []


def test_the_answer_or_the_whole_text():
    assert Reward("says", says).reads == "answer"
    assert Reward("says", says).score(GOOD.format("x"), "x") == 1.0
    assert Reward("says", says).score("x", "x") == 0.0  # no answer in its tags
    assert Reward("says", says, reads="completion").score("x", "x") == 1.0
    assert Reward("format", think_format).score(GOOD.format("x")) == 1.0


@pytest.mark.parametrize("completion", [None, "", [], [{"role": "assistant", "content": None}], "<answer>", "no tags"])
def test_no_answer_is_wrong_and_no_reference_is_unjudgeable(completion):
    assert Reward("overlap", overlap).score(completion, "a cat") == 0.0
    assert Reward("overlap", overlap).score(completion, None) is None


@pytest.mark.parametrize(
    "solution", [4, 4.5, ["a", 4], {"answer": "a"}, {"boxes": 1}, [], None, True, [[1, 2]], [None]]
)
def test_a_weird_solution_never_kills_a_batch(solution):
    scores = batch(Reward("overlap", overlap), ["4", "x", "4"], solution=["4", solution, "4"])
    assert scores[0] == scores[2] == 1.0
    assert scores[1] is None or 0.0 <= scores[1] <= 1.0


def test_rows_of_other_tasks_get_none():
    reward = Reward("overlap", overlap, tasks=("caption", "text"))
    tasks = ["caption", "boxes", "text", None]
    assert batch(reward, ["a"] * 4, solution=["a"] * 4, task=tasks) == [1.0, None, 1.0, None]
    assert batch(reward, ["a"], solution=["a"]) == [None]
    assert batch(Reward("overlap", overlap), ["a", "a"], solution=["a"] * 2, task=["x", None]) == [1.0, 1.0]


def test_unjudgeable_rows_are_counted_and_rows_of_other_tasks_are_not():
    logged = {}
    reward = Reward("overlap", overlap, tasks=("text",))
    solution, task = ["a", None, {}, None], ["text", "text", "text", "boxes"]
    batch(reward, ["a"] * 4, solution=solution, task=task, log_metric=logged.__setitem__)
    assert logged == {"overlap/unjudgeable": 2}
    batch(reward, ["a"], solution=["a"], task=["text"], log_metric=lambda *_: pytest.fail("nothing to count"))


def test_columns_that_a_scorer_names_are_passed_row_by_row():
    seen = []

    def nosy(completion, solution, *, image_sizes=None, prompt=None, task=None, completion_ids=None, factor=2):
        seen.append((completion, solution, image_sizes, prompt, task, completion_ids, factor))
        return 0.5

    Reward("nosy", nosy, settings={"factor": 3})(
        prompts=["p", "q"],
        completions=["a", "b"],
        solution=[1, 2],
        image_sizes=[[(4, 5)], []],
        task=["x", None],
        completion_ids=[[7], [8, 9]],
        other=["unseen", "unseen"],
    )
    assert seen == [("a", 1, [(4, 5)], "p", "x", [7], 3), ("b", 2, [], "q", None, [8, 9], 3)]


def test_a_setting_wins_over_a_column_of_its_name():
    reward = Reward("rouge", rouge, settings={"variant": "rouge1"})
    assert batch(reward, ["b a"], solution=["a b"], variant=["rouge2"]) == [1.0]


def test_no_column_changes_a_scorer_that_does_not_declare_it():
    """Every setting of every scorer as a column, with a value that would change or stop it."""
    columns = {}
    for name in SCORERS:
        for setting in signature_of(scorer_named(name)).settings:
            if setting not in ("options", "images", "rubric"):  # which some declare as columns of theirs
                columns[setting] = ["nonsense"]
    assert {"unit", "variant", "threshold", "power", "numbers", "low", "provider"} <= set(columns)
    for name in SCORERS:
        needed = {"code": {"allow_local_execution": True}, "embedding": {"model": demo_folder()}}
        reward = Reward(name, scorer_named(name), settings=needed.get(name, {}))
        solution = [""] if name == "code" else ["4"]
        plain = reward(completions=[GOOD.format("4")], solution=solution)
        assert reward(completions=[GOOD.format("4")], solution=solution, **columns) == plain, name


def test_a_scorer_of_ones_own_declares_its_columns():
    @reads_columns("level")
    def mine(completion, solution, *, level=1, strict=True, source=None):
        return level + 10 * strict + 100 * (source or 0)

    columns = {"solution": ["a"], "level": [5], "strict": [False], "source": [1]}
    assert Reward("mine", mine)(completions=["x"], **columns) == [115.0]
    assert Reward("mine", mine, settings={"level": 2})(completions=["x"], **columns) == [112.0]


def test_options_are_read_from_their_column():
    reward = Reward("choice", scorer_named("choice"))
    assert batch(reward, ["Paris"], solution=["B"], options=[["Rome", "Paris"]]) == [1.0]


def test_length_counts_the_tokens_of_its_row():
    reward = Reward("length", length_band, settings={"low": 4, "high": 8})
    completions = ["one two three four"] * 3
    assert reward(completions=completions, completion_ids=[[1] * 4, [1] * 2, [1] * 12]) == [1.0, 0.5, 0.5]


def test_a_scorer_may_take_every_column():
    def greedy(completion, **columns):
        return float(columns["level"] == columns["prompt"] == "p")

    assert Reward("greedy", greedy)(prompts=["p"], completions=["x"], level=["p"]) == [1.0]


@pytest.mark.parametrize(
    ("scorer", "score"),
    [
        (lambda completion: 1, 1.0),
        (lambda completion, solution: float(solution), 7.0),
        (lambda completion, reference=None: float(reference), 7.0),
        (lambda completion, words=3: float(words), 3.0),
        (lambda completion, *, solution=2: float(solution), 2.0),
    ],
)
def test_the_second_parameter_is_the_solution_unless_it_is_a_setting(scorer, score):
    assert Reward("any", scorer).score("x", "7") == score


def test_scores_become_floats_and_nan_abstains():
    values = [True, 1, float("nan"), None]
    reward = Reward("any", lambda completion: values[int(completion)])
    scores = reward(completions=["0", "1", "2", "3"])
    assert scores == [1.0, 1.0, None, None]
    assert isinstance(scores[0], float)


def test_the_first_gate_that_judges_the_row_decides():
    text, boxes = Reward("text", overlap, tasks=("text",)), Reward("boxes", says, tasks=("boxes",))
    reward = Reward("length", lambda completion: 1.0, gates=(text, boxes), gate_at=0.5)
    columns = {"solution": ["a", "b", "b", None], "task": ["text", "boxes", "other", "text"]}
    assert batch(reward, ["a", "a", "b", "a"], **columns) == [1.0, 0.0, None, None]


def test_an_error_in_a_scorer_names_the_reward_and_the_sample():
    def broken(completion, solution):
        raise KeyError("boom")

    with pytest.raises(KeyError) as caught:
        batch(Reward("mine", broken), ["a"], solution=["reference"])
    assert caught.value.__notes__[0].startswith("in reward 'mine', completion '<think>a</think>")
    assert "reference" in caught.value.__notes__[0]


def test_settings_are_checked_when_a_reward_is_made():
    with pytest.raises(TypeError, match="unknown setting 'varient'; did you mean 'variant'"):
        Reward("r", rouge, settings={"varient": "rouge1"})
    with pytest.raises(TypeError, match="did you mean 'rouge1'"):
        Reward("r", rouge, settings={"variant": "rogue1"})


# --- frozen, equal, picklable, named ---


def test_rewards_are_values():
    one = Reward("Rr", rouge, 0.5, {"variant": "rouge1"}, ("text",))
    same = Reward("Rr", rouge, 0.5, {"variant": "rouge1"}, ("text",))
    assert one == same
    assert hash(one) == hash(same)
    assert one != Reward("Rr", rouge, 0.5, {"variant": "rouge2"}, ("text",))
    assert one.__name__ == "Rr"
    assert "variant" in repr(one)
    assert "0.5" in repr(one)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.weight = 2


def test_rewards_pickle():
    gate = Reward("overlap", overlap)
    reward = Reward("length", length_band, 0.1, {"low": 3}, gates=(gate,), gate_at=0.5)
    copy = pickle.loads(pickle.dumps(reward))
    assert copy == reward
    assert copy.score(GOOD.format("a b c"), "a b c") == reward.score(GOOD.format("a b c"), "a b c") == 1.0


def test_a_function_of_a_file_pickles_into_another_process(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def brief(completion, *, most=10):\n    '''Is it brief?'''\n    return float(len(completion) < most)\n"
    )
    reward = Reward("brief", FileFunction(file, "brief"), settings={"most": 5})
    (tmp_path / "reward.pickle").write_bytes(pickle.dumps(reward))
    script = (
        "import pickle, sys; r = pickle.load(open(sys.argv[1], 'rb'));"
        "print(r(completions=['abc', 'abcdefg']), r.scorer.__doc__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "reward.pickle")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "[1.0, 0.0] Is it brief?", done.stderr


# --- descriptions ---


def test_descriptions_say_what_is_set_and_what_is_default():
    text = describe_rewards([Reward("Rr", rouge, 0.5, {"variant": "rouge1"}, ("a", "b"))])
    assert text.startswith("Rr: weight 0.5, reads the answer, tasks: a, b")
    assert "variant = 'rouge1'  (default 'rougeL')" in text
    assert "numbers = False" in text
    gated = describe_rewards([Reward("l", length_band, gates=(Reward("g", overlap),), gate_at=0.5)])
    assert "at 0.5 of g" in gated


def test_every_registered_scorer_is_described():
    blocks = describe_rewards().split("\n\n")
    assert [block.partition(":")[0] for block in blocks] == list(SCORERS)
    for block in blocks:
        assert "no docstring" not in block
        assert "image_sizes" not in block  # comes with the row, is no setting


# --- once a batch ---


@pytest.mark.parametrize("gate_first", [True, False])
def test_a_gate_judges_a_batch_once(gate_first):
    """The gate is a reward of the file and the gate of two others: 8 completions, 8 calls."""
    calls = []

    def counted(completion, solution):
        calls.append(completion)
        return 0.5

    gate = Reward("gate", counted)
    gated = [Reward(name, lambda completion: 1.0, gates=(gate,)) for name in ("one", "two")]
    rewards = [gate, *gated] if gate_first else [*gated, gate]
    for batch_number in range(2):
        columns = {
            "completions": [f"{batch_number} {i}" for i in range(8)],
            "solution": [str(i) for i in range(8)],
        }
        scores = [reward(prompts=["?"] * 8, **columns) for reward in rewards]
        assert scores == [[0.5] * 8] * 3
        assert len(calls) == 8 * (batch_number + 1)
    assert gate(prompts=["?"] * 8, **columns) == [0.5] * 8
    assert len(calls) == 24  # a second call of its own judges anew
    columns["solution"] = [f"new {i}" for i in range(8)]
    assert gated[0](prompts=["?"] * 8, **columns) == [0.5] * 8
    assert len(calls) == 32  # other references are another batch


def test_samples_are_judged_together_where_the_scorer_allows_it_in_their_order():
    meeting = threading.Barrier(4, timeout=20)

    def together(completion):
        meeting.wait()
        if completion == "bad":
            raise ValueError("bad")
        return float(completion)

    together.samples_at_a_time = lambda **settings: 4
    assert Reward("together", together)(completions=["3", "1", "2", "0"]) == [3.0, 1.0, 2.0, 0.0]
    with pytest.raises(ValueError, match="bad"):
        Reward("together", together)(completions=["3", "bad", "2", "0"])
