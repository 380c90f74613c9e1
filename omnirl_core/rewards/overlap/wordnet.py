"""Synonyms from WordNet 3.0, for METEOR: a table of 0.8 MB beside this file, read once.

Gives what `nltk.corpus.wordnet` gives for a word (lemmas of all synsets of its base forms, single words in
lower case), without its corpus, its load time, or its faults under threads and forks (nltk#2335).
scripts/build_synonyms.py rebuilds the table; docs/rewards.md says where it comes from.
"""

import gzip
from functools import cache
from importlib.resources import files

PARTS_OF_SPEECH = "nvar"
TABLE = "wordnet30_synonyms.gz"

SUFFIX_RULES = {  # WordNet's morphy(7WN)
    part: [tuple(rule.split(":")) for rule in rules.split()]
    for part, rules in {
        "n": "s: ses:s ves:f xes:x zes:z ches:ch shes:sh men:man ies:y",
        "v": "s: ies:y es:e es: ed:e ed: ing:e ing:",
        "a": "er: est: er:e est:e",
        "r": "",
    }.items()
}
NOT_A_NAME = "!"  # the lemma is written with a capital, so it is no synonym of itself


class Synonyms(dict[str, frozenset[str]]):
    """word -> the words that share a synset with one of its base forms, itself included.

    Each entry is made when it is first asked for, and nothing else ever changes, so threads and forked workers may
    share one table. `base_forms` has the irregular forms: ate -> (eat,).
    """

    def __init__(self, lines: list[str], most_words: int = 100_000) -> None:
        split = lines.index("#")
        # "nbike" -> "bicycle cycle wheel", and "nmice" -> "mouse"
        self._lines = dict(line.partition(" ")[::2] for line in lines[:split])
        self._irregular = dict(line.partition(" ")[::2] for line in lines[split + 1 :])
        self.base_forms = {entry[1:]: tuple(bases.split()) for entry, bases in self._irregular.items()}
        self._most_words = most_words

    def __missing__(self, word: str) -> frozenset[str]:
        """
        >>> sorted(wordnet()["bikes"])
        ['bicycle', 'bike', 'bikes', 'cycle', 'motorcycle', 'pedal', 'wheel']
        """
        if len(self) >= self._most_words:
            self.clear()
        found = self[word] = self._look_up(word)
        return found

    def lemmas(self) -> set[str]:
        """Every word that the table has a line for."""
        return {entry[1:] for entry in self._lines}

    def _look_up(self, word: str) -> frozenset[str]:
        names = {word}
        for part in PARTS_OF_SPEECH:
            for form in self._base_forms(part, word):
                line = self._lines.get(part + form)
                if line is not None:
                    shared = line.split()
                    names.update(shared[1:] if line.startswith(NOT_A_NAME) else [form, *shared])
        return frozenset(names)

    def _base_forms(self, part: str, word: str) -> list[str]:
        irregular = self._irregular.get(part + word)
        if irregular is not None:
            return [word, *irregular.split()]
        return [word] + [word[: -len(old)] + new for old, new in SUFFIX_RULES[part] if word.endswith(old)]


@cache
def wordnet() -> Synonyms:
    """The packaged table; the first call reads it (about 0.1 s)."""
    packed = files("omnirl_core.rewards.overlap").joinpath(TABLE).read_bytes()
    return Synonyms(gzip.decompress(packed).decode().splitlines())
