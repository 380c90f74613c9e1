"""Short and structured answers: SQuAD's and VQA's own evaluation, scipy and formulas written out, as oracles."""

import json
import random
import re
import string
from collections import Counter

import pytest
from scipy.stats import kendalltau

from omnirl_core.rewards import Reward
from omnirl_core.rewards.registry import scorer_named

token_f1, vqa_accuracy, contains, regex = map(scorer_named, ("token_f1", "vqa_accuracy", "contains", "regex"))
soft_number, set_f1, ranking, json_fields = map(scorer_named, ("soft_number", "set_f1", "ranking", "json_fields"))
PAIRS = 400


# --- SQuAD: evaluate-v1.1.py's functions ---


def squad_f1(prediction, truth):
    def normalize(text):
        text = "".join(char for char in text.lower() if char not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    said, wanted = normalize(prediction), normalize(truth)
    same = sum((Counter(said) & Counter(wanted)).values())
    if same == 0:
        return 0
    precision, recall = 1.0 * same / len(said), 1.0 * same / len(wanted)
    return (2 * precision * recall) / (precision + recall)


TEXT = "the a an The red car, U.S. 3.5 don't it's well-known 1,000 café (2) cat cat dog? AN an-other x_y $5"
WORDS = TEXT.split()


def test_token_f1_is_squads():
    rng = random.Random(0)
    for _ in range(PAIRS):
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 8))) for _ in range(3)]
        if squad_words := [text for text in texts if re.sub(r"[^\w]|\b(a|an|the)\b", "", text.lower())]:
            wanted = max(squad_f1(texts[0], truth) for truth in squad_words)
            assert token_f1(texts[0], squad_words) == pytest.approx(wanted, abs=1e-12)


# --- VQA: vqaEval.py ---

MANUAL_MAP = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
CONTRACTIONS = {"dont": "don't", "isnt": "isn't", "couldnt've": "couldn't've", "oclock": "o'clock", "Im": "I'm"}
PUNCT = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]


def vqa_normal(text):
    text = text.replace("\n", " ").replace("\t", " ").strip()
    out = text
    for p in PUNCT:
        if (p + " " in text or " " + p in text) or (re.search(r"(\d)(\,)(\d)", text) is not None):
            out = out.replace(p, "")
        else:
            out = out.replace(p, " ")
    out = re.compile(r"(?!<=\d)(\.)(?!\d)").sub("", out)
    words = [MANUAL_MAP.get(word, word) for word in out.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ("a", "an", "the"))


def vqa_official(prediction, answers):
    prediction, answers = vqa_normal(prediction), [vqa_normal(one) for one in answers]
    scores = []
    for k in range(len(answers)):
        others = answers[:k] + answers[k + 1 :]
        scores.append(min(1, sum(other == prediction for other in others) / 3))
    return sum(scores) / len(scores)


ANSWERS = [
    "two", "2", "The 2", "a cat", "cat.", "Cat!", "cat/dog", "cat dog", "dont", "don't", "1,000", "1000", "3.5", "3. 5",
    "isnt it?", "isn't it", "five o'clock", "5 oclock", "(red)", "red ,", "none", "0", "well-known", "well known",
]  # fmt: skip


def test_vqa_accuracy_is_the_official_evaluations():
    rng = random.Random(0)
    for _ in range(PAIRS):
        some = rng.sample(ANSWERS, 4)
        people = rng.choices(some, k=10)
        solution = people if rng.random() < 0.5 else [{"answer": one, "answer_id": 1} for one in people]
        prediction = rng.choice(some)
        assert vqa_accuracy(prediction, solution) == pytest.approx(vqa_official(prediction, people), abs=1e-12)


def test_vqa_accuracy_of_fewer_people():
    assert vqa_accuracy("net", ["net"]) == vqa_accuracy("Net", "net") == vqa_accuracy("net", ["net"] * 2) == 1.0
    assert vqa_accuracy("net", ["net"] * 3) == 1.0
    assert vqa_accuracy("net", ["net", "fence"]) == 0.5
    assert vqa_accuracy("net", []) is vqa_accuracy("net", None) is None


# --- sets, rankings, numbers ---


def test_set_f1_is_the_formula():
    rng = random.Random(0)
    for _ in range(PAIRS):
        said, wanted = (
            [rng.choice(["cat", "dog", "owl", "fox", "bee"]) for _ in range(rng.randint(1, 5))] for _ in range(2)
        )
        hits = len(set(said) & set(wanted))
        precision, recall = hits / len(set(said)), hits / len(set(wanted))
        expected = 2 * precision * recall / (precision + recall) if hits else 0.0
        for text in (
            ", ".join(said),
            "\n".join(f"- {one}" for one in said),
            json.dumps(said),
            "; ".join(said).upper(),
        ):
            if len(said) > 1 or not text.startswith("-"):
                assert set_f1(text, wanted) == pytest.approx(expected)


def test_ranking_is_scipys_tau():
    rng = random.Random(0)
    for _ in range(PAIRS):
        size = rng.randint(2, 9)
        order = [f"item {k}" for k in range(size)]
        said = rng.sample(order, size)
        tau = kendalltau(range(size), [said.index(item) for item in order]).statistic
        assert ranking(", ".join(said), order) == pytest.approx(max(0.0, tau))


def test_soft_number_is_the_formula():
    rng = random.Random(0)
    for _ in range(PAIRS):
        wanted, said = rng.uniform(-50, 50), rng.uniform(-50, 50)
        limit = rng.choice([0.1, 0.5, 1.0, 3.0])
        expected = max(0.0, 1 - abs(said - wanted) / abs(wanted) / limit)
        assert soft_number(f"{said:.12f}", f"{wanted:.12f}", limit=limit) == pytest.approx(expected, abs=1e-6)


def leaves(value, path=()):
    """Every leaf with its path, for objects without lists."""
    if isinstance(value, dict) and value:
        return {where: leaf for key, one in value.items() for where, leaf in leaves(one, (*path, key)).items()}
    return {path: value}


def test_json_fields_is_the_f1_of_leaves():
    rng = random.Random(0)

    def drawn(depth=0):
        keys = rng.sample("abcd", rng.randint(1, 4))
        return {
            key: drawn(depth + 1) if depth < 2 and rng.random() < 0.3 else rng.choice([1, 2, "x", "y"]) for key in keys
        }

    for _ in range(PAIRS):
        said, wanted = drawn(), drawn()
        a, b = leaves(said), leaves(wanted)
        same = sum(where in a and a[where] == leaf for where, leaf in b.items())
        expected = 2 * same / (len(a) + len(b))
        assert json_fields(json.dumps(said), wanted) == pytest.approx(expected)
        assert json_fields(f"```json\n{json.dumps(said)}\n```", json.dumps(wanted)) == pytest.approx(expected)


# --- adversarial tables ---

RED = {"problem": "What color is the car?"}
TABLE = [
    (token_f1, "The car is", "The car is red.", RED, 0.0),
    (token_f1, "The car is blue", "The car is red.", RED, 0.0),
    (token_f1, "red", "The car is red.", RED, 0.5),
    (token_f1, "The car is blue", "The car is red.", {}, 2 / 3),
    (token_f1, "The car is blue", "The car is red.", {**RED, "needs_fact": False}, 2 / 3),
    (token_f1, "我爱北京", "我爱上海", {}, 0.5),
    (token_f1, "", "a", {}, 0.0),
    (token_f1, "x", "", {}, None),
    (token_f1, "the", "a", {}, 0.0),
    (contains, "I see a red car.", "red car", {}, 1.0),
    (contains, "I see a red carpet.", "red car", {}, 0.0),
    (contains, "法国的首都是巴黎。", "巴黎", {}, 1.0),
    (contains, "It is not Paris", "Paris", {}, 0.0),
    (contains, "Is it Paris or Rome?", "Paris", {"problem": "Is it Paris or Rome?"}, 0.0),
    (contains, "It is Paris or Rome", "Paris", {"problem": "Is it Paris or Rome?"}, 0.0),
    (contains, "It is Paris", "Paris", {"problem": "Is it Paris or Rome?"}, 1.0),
    (contains, "Paris " + "word " * 31, "Paris", {}, 0.0),
    (contains, "Paris word", "Paris", {"surplus": 0}, 0.0),
    (contains, "C++ is it", "C++", {}, 1.0),
    (contains, "", "Paris", {}, 0.0),
    (contains, "Paris", None, {}, None),
    (regex, "AB-12", r"[A-Z]{2}-\d\d", {}, 1.0),
    (regex, "ab-12", r"[A-Z]{2}-\d\d", {}, 0.0),
    (regex, "ab-12", r"[A-Z]{2}-\d\d", {"case_sensitive": False}, 1.0),
    (regex, "it is AB-12.", r"[A-Z]{2}-\d\d", {"part": True}, 1.0),
    (regex, "x", "(", {}, None),
    (regex, "x", ["(", "x"], {}, 1.0),
    (regex, "x", None, {}, None),
    (regex, "x", None, {"pattern": "[xy]"}, 1.0),
    (regex, "a" * 50 + "!", "(a|aa)+$", {}, 0.0),
    (regex, "a" * 9_000, "(a*)*(a*)*b", {}, 0.0),
    (soft_number, "1 or 2", 1, {}, 0.0),
    (soft_number, "2 cats", "2 dogs", {}, 0.0),
    (soft_number, "1e400", "1", {}, 0.0),
    (soft_number, "0", 0, {}, 1.0),
    (soft_number, "0.1", 0, {}, 0.0),
    (soft_number, "2001", "2000", {}, 0.0),
    (soft_number, "51 %", "50%", {"limit": 0.1}, 0.8),
    (soft_number, "9", "a dog", {}, None),
    (set_f1, "A, B, C, D", "A", {}, 0.4),
    (set_f1, "cat and dog", ["dog", "cat"], {}, 1.0),
    (set_f1, "dog", [["cat"], ["dog"]], {}, 1.0),
    (set_f1, "", ["cat"], {}, 0.0),
    (set_f1, "cat", [], {}, None),
    (set_f1, "cat", None, {}, None),
    (ranking, "b, a", ["a", "b"], {}, 0.0),
    (ranking, "a, x, b, y", ["a", "b"], {}, 0.5),
    (ranking, "a", ["a"], {}, None),
    (ranking, "", ["a", "b"], {}, 0.0),
    (json_fields, '{"a": 3}', {"a": "3"}, {}, 1.0),
    (json_fields, '{"a": 3}', {"a": "3"}, {"strict_types": True}, 0.0),
    (json_fields, '{"a": 1, "b": 2, "c": 3}', {"a": 1}, {}, 0.5),
    (json_fields, '{"a": 1, "id": 7}', {"a": 1, "id": 9}, {"ignore": ["id"]}, 1.0),
    (json_fields, '{"a": 101}', {"a": 100}, {"relative_tolerance": 0.02}, 1.0),
    (json_fields, '{"a": true}', {"a": 1}, {}, 0.0),
    (json_fields, '{"a": null}', {"a": None}, {}, 1.0),
    (json_fields, '{"a": [1, 2]}', {"a": [2, 1]}, {}, 0.0),
    (json_fields, '[{"n": 2}, {"n": 1}]', [{"n": 1}, {"n": 2}], {}, 1.0),
    (json_fields, '{"a": 1} and more', {"a": 1}, {}, 0.0),
    (json_fields, '{"a": ' * 5_000, {"a": 1}, {}, 0.0),
    (json_fields, '{"a": 1}', "no JSON", {}, None),
    (json_fields, '{"a": 1}', {}, {}, None),
]  # fmt: skip


@pytest.mark.parametrize(("scorer", "prediction", "solution", "settings", "expected"), TABLE)
def test_adversarial(scorer, prediction, solution, settings, expected):
    assert scorer(prediction, solution, **settings) == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{name: regex, settings: {pattern: '('}}", ":2: regex: pattern: '(' is no regular expression"),
        ("{name: regex, settings: {timeout_s: 0}}", ":2: regex: timeout_s: 0 must be above 0"),
        ("{name: soft_number, settings: {limit: 0}}", ":2: soft_number: limit: 0 must be above 0"),
        ("{name: contains, settings: {surplus: -1}}", ":2: contains: surplus: -1 must be 0 or more"),
        ("{name: json_fields, settings: {strict: true}}", "unknown setting 'strict'; did you mean 'strict_types'?"),
        ("{name: json_fields, settings: {ignore: id}}", "ignore: 'id' is not"),
    ],
)
def test_settings_are_checked(refusal, entry, message):
    assert message in refusal(entry)


def test_the_question_comes_from_the_columns():
    reward = Reward("token_f1", token_f1)
    completion = "<think>so</think><answer>The car is blue</answer>"
    assert reward(completions=[completion], solution=["The car is red"], problem=[RED["problem"]]) == [0.0]
