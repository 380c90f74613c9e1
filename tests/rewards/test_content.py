"""Content weights: what of an answer counts once the question is known, on tables written before the weights were."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from omnirl_core.rewards import bleu, load_rewards, meteor, overlap, rouge
from omnirl_core.rewards.answers.answers import edit_similarity
from omnirl_core.rewards.overlap.content import question_of
from omnirl_tools.checks.hacks import BLIND, THOUGHT, Sample, formed

TABLES = Path(__file__).parent / "tables"
CONFIGS = Path(__file__).parents[2] / "recipes" / "rewards"


def table(name):
    with open(TABLES / name, encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


PAIRS, SENTENCES = table("pairs.tsv"), table("sentences.tsv")
ANSWERS = [json.loads(line) for line in (TABLES / "answers.jsonl").read_text(encoding="utf-8").splitlines()]

# --- one word makes it wrong ---


def ranks_right(row, **settings):
    right, wrong = (overlap(row[side], row["reference"], **settings) for side in ("right", "wrong"))
    return right > wrong


def test_a_right_answer_in_other_words_beats_a_wrong_one_in_the_same_words():
    assert len(PAIRS) >= 150
    assert len({row["language"] for row in PAIRS}) == 8
    right = [row for row in PAIRS if ranks_right(row, problem=row["question"])]
    assert len(right) >= 0.97 * len(PAIRS)
    for kind in ("negation", "number", "unit", "colour", "entity"):
        assert sum(row["kind"] == kind for row in right) >= 30  # of 32
    assert sum(ranks_right(row) for row in PAIRS) < 20  # without the question: what n-grams alone see


# --- blind answers ---

SHORT, FREE = ["documents", "short_answers", "structured"], ["answer_form", "several_references", "short_answers"]
NO_TASK = {*SHORT, "pointing"}
"""Configs that are for samples without a task first of all."""
WHERE = {  # kind -> configs that users take for it, with the task that mixed.yaml knows
    "sentences": (["unified_text", "caption", "mixed", "visual_qa", "text_reading", *FREE], "text"),
    "chinese": (["chinese_text", "unified_text", "mixed", "caption", "visual_qa", *FREE], "text"),
    "one word": (["unified_text", "visual_qa", "text_reading", "caption", "mixed", "answer_form", *SHORT], "text"),
    "numbers": (["counting", "visual_qa", "mixed", "math", "unified_text", *SHORT], "count"),
    "years": (["counting", "visual_qa", "mixed", "math", "unified_text", *SHORT], "count"),
    "choices": (["multiple_choice", "visual_qa", "mixed"], "choice"),
    "boxes": (["rec_soft", "rec_strict", "detection", "mixed", "pointing"], "boxes"),
    "code": (["code"], "code"),
}
QUESTION_HACKS = ("question alone", "question stated", "guessed fact", "echo", "frame of answers")


def samples():
    for row in SENTENCES:
        kept = {"statement": row["statement"], "guess": row["guess"]}
        yield "sentences", Sample(row["question"], row["reference"], row["reference"], (), "text", **kept)
    for row in ANSWERS:
        solution = row["solution"]
        first = solution[0] if isinstance(solution, list) and row["kind"] != "boxes" else solution
        answer = row.get("answer") or (first if isinstance(first, str) else json.dumps(first))
        kept = {name: row.get(name) for name in ("statement", "guess", "options")}
        yield row["kind"], Sample(row["question"], solution, answer, (), WHERE[row["kind"]][1], **kept)


def total(rewards, sample, completion):
    columns = {"problem": sample.problem, "options": sample.options, "task": sample.task}
    columns |= {"image_sizes": [(640, 480)], "resized_sizes": [(640, 480)]}
    ids = list(range(len(completion) // 4))
    scores = [
        reward.score(completion, sample.solution, completion_ids=ids, **columns)
        if reward.applies_to(sample.task)
        else None
        for reward in rewards
    ]
    return sum(reward.weight * (score or 0.0) for reward, score in zip(rewards, scores, strict=True))


def test_blind_answers_earn_little_of_samples_without_a_task(tmp_path):
    """`answer_or_overlap`, which judges them in the shipped files, reads question and options as its parts do."""
    (tmp_path / "rewards.yaml").write_text("rewards:\n- {name: answer_or_overlap}\n")
    rewards = load_rewards(tmp_path / "rewards.yaml")
    own = [sample for kind, sample in samples() if kind not in ("boxes", "code")]
    assert len(own) >= 80
    for sample in own:
        right = total(rewards, sample, sample.right)
        assert right == 1, sample.problem
        earned = {hack: total(rewards, sample, BLIND[hack](sample)) for hack in QUESTION_HACKS}
        assert max(earned.values()) <= 0.25, (sample.problem, earned)


def test_blind_answers_earn_little_under_every_config():
    """At most a quarter of the right answer's total, and 15 % in the mean over samples."""
    every = list(samples())
    assert len(every) >= 100
    assert {kind for kind, _ in every} == set(WHERE)
    configs = {name: load_rewards(CONFIGS / f"{name}.yaml") for names, _ in WHERE.values() for name in names}
    unheld = {"original_scheme", "reference_probability", "judge"}  # a policy's and a model's own grades
    assert set(configs) == {path.stem for path in CONFIGS.glob("*.yaml")} - unheld
    too_high, shares = [], {name: [] for name in configs}
    for kind, sample in every:
        for name in WHERE[kind][0]:
            asked = replace(sample, task=None if name in NO_TASK else sample.task)
            right = total(configs[name], asked, sample.right)
            if name == "structured" and isinstance(sample.solution, list):
                continue  # alternatives here, one set of labels there
            assert right > 0.9, (name, sample.problem)
            earned = {hack: total(configs[name], asked, BLIND[hack](sample)) / right for hack in QUESTION_HACKS}
            shares[name] += earned.values()
            too_high += [(name, sample.problem, hack, share) for hack, share in earned.items() if share > 0.25]
    assert too_high == []
    means = {name: sum(found) / len(found) for name, found in shares.items()}
    every_share = [share for found in shares.values() for share in found]
    assert sum(every_share) / len(every_share) <= 0.15
    assert {name: mean for name, mean in means.items() if mean > 0.2} == {}


def test_a_paraphrase_earns_more_than_every_blind_answer():
    assert len(SENTENCES) >= 60
    for name in ("unified_text", "caption", "mixed"):
        rewards = load_rewards(CONFIGS / f"{name}.yaml")
        for row in SENTENCES:
            sample = Sample(row["question"], row["reference"], row["reference"], (), "text")
            reported, *blind = (
                total(rewards, sample, formed(row[column], think=THOUGHT))
                for column in ("paraphrase", "question", "statement", "guess")
            )
            assert reported > max(blind), (name, row)


# --- what is weighted how ---

METRICS = (bleu, rouge, meteor, overlap)
TEXTS = [
    "The car is red.",
    "红色的车",
    "Es ist ein Hund",
    "犬は茶色です",
    "x",
    "is it",
    "The the the",
    "नमस्ते दुनिया",
    "...",
]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("text", TEXTS)
def test_identical_text_stays_one_whatever_the_question(metric, text):
    for question in ("What color is the car?", text, "车是什么颜色？", "?"):
        for light in (0.02, 0.3, 1.0):
            assert metric(text, text, problem=question, light=light) == 1.0
            assert 0.0 <= metric("a red car", text, problem=question, light=light) <= 1.0


@pytest.mark.parametrize("metric", METRICS)
def test_the_question_gets_little_and_the_fact_nearly_all(metric):
    question, reference = "What color is the car?", "The car is red."
    assert metric(question, reference, problem=question) < 0.11
    assert metric("The car is", reference, problem=question) < 0.11
    assert 0.9 < metric("red", reference, problem=question) < 1.0
    assert metric("The car is blue.", reference, problem=question) < 0.11
    unweighted = metric("The car is blue.", reference, problem=question, light=1)
    assert unweighted == metric("The car is blue.", reference) > 0.3


def test_compat_and_the_original_know_no_question():
    for metric, setting in ((bleu, "nltk"), (rouge, "rouge_score"), (meteor, "nltk")):
        args = ("a red car is here", "the car is red")
        assert metric(*args, compat=setting, problem="Is the car red?") == metric(*args, compat=setting)
    args = ("The car is blue", "The car is red")
    assert overlap(*args, preset="seed", problem="What color is the car?") == overlap(*args, preset="seed")


def test_a_reference_of_question_words_falls_back():
    question = "Say: the sky is blue"
    assert overlap("the sky is blue", "the sky is blue", problem=question) == 1.0
    assert overlap("the sky", "the sky is blue", problem=question) > 0.3  # the question's words count again
    assert overlap("it is", "it is so", problem="?") == overlap("it is", "it is so")  # function words: no weights


def test_alternatives_of_a_question_keep_their_weight():
    question = "Is the car red or blue?"
    said = [overlap(text, "The car is red.", problem=question) for text in ("red", "blue", question)]
    assert said[0] > 0.9
    assert max(said[1:]) < 0.2


@pytest.mark.parametrize(
    ("question", "statement", "reference"),
    [
        ("What did the boy eat?", "The boy ate", "The boy ate an apple."),
        ("What has she taken?", "She took", "She took a cup."),
        ("Welche Farbe haben die Häuser?", "Die Farbe des Hauses ist", "Die Farbe der Häuser ist rot."),
        ("Какого цвета машина?", "Цвет машины", "Цвет машины красный."),
    ],
)
def test_other_forms_of_the_questions_words_are_known_too(question, statement, reference):
    assert overlap(statement, reference, problem=question) < 0.2


@pytest.mark.parametrize(
    ("one", "other"),
    [("C++", "C"), ("C#", "C"), ("A+", "A-"), ("$5", "€5"), ("x = 1", "x ≠ 1"), ("5 %", "5")],
)
def test_marks_that_carry_meaning_are_words(one, other):
    assert overlap(one, other) < 1.0
    assert overlap(other, one) < 1.0
    assert overlap(one, one) == 1.0


def test_edit_similarity_pays_no_frame():
    question, reference = "What does the large sign say?", "The large sign says Stop."
    assert edit_similarity("The large sign says", reference) > 0.5
    assert edit_similarity("The large sign says", reference, problem=question) == 0.0
    assert edit_similarity("The large sign says Stap.", reference, problem=question) > 0.9


@pytest.mark.parametrize(
    "prompt",
    [
        "Where is it? Output the answer in <answer> </answer> tags.",
        [{"role": "user", "content": "Where is it? Answer in <answer> tags."}],
        [
            {"role": "system", "content": "No question?"},
            {"role": "user", "content": [{"type": "image"}, "Where is it?"]},
        ],
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "<image>Where is it? First <think>, then </answer>"}],
            }
        ],
        "The word " * 80 + ". Where is it?",
    ],
)
def test_the_question_of_a_prompt(prompt):
    assert question_of(prompt) == "Where is it?"


@pytest.mark.parametrize(
    "prompt", [None, 5, [], [{}], [{"role": "user", "content": None}], "<answer>", [[1]], "word " * 99]
)
def test_a_prompt_without_a_question(prompt):
    assert question_of(prompt) == ""
    assert overlap("a cat", "a cat", prompt=prompt) == 1.0
