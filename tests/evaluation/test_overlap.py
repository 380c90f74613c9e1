"""Means are the rewards', corpus BLEU is sacrebleu's."""

import math

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from omnirl_core.rewards import Reward, bleu, meteor, overlap
from omnirl_tools.evaluation.overlap import METRICS, overlap_figures

ANSWERS = [
    "a red circle above a blue square",
    "the red circle is under the square",
    "two stars",
    "three green triangles and a star",
]
REFERENCES = [
    "a red circle above a blue square",
    "a red circle below a blue square",
    "two yellow stars beside a ring",
    "three green triangles and one star",
]


def lines(answers, references):
    return [
        {"completion": f"<think>hm</think><answer>{answer}</answer>", "solution": reference}
        for answer, reference in zip(answers, references, strict=True)
    ]


def test_corpus_bleu_is_sacrebleus():
    found = overlap_figures(lines(ANSWERS, REFERENCES))
    assert found.corpus_bleu == pytest.approx(sacrebleu.corpus_bleu(ANSWERS, [REFERENCES]).score)
    assert "tok:13a" in found.signature
    assert f"version:{sacrebleu.__version__}" in found.signature


def test_several_references_also_where_rows_have_unlike_many():
    references = [[one, "something else entirely"] if k % 2 else [one] for k, one in enumerate(REFERENCES)]
    streams = [REFERENCES, [None, "something else entirely"] * 2]
    found = overlap_figures(lines(ANSWERS, references))
    assert found.corpus_bleu == pytest.approx(sacrebleu.corpus_bleu(ANSWERS, streams).score)
    assert found.means["rouge1"] == overlap_figures(lines(ANSWERS, REFERENCES)).means["rouge1"]


def test_chinese_is_cut_into_characters():
    answers, references = ["红色的圆形在蓝色方块上面"], ["红色的圆形在蓝色的方块上面"]
    found = overlap_figures(lines(answers, references))
    assert found.corpus_bleu == pytest.approx(sacrebleu.corpus_bleu(answers, [references], tokenize="zh").score)
    assert found.corpus_bleu > 50
    assert overlap_figures(lines(answers, references), tokenize="13a").corpus_bleu < 1  # one long word


def test_sample_means_are_those_of_the_rewards():
    found = overlap_figures(lines(ANSWERS, REFERENCES))
    for name, scorer in (("bleu", bleu), ("meteor", meteor), ("overlap", overlap)):
        reward = Reward(name, scorer)
        completions = [line["completion"] for line in lines(ANSWERS, REFERENCES)]
        scores = reward(completions=completions, solution=REFERENCES)
        assert [sample[name] for sample in found.samples] == scores
        assert found.means[name] == pytest.approx(math.fsum(scores) / 4)
    rouge = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for kind in ("rouge1", "rouge2", "rougeL"):
        plain = [
            rouge.score(reference, answer)[kind].fmeasure
            for reference, answer in zip(REFERENCES, ANSWERS, strict=True)
        ]
        assert [sample[kind] for sample in found.samples] == pytest.approx(plain)


def test_rows_without_answer_count_as_zero_and_rows_without_reference_not_at_all():
    rows = [
        {"completion": "<answer>two stars</answer>", "solution": "two stars"},
        {"completion": "two stars", "solution": "two stars"},
        {"completion": "<answer>two stars</answer>", "solution": None},
        {"completion": "<answer></answer>", "solution": "two stars"},
    ]
    found = overlap_figures(rows)
    assert (found.n, found.n_without_answer, found.n_without_reference) == (3, 1, 1)
    assert [sample["rouge1"] for sample in found.samples] == [1.0, 0.0, 0.0]
    assert set(found.means) == set(METRICS)
    assert found.corpus_bleu == pytest.approx(sacrebleu.corpus_bleu(["two stars", "", ""], [["two stars"] * 3]).score)


def test_nothing_to_judge():
    found = overlap_figures([{"completion": "<answer>x</answer>", "solution": None}])
    assert (found.n, found.means, found.corpus_bleu) == (0, {}, None)
