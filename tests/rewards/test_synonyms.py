"""The packaged synonyms: what they hold, how they are built, threads and forks."""

import gzip
import importlib.util
import multiprocessing
import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import pytest

from omnirl_core.rewards.overlap.words import Synonyms, wordnet

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build_synonyms():
    spec = importlib.util.spec_from_file_location("build_synonyms", ROOT / "scripts" / "build_synonyms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("word", "synonyms"),
    [
        ("bike", {"bicycle", "motorcycle", "cycle", "pedal", "wheel"}),
        ("bikes", {"bike", "bicycle"}),
        ("ran", {"run", "operate"}),
        ("mice", {"mouse"}),
        ("women", {"woman"}),
        ("studies", {"study", "survey"}),
        ("bigger", {"big", "large"}),
        ("largest", {"large", "big"}),
        ("12", {"twelve", "dozen"}),
        ("comics", {"comic", "strip"}),
    ],
)
def test_synonyms_of_base_forms(word, synonyms):
    assert synonyms | {word} <= wordnet()[word]


@pytest.mark.parametrize("word", ["xyzzy", "", "我", "café", "#", "!", "paris_", "n", "ing", "s"])
def test_a_word_is_always_its_own_synonym(word):
    assert word in wordnet()[word]


def test_names_with_a_capital_are_no_synonyms():
    assert all(name == name.lower() and name != "!" for name in wordnet()["paris"] | wordnet()["turkey"])
    assert "paris" in wordnet()["paris"]


def test_threads_and_forked_workers_share_one_table():
    """nltk's reader fails here: a shared file handle, and lazy loading without a lock (nltk#2335)."""
    words = random.Random(0).sample(sorted(wordnet().lemmas()), 1_000)
    lines = gzip.decompress(
        files("omnirl_core.rewards.overlap").joinpath("wordnet30_synonyms.gz").read_bytes()
    ).decode()
    fresh = Synonyms(lines.splitlines())
    wanted = [wordnet()[word] for word in words]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fresh.__getitem__, words)) == wanted
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(wordnet().__getitem__, words, chunksize=200) == wanted


def test_the_memo_of_a_table_stays_small():
    table = Synonyms(["ncat feline", "nfeline cat", "#"], most_words=3)
    for word in ("cat", "cats", "feline", "dog", "cow", "cat"):
        assert table[word] == table._look_up(word)
    assert len(table) <= 3


def test_the_licence_goes_where_the_table_goes():
    licence = files("omnirl_core.rewards.overlap").joinpath("WORDNET-LICENSE.txt").read_text(encoding="utf-8")
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in licence


# --- scripts/build_synonyms.py on a WordNet of five synsets ---

LICENCE_LINE = "  1 This software and database is being provided to you\n"
TINY = {
    "data.noun": "00000001 06 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 001 @ 00000002 n 0000 | barks\n"
    "00000002 03 n 02 hound 0 dog 1 000 | hunts\n00000003 06 n 02 funnies 0 comic_strip 0 000 | read\n"
    "00000004 15 n 01 Paris 0 000 | a city\n",
    "index.noun": "dog n 2 1 @ 2 1 00000001 00000002  \ndomestic_dog n 1 0 1 0 00000001  \n"
    "hound n 1 0 1 0 00000002  \nfunnies n 1 0 1 0 00000003  \ncomic_strip n 1 0 1 0 00000003  \n"
    "paris n 1 0 1 0 00000004  \n",
    "noun.exc": "comics comic_strip\nhot_dogs hot_dog\n",
    "data.adj": "00000001 00 s 02 galore(ip) 0 abounding 0 000 | a lot\n",
    "index.adj": "galore a 1 0 1 0 00000001  \nabounding a 1 0 1 0 00000001  \n",
    "adj.exc": "better good well\n",
    **{name: "" for name in ("data.adv", "index.adv", "adv.exc", "data.verb", "index.verb", "verb.exc")},
}
TINY_TABLE = """aabounding galore
agalore abounding
ncomic_strip ! funnies
ndog hound
nfunnies
nhound dog
nparis !
#
abetter good well
ncomics comic_strip"""


@pytest.fixture
def tiny_wordnet(tmp_path):
    for name, text in TINY.items():
        licence = "" if name.endswith(".exc") else LICENCE_LINE
        (tmp_path / name).write_text(licence + text, encoding="utf-8")
    return tmp_path


def test_the_script_builds_the_table_from_wordnets_files(build_synonyms, tiny_wordnet, tmp_path, capsys):
    output = tmp_path / "table.gz"
    assert build_synonyms.main([str(tiny_wordnet), "--output", str(output)]) == 0
    assert gzip.decompress(output.read_bytes()).decode() == TINY_TABLE
    first = output.read_bytes()
    build_synonyms.main([str(tiny_wordnet), "--output", str(output)])
    assert output.read_bytes() == first  # no time stamp, no file name
    assert build_synonyms.main([str(tiny_wordnet), "--output", str(output), "--check"]) == 0
    assert build_synonyms.main([str(tiny_wordnet), "--check"]) == 1
    assert "ANOTHER table" in capsys.readouterr().out


def test_a_table_that_was_built_is_a_table_that_is_read(build_synonyms, tiny_wordnet):
    table = Synonyms(build_synonyms.build(tiny_wordnet).splitlines())
    assert table["dogs"] == {"dogs", "dog", "hound"}
    assert table["comics"] == {"comics", "funnies"}
    assert table["paris"] == {"paris"}


def test_importing_the_rewards_imports_no_torch_and_no_nltk():
    """In a fresh interpreter: this one has imported them for other tests."""
    check = (
        "import sys, omnirl_core.rewards as r; r.think_format('<answer>4</answer>');"
        "print([m for m in ('torch', 'transformers', 'trl', 'nltk', 'rouge_score', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_tables_pickle():
    assert pickle.loads(pickle.dumps(Synonyms(["ncat", "#"])))["cats"] == {"cat", "cats"}
