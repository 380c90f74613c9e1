"""rewards.yaml: what it can say, and how it is told what it says wrong."""

import pickle
from pathlib import Path

import pytest

from omnirl_core.rewards import RewardsError, load_rewards, on_answer
from omnirl_core.rewards.registry import SCORERS, scorer_named

ROOT = Path(__file__).parents[2]
GOOD = "<think>a</think><answer>{}</answer>"


def write(folder, text):
    path = folder / "rewards.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(folder, text):
    """Faults of a file, without its path."""
    path = write(folder, text)
    with pytest.raises(RewardsError) as caught:
        load_rewards(path)
    assert all(fault.startswith(f"{path}:") for fault in caught.value.faults)
    return [fault.removeprefix(f"{path}:") for fault in caught.value.faults]


def test_every_key(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.py").write_text("def brief(text, *, most=3):\n    return float(len(text) <= most)\n")
    path = write(
        tmp_path,
        """
rewards:
  - {name: think_format, weight: 0.2}
  - name: overlap
    settings: {preset: null, weights: {bleu: 1, rouge: 2}}
    tasks: [caption, text]
  - {name: iou_at_half, scorer: box_iou, settings: {threshold: 0.5}, tasks: boxes}
  - function: own/mine.py:brief
    settings: {most: 5}
    reads: answer
  - {name: short, function: own/mine.py:brief, weight: -1}
  - {name: length_band, weight: 1.0e-1, gated_by: [overlap, iou_at_half], gate_at: 0.5}
""",
    )
    rewards = load_rewards(path)
    assert [reward.name for reward in rewards] == [
        "think_format", "overlap", "iou_at_half", "brief", "short", "length_band",
    ]  # fmt: skip
    form, text, iou, brief, short, length = rewards
    assert (form.weight, text.weight, short.weight, length.weight) == (0.2, 1.0, -1.0, 0.1)
    assert (text.tasks, iou.tasks, form.tasks) == (("caption", "text"), ("boxes",), None)
    assert iou.score(GOOD.format([0, 0, 10, 10]), [0, 0, 10, 10]) == 1.0
    assert brief.score(GOOD.format("abcd")) == 1.0
    assert short.score(GOOD.format("abcd")) == 0.0
    assert length.gates == (text, iou)
    assert length.gate_at == 0.5
    assert pickle.loads(pickle.dumps(rewards)) == rewards
    assert load_rewards(str(path)) == rewards


@pytest.mark.parametrize("name", SCORERS)
def test_every_registered_name_is_a_scorer_with_a_docstring(name):
    scorer = scorer_named(name)
    assert scorer.__name__ == name
    assert scorer.__doc__


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rewards:\n- {name: think_fromat}", "2: no reward 'think_fromat'; did you mean 'think_format'?"),
        ("rewards:\n- {name: overlap, weigth: 1}", "2: unknown key 'weigth'; did you mean 'weight'?"),
        ("rewards:\n- name: overlap\n  weight: 1\n  weight: 2", "4: 'weight' is given twice"),
        (
            "rewards:\n- name: overlap\n  settings:\n    variant: rouge1\n    variant: rouge2",
            "5: 'variant' is given twice",
        ),
        ("rewards: [{name: overlap}]\nrewards: [{name: bleu}]", "2: 'rewards' is given twice"),
        ("rewards:\n- {name: overlap}\nbalance: gdpo", "3: unknown key 'balance'; known: rewards"),
        ("rewards:\n- {name: overlap, weight: heavy}", "2: weight: 'heavy' is not a number"),
        ("rewards:\n- {name: overlap, weight: true}", "2: weight: True is not a number"),
        ("rewards:\n- {name: overlap, weight: .inf}", "2: weight: inf is not a number"),
        ("rewards:\n- {name: overlap, weight: 1e-1}", "2: weight: '1e-1' is not a number; YAML wants 0.1"),
        (
            "rewards:\n- {name: rouge, settings: {varient: rouge1}}",
            "2: rouge: unknown setting 'varient'; did you mean 'variant'?",
        ),
        (
            "rewards:\n- {name: overlap, settings: {preset: sead}}",
            "2: overlap: preset: 'sead' is not a choice; did you mean 'seed'?",
        ),
        ("rewards:\n- {name: bleu, settings: {numbers: 1}}", "2: bleu: numbers: 1 is not bool"),
        ("rewards:\n- {name: bleu, settings: {max_order: 0}}", "2: bleu: max_order: 0 must be 1 or more"),
        (
            "rewards:\n- {name: box_iou, settings: {image_sizes: [1]}}",
            "2: box_iou: 'image_sizes' comes with each row and cannot be set",
        ),
        ("rewards:\n- {name: bleu, settings: [1]}", "2: settings: [1] is no mapping of names to values"),
        (
            "rewards:\n- {name: bleu, tasks: {a: 1}}",
            "2: tasks: {'a': 1} is neither a name nor a list of names",
        ),
        ("rewards:\n- {name: bleu, tasks: []}", "2: tasks: [] is neither a name nor a list of names"),
        (
            "rewards:\n- {name: bleu, tasks: [a, 1]}",
            "2: tasks: ['a', 1] is neither a name nor a list of names",
        ),
        ("rewards:\n- {name: bleu, reads: all}", "2: reads: 'all' is neither 'answer' nor 'completion'"),
        ("rewards:\n- bleu", "2: 'bleu' is no entry; write `- name: bleu`"),
        ("rewards:\n- {weight: 1}", "2: an entry wants a `name:` or a `function:`"),
        (
            "rewards:\n- {name: bleu}\n- {name: bleu}",
            "3: a second reward named 'bleu'; give it a name of its own and `scorer: bleu`",
        ),
        (
            "rewards:\n- {name: overlap}\n- {name: length_band, gated_by: overlapp}",
            "3: gated_by: 'overlapp' is no other, ungated reward here; did you mean 'overlap'?",
        ),
        (
            "rewards:\n- {name: length_band, gated_by: length_band}",
            "2: gated_by: 'length_band' is no other, ungated reward here; it has none",
        ),
        (
            "rewards:\n- {name: bleu, gated_by: rouge}\n- {name: rouge, gated_by: meteor}\n- {name: meteor}",
            "2: gated_by: 'rouge' is no other, ungated reward here; known: meteor",
        ),
        ("rewards:\n- {name: bleu, gate_at: 0.5}", "2: gate_at: there is no gated_by that it could apply to"),
        (
            "rewards:\n- {name: bleu}\n- {name: rouge, gated_by: bleu, gate_at: 50}",
            "3: gate_at: 50 is not between 0 and 1",
        ),
        ("rewards:\n- {function: nowhere.py:f}", "2: function: no Python file {folder}/nowhere.py"),
        (
            "rewards:\n- {function: mine.py}",
            "2: function: 'mine.py' is not of the form path/to/file.py:function",
        ),
        (
            "rewards:\n- {function: mine.py:breif}",
            "2: function: no function 'breif' in {folder}/mine.py; did you mean 'brief'?",
        ),
        ("rewards:\n- {function: broken.py:f}", "2: function: division by zero"),
        (
            "rewards:\n- {name: x, scorer: bleu, function: mine.py:brief}",
            "2: an entry has a `scorer:` or a `function:`, not both",
        ),
        (
            "rewards:\n- {function: mine.py:brief, settings: {mots: 3}}",
            "2: brief: unknown setting 'mots'; did you mean 'most'?",
        ),
        ("rewards: []", "1: wants `rewards:` and under it a list of at least one entry"),
        ("", "1: wants `rewards:` and under it a list of at least one entry"),
        ("- {name: bleu}", "1: wants `rewards:` and under it a list of at least one entry"),
        ("rewards: {name: bleu}", "1: wants `rewards:` and under it a list of at least one entry"),
        ("rewards:\n- {name: [bleu}", "2: not YAML: expected ',' or ']', but got '}'"),
        (
            "rewards:\n- {name: !!python/object:os.system x}",
            "2: not YAML: could not determine a constructor for the tag",
        ),
    ],
)
def test_a_fault_is_reported_with_its_line_and_the_nearest_name(tmp_path, text, expected):
    (tmp_path / "mine.py").write_text("def brief(text, *, most=3):\n    return 1.0\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (fault,) = faults(tmp_path, text)
    assert fault.startswith(expected.replace("{folder}", str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("number", "relative_tolerance: 5"), ("number", "relative_tolerance: -1"), ("number", "absolute_tolerance: -1"),
        ("number", "absolute_tolerance: .inf"), ("number", "pick: best"), ("answer", "floor: 2"),
        ("answer", "order: [choise]"), ("math", "timeout_s: 0"), ("edit_similarity", "floor: -1"),
        ("box_iou", "threshold: -1"), ("box_iou", "threshold: 50"), ("box_iou", "space: resize"),
        ("box_iou", "solution_space: pixel"), ("box_iou", "kind: diou"), ("box_f1", "threshold: 0"),
        ("box_f1", "measure: f2"), ("box_ap", "thresholds: [0.5, 75]"), ("box_ap", "thresholds: []"),
        ("box_ap", "max_boxes: 0"), ("code", "workers: -1"), ("code", "timeout_s: -5"), ("code", "memory_bytes: 64"),
        ("code", "tolerance: 2"), ("code", "language: java"), ("overlap", "power: -2"),
        ("overlap", "weights: {bleu: 0}"),
        ("meteor", "alpha: 1"), ("length_band", "low: -5"), ("length_band", "edge: 0"), ("length_band", "low: 500"),
        ("repetition", "order: 0"), ("rouge", "variant: rouge3"),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_with_its_line(tmp_path, name, setting):
    extra = "    allow_local_execution: true\n" if name == "code" else ""
    text = f"rewards:\n- name: {name}\n  settings:\n{extra}    {setting}\n"
    (fault,) = faults(tmp_path, text)
    assert fault.startswith(f"{text.splitlines().index('    ' + setting) + 1}: {name}: ")
    assert setting.partition(":")[0] in fault


def test_all_faults_are_reported_at_once_in_the_order_of_the_file(tmp_path):
    found = faults(
        tmp_path,
        """
rewards:
  - {name: think_fromat, weight: heavy}
  - {name: overlap, settings: {preset: sead, synonims: none}}
  - {name: length_band, gated_by: nothing}
""",
    )
    assert [int(fault.partition(":")[0]) for fault in found] == [3, 3, 4, 4, 5]


def test_of_many_faults_ten_are_shown_and_the_rest_counted(tmp_path):
    path = write(tmp_path, "rewards:\n" + "- {name: nonsense}\n" * 30)
    with pytest.raises(RewardsError) as caught:
        load_rewards(path)
    assert len(caught.value.faults) == 59  # unknown, and from the second on a second of its name
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "... and 49 more"


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no_such\.yaml"):
        load_rewards(tmp_path / "no_such.yaml")


def test_a_custom_function_may_be_marked(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from omnirl_core.rewards import on_answer\n\n@on_answer\n"
        "def same(answer, reference):\n    return float(answer == reference)\n"
    )
    (reward,) = load_rewards(write(tmp_path, "rewards:\n- function: mine.py:same"))
    assert on_answer(lambda answer: 1.0).reads == reward.reads == "answer"
    assert reward.score(GOOD.format("x"), "x") == 1.0


def test_two_files_of_one_name_are_two_modules(tmp_path):
    for folder, value in (("a", 0.25), ("b", 0.75)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"def score(text):\n    return {value}\n")
    path = write(tmp_path, "rewards:\n- {name: x, function: a/mine.py:score}\n- {name: y, function: b/mine.py:score}")
    assert [reward.score("t") for reward in load_rewards(path)] == [0.25, 0.75]


# --- recipes/rewards: to copy and paste ---

CONFIGS = sorted(ROOT.glob("recipes/**/rewards*.yaml")) + sorted(ROOT.glob("recipes/rewards/*.yaml"))
COPY_PASTE = [path for path in CONFIGS if path.parent.name == "rewards"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_rewards_yaml_of_the_recipes_loads(path):
    rewards = load_rewards(path)
    assert pickle.loads(pickle.dumps(rewards)) == rewards


def test_there_are_at_least_ten_and_each_says_when_to_use_it():
    assert len(COPY_PASTE) >= 10
    for path in COPY_PASTE:
        head = path.read_text(encoding="utf-8").splitlines()[0]
        assert head.startswith("# Use it when "), path
