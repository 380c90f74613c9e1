"""Captions: sacrebleu, CIDEr-D written out as in its paper, and a search over all orders as oracles."""

import json
import math
import random
import runpy
from itertools import combinations
from pathlib import Path

import pytest
from sacrebleu.metrics import CHRF

from omnirl_core.rewards import RewardsError, load_rewards
from omnirl_core.rewards.overlap.captions import document_frequencies
from omnirl_core.rewards.registry import scorer_named

cider, chrf, keywords = map(scorer_named, ("cider", "chrf", "keywords"))
PAIRS = 400
TEXT = "a the dog cat boy runs sleeps on under grass sofa red old small two"
WORDS = TEXT.split()


def caption(rng, least=4):
    return " ".join(rng.choices(WORDS, k=rng.randint(least, 12)))


def like(rng, text):
    return " ".join(word if rng.random() < 0.7 else rng.choice(WORDS) for word in text.split() if rng.random() < 0.9)


def cider_d(said, references, corpus):
    """Formulas (1) to (3) of the paper with CIDEr-D's clipping and penalty, as in pycocoevalcap, in [0, 10]."""

    def grams(text, n):
        words = text.split()
        return [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]

    def vector(text, n):
        found = {}
        for gram in grams(text, n):
            among = sum(any(gram in grams(one, n) for one in texts) for texts in corpus)
            found[gram] = found.get(gram, 0) + math.log(len(corpus)) - math.log(max(1, among))
        return found

    total = 0.0
    for reference in references:
        delta = (len(said.split()) - 1) - (len(reference.split()) - 1)
        for n in (1, 2, 3, 4):
            a, b = vector(said, n), vector(reference, n)
            lengths = math.sqrt(sum(x * x for x in a.values())) * math.sqrt(sum(x * x for x in b.values()))
            dot = sum(min(a[gram], b.get(gram, 0.0)) * b.get(gram, 0.0) for gram in a)
            total += (dot / lengths if lengths else 0.0) * math.exp(-(delta**2) / (2 * 36)) / 4
    return 10 * total / len(references)


def test_cider_is_cider_d(tmp_path):
    rng = random.Random(0)
    corpus = [[caption(rng) for _ in range(rng.randint(1, 3))] for _ in range(25)]
    path = tmp_path / "frequencies.json"
    path.write_text(json.dumps(document_frequencies(corpus)))
    for _ in range(320):
        references = rng.choice(corpus)
        said = rng.choice([caption(rng, 1), like(rng, references[0]) or "x"])
        ours = cider(said, references, frequencies=str(path))
        assert 10 * ours == pytest.approx(cider_d(said, references, corpus), abs=1e-9)


REFERENCES = [
    ["a dog runs on the grass", "the small dog runs on grass"],
    ["two cats sleep on a red sofa"],
    ["a boy kicks a ball over the fence", "a child plays ball by the fence"],
    ["the old man reads a newspaper in a park"],
    ["a plate of fruit on a wooden table"],
]
SAID = [
    "a dog runs on grass",
    "two cats sleep under a sofa",
    "a boy plays with a ball",
    "an old man reads in the park",
    "a plate of fruit on a wooden table",
]
COCO = [6.356172587060927, 3.4598621660931683, 1.46913555813599, 3.059685593684089, 10.0]
"""What pycocoevalcap 1.2's CiderScorer(n=4, sigma=6.0) gave for them; on 500 drawn captions it differed by 2e-15."""


def test_cider_is_pycocoevalcaps(tmp_path):
    path = tmp_path / "frequencies.json"
    path.write_text(json.dumps(document_frequencies(REFERENCES)))
    ours = [10 * cider(*pair, frequencies=str(path)) for pair in zip(SAID, REFERENCES, strict=True)]
    assert ours == pytest.approx(COCO, abs=1e-12)
    assert cider(REFERENCES[0][1], REFERENCES[0], frequencies=str(path), best=True) == pytest.approx(1.0)


def test_chrf_is_sacrebleus():
    rng = random.Random(0)
    metric = CHRF()
    for _ in range(PAIRS):
        references = [caption(rng, 1) + rng.choice(["", ".", " Ünï", " 我爱"]) for _ in range(rng.randint(1, 3))]
        said = rng.choice([caption(rng, 1), like(rng, references[0]) or "x"])
        assert chrf(said, references) == pytest.approx(metric.sentence_score(said, references).score / 100, abs=1e-9)


def test_keywords_is_the_longest_chain():
    rng = random.Random(0)
    for _ in range(PAIRS):
        phrases = [" ".join(rng.sample(WORDS, rng.choice([1, 1, 2]))) for _ in range(rng.randint(1, 5))]
        words = caption(rng, 1).split()

        def follows(chain, words=words):
            at = 0
            for phrase in chain:
                size = len(phrase.split())
                starts = [k for k in range(at, len(words)) if words[k : k + size] == phrase.split()]
                if not starts:
                    return False
                at = starts[0] + size
            return True

        longest = max(size for size in range(len(phrases) + 1) if any(map(follows, combinations(phrases, size))))
        assert keywords(" ".join(words), {"keywords": phrases}) == pytest.approx(longest / len(phrases))


RED = {"problem": "What color is the car?"}
TABLE = [
    (cider, "Paris", "Paris", {}, 1.0),
    (cider, "", "Paris", {}, 0.0),
    (cider, "x", None, {}, None),
    (cider, "The color of the car is blue", "The color of the car is red", RED, 0.0),
    (cider, "我爱北京", "我爱北京", {}, 1.0),
    (chrf, "The color of the car is blue", "The color of the car is red", RED, 0.0),
    (chrf, "x", None, {}, None),
    (chrf, "", "x", {}, 0.0),
    (chrf, "abc", "abc", {}, 1.0),
    (keywords, "the car", "The car is red", RED, 0.0),
    (keywords, "red", "The car is red", RED, 1.0),
    (keywords, "dog " + "word " * 1000, {"keywords": ["dog"]}, {}, 102 / 1001),
    (keywords, "x", {"keywords": []}, {}, None),
    (keywords, "x", {"keywords": ["?"]}, {}, None),
    (keywords, "x", None, {}, None),
]


@pytest.mark.parametrize(("scorer", "prediction", "solution", "columns", "expected"), TABLE)
def test_adversarial(scorer, prediction, solution, columns, expected):
    assert scorer(prediction, solution, **columns) == (expected if expected is None else pytest.approx(expected))


def test_frequencies_lie_beside_the_rewards_and_a_missing_file_is_told(tmp_path):
    (tmp_path / "rewards.yaml").write_text("rewards:\n- {name: cider, settings: {frequencies: here.json}}\n")
    with pytest.raises(RewardsError, match=r"rewards.yaml:2: cider: frequencies: .*here.json' is no file of document"):
        load_rewards(tmp_path / "rewards.yaml")
    (tmp_path / "here.json").write_text(json.dumps(document_frequencies(["a dog runs on grass", "a cat", "a bus"])))
    (reward,) = load_rewards(tmp_path / "rewards.yaml")
    rare, common = (reward.score(f"<answer>{text}</answer>", "a dog runs on grass") for text in ("dog runs", "a a"))
    assert rare > common == 0.0


def test_the_script_counts_the_training_data(tmp_path, capsys):
    root = Path(__file__).parents[2]
    script = runpy.run_path(str(root / "scripts" / "caption_frequencies.py"))
    rows = [{"problem": "Describe it.", "solution": one} for one in (["a dog", "the dog"], "a cat")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert script["main"]([str(tmp_path / "train.jsonl"), str(tmp_path / "f.json")]) == 0
    assert "of 2 samples" in capsys.readouterr().out
    assert json.loads((tmp_path / "f.json").read_text()) == document_frequencies([row["solution"] for row in rows])
    with pytest.raises(SystemExit):
        script["main"]([str(tmp_path / "train.jsonl"), str(tmp_path / "f.json")])
