"""The reward `embedding` against numpy's own cosine, and what it can and cannot tell."""

import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from model2vec import StaticModel

from omnirl_core.rewards import embedding as module
from omnirl_core.rewards import load_rewards
from omnirl_core.rewards.embedding import MOST_CHARACTERS, embedding
from omnirl_tools.checks.hacks import BLIND
from scripts import build_embedding, hack_table

ROOT = Path(__file__).parents[2]
VOCABULARY = "a the dog puppy cat boy runs sleep nap on under grass sofa couch red crimson old small two not"
WORDS = VOCABULARY.split()
MODEL = build_embedding.demo_folder()


def own_cosine(model: StaticModel, said: str, wanted: str) -> float:
    """Mean of the rows of known words, then the cosine, in float64."""
    rows = {token: model.embedding[k].astype(np.float64) for k, token in enumerate(model.tokens)}
    a, b = (np.mean([rows[word] for word in text.split() if word in rows], axis=0) for text in (said, wanted))
    return max(0.0, float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b))))


def test_the_score_is_numpys_cosine():
    model, rng = build_embedding.build(WORDS), random.Random(0)
    model.save_pretrained(Path(MODEL) / "of_words")
    for _ in range(400):
        said, wanted = (" ".join(rng.choices([*WORDS, "qqq"], k=rng.randint(1, 12))) + " dog" for _ in range(2))
        ours = embedding(said, wanted, model=f"{MODEL}/of_words", floor=0.0)
        assert ours == pytest.approx(own_cosine(model, said, wanted), abs=1e-6)


DOG = "a dog sleeps on the sofa"
ASKED = {"problem": "What does the dog do?"}
TABLE = [
    (DOG, DOG, {}, 1.0),
    (DOG.upper(), [DOG, "a bus"], ASKED, 1.0),
    ("sofa the on sleeps dog a", DOG, {}, 1.0),  # order is not seen,
    (f"{DOG} " * 9, DOG, {}, 1.0),  # nor is a repetition
    ("", DOG, {}, 0.0),
    (" \n\t", DOG, {}, 0.0),
    ("?!", DOG, {}, 0.0),
    ("犬がソファで眠る", DOG, {}, 0.0),  # no token that the model knows
    ("the stock market fell", DOG, {}, 0.0),
    ("a puppy sleeps on the couch", DOG, {"threshold": 0.5}, 1.0),
    ("the stock market fell", DOG, {"threshold": 0.5}, 0.0),
    ("the dog does it", "the dog sleeps on it", ASKED, 0.0),  # words of the question
    ("a dog does not sleep on the sofa", DOG, {**ASKED, "threshold": 0.5}, 0.0),
    (DOG + " x" * MOST_CHARACTERS, DOG, {}, 0.0),
    ("x", None, {}, None),
    ("x", "", {}, None),
    ("x", "犬", {}, None),
    ("x", [1, 2, "?"], {}, None),
]


@pytest.mark.parametrize(("prediction", "solution", "more", "expected"), TABLE)
def test_adversarial(prediction, solution, more, expected):
    score = embedding(prediction, solution, model=MODEL, **more)
    assert score == (expected if expected is None else pytest.approx(expected))


def test_synonyms_are_alike_and_a_denial_shows_with_the_question_alone():
    alike, other = (embedding(text, DOG, model=MODEL) for text in ("a puppy naps on the couch", "a bus on the road"))
    assert alike > 0.3 > other
    denied = "a dog does not sleep on the sofa"
    assert embedding(denied, DOG, model=MODEL) > 0.5
    assert embedding(denied, DOG, model=MODEL, needs_fact=False, **ASKED) > 0.5
    assert embedding(denied, DOG, model=MODEL, **ASKED) < 0.1


def test_up_to_the_floor_it_is_nothing():
    said = "a puppy naps on the couch"
    cosine = embedding(said, DOG, model=MODEL, floor=0.0)
    assert embedding(said, DOG, model=MODEL, floor=cosine - 0.01) == cosine
    assert embedding(said, DOG, model=MODEL, floor=cosine) == 0.0


def test_a_model_is_read_once(monkeypatch):
    read = []
    monkeypatch.setattr(StaticModel, "from_pretrained", lambda path: read.append(path) or build_embedding.build(WORDS))
    module._read.cache_clear()
    module._vector.cache_clear()
    assert [embedding(text, DOG, model=MODEL) for text in (DOG, "a bus", DOG)] == [1.0, 0.0, 1.0]
    assert read == [MODEL]
    module._read.cache_clear()
    module._vector.cache_clear()


def test_what_is_missing_is_told_when_the_file_is_loaded(refusal, tmp_path, monkeypatch):
    assert "rewards.yaml:2: embedding: model: it is not set; set it to the folder of a mo" in refusal(
        "name: embedding"
    )
    entry = "{name: embedding,\n   settings: {model: none_here}}"
    assert re.search(r"rewards.yaml:3: embedding: model: .*none_here' cannot be read \(no such folder", refusal(entry))
    (tmp_path / "none_here").mkdir()
    assert "cannot be read" in refusal(entry)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert r"needs model2vec: pip install -e '.[embedding]'" in refusal(entry)


def uncommented(tmp_path: Path) -> Path:
    """recipes/rewards/several_references.yaml with its line for `embedding`, and a model beside it."""
    text = (ROOT / "recipes/rewards/several_references.yaml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "embedding" in line)
    (tmp_path / "rewards.yaml").write_text(text.replace(line, line.replace("# -", "-", 1)))
    (tmp_path / "static_model").symlink_to(MODEL)
    return tmp_path / "rewards.yaml"


def test_under_the_shipped_line_no_hack_earns_more_than_a_quarter(tmp_path):
    rewards = load_rewards(uncommented(tmp_path))
    assert [reward.settings for reward in rewards if reward.name == "embedding"] == [
        {"model": str(tmp_path / "static_model")}
    ]
    hacks = hack_table.hacks()
    for sample in hack_table.CAPTIONS:
        full = hack_table.total(rewards, sample, sample.right)
        assert full == pytest.approx(sum(reward.weight for reward in rewards), abs=0.02)
        for name in [*BLIND, "answer in thought", "answer shuffled", "answer, then no"]:
            assert hack_table.total(rewards, sample, hacks[name](sample)) <= 0.25 * full, name


def test_importing_it_brings_neither_torch_nor_model2vec():
    code = "import omnirl_core.rewards.embedding, sys; print({'torch', 'model2vec', 'tokenizers'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_the_script_writes_a_model(tmp_path, capsys):
    assert build_embedding.main([str(tmp_path / "m"), "--most_letters", "4"]) == 0
    assert (
        embedding("boy", "lad", model=str(tmp_path / "m")) > 0.3 > embedding("boy", "bus", model=str(tmp_path / "m"))
    )
    assert "set it as `model`" in capsys.readouterr().out
