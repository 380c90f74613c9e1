"""The table of stems: nltk's, each stemmed once, imported when the first is asked for."""

import subprocess
import sys

from nltk.stem.porter import PorterStemmer

from omnirl_core.rewards.overlap.words import STEMS, StemTable, Words

WORDS = ["ponies", "hopping", "relational", "enjoy", "dying", "ties", "as", "is", "geology", "y" * 20, "x1ing"]


def test_stems_are_nltks():
    assert [STEMS[word] for word in WORDS] == list(map(PorterStemmer().stem, WORDS))


def test_a_run_of_y_has_a_stem():
    """Older versions of nltk recurse for each of them, or take the square of their number."""
    assert STEMS["y" * 20_000] == "y" * 19_999 + "i"


def test_a_table_of_stems_stays_small():
    table = StemTable(most_words=10)
    words = [f"{letter}ats" for letter in "abcdefghijklmnopqrstuvwxyz"]
    assert [table[word] for word in words] == [word[:-1] for word in words]
    assert len(table) <= 10


def test_words_of_three_letters_have_no_stem_in_rouge():
    words = Words("as Äpfels does", ["as", "äpfels", "does"])
    assert words.stems == ["as", "äpfels", "doe"]
    assert words.rouge_stems == ["as", "äpfels", "doe"]
    assert Words("his", ["his"]).rouge_stems == ["his"]
    assert Words("his", ["his"]).stems == ["hi"]


def test_rewards_import_nltk_only_for_a_stem():
    code = "import sys, omnirl_core.rewards as rewards; print('nltk' in sys.modules)\n"
    code += "rewards.rouge('a', 'b'); print('nltk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
