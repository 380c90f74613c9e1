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


CAR = "a big car burns beside the sofa"
ALIKE = "a large auto burns beside the couch"
DENIED = "a big car does not burn beside the sofa"
ASKED = {"problem": "What does the car do?"}
TABLE = [
    (CAR, CAR, {}, 1.0),
    (CAR.upper(), [CAR, "a bus"], ASKED, 1.0),
    ("sofa the beside burns car big a", CAR, {}, 1.0),  # order is not seen,
    (f"{CAR} " * 9, CAR, {}, 1.0),  # nor is a repetition
    ("", CAR, {}, 0.0),
    (" \n\t", CAR, {}, 0.0),
    ("?!", CAR, {}, 0.0),
    ("犬がソファで眠る", CAR, {}, 0.0),  # no token that the model knows
    ("the stock market fell", CAR, {}, 0.0),
    (ALIKE, CAR, {"threshold": 0.5}, 1.0),
    ("the stock market fell", CAR, {"threshold": 0.5}, 0.0),
    ("the car does it", "the car stops at it", ASKED, 0.0),  # words of the question
    (DENIED, CAR, {**ASKED, "threshold": 0.5}, 0.0),
    (CAR + " x" * MOST_CHARACTERS, CAR, {}, 0.0),
    ("x", None, {}, None),
    ("x", "", {}, None),
    ("x", "犬", {}, None),
    ("x", ["?", "!"], {}, None),
]


@pytest.mark.parametrize(("prediction", "solution", "more", "expected"), TABLE)
def test_adversarial(prediction, solution, more, expected):
    score = embedding(prediction, solution, model=MODEL, **more)
    assert score == (expected if expected is None else pytest.approx(expected))


def test_synonyms_are_alike_and_a_denial_shows_with_the_question_alone():
    alike, other = (embedding(text, CAR, model=MODEL) for text in (ALIKE, "a boy eats an apple"))
    assert alike > 0.5 > other
    assert embedding(DENIED, CAR, model=MODEL) > 0.5
    assert embedding(DENIED, CAR, model=MODEL, needs_fact=False, **ASKED) > 0.5
    assert embedding(DENIED, CAR, model=MODEL, **ASKED) < 0.1


def test_up_to_the_floor_it_is_nothing():
    cosine = embedding(ALIKE, CAR, model=MODEL, floor=0.0)
    assert embedding(ALIKE, CAR, model=MODEL, floor=cosine - 0.01) == cosine
    assert embedding(ALIKE, CAR, model=MODEL, floor=cosine) == 0.0


def test_a_model_is_read_once(monkeypatch):
    read = []
    monkeypatch.setattr(
        StaticModel, "from_pretrained", lambda path: read.append(path) or build_embedding.build(CAR.split())
    )
    module._read.cache_clear()
    module._vector.cache_clear()
    assert [embedding(text, CAR, model=MODEL) for text in (CAR, "x", CAR)] == pytest.approx([1.0, 0.0, 1.0])
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
        embedding("car", "auto", model=str(tmp_path / "m")) > 0.3 > embedding("car", "sofa", model=str(tmp_path / "m"))
    )
    assert "set it as `model`" in capsys.readouterr().out
