"""A text as the overlap metrics see it: words, stems, synonyms, n-grams, computed once and remembered.

Eight completions share one reference, and one completion is judged by several metrics, so what is derived from
a text is kept with it, in a cache that holds one group.
"""

import gzip
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache, cached_property, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from omnirl_core.text import tokens

if TYPE_CHECKING:
    from nltk.stem.porter import PorterStemmer


@cache
def _stemmer() -> "PorterStemmer":
    from nltk.stem.porter import PorterStemmer  # nltk takes a second to import; the first stem brings it

    return PorterStemmer()


class StemTable(dict[str, str]):
    """Lower-case word -> its stem by nltk's Porter stemmer (rouge_score's too), filled on demand; emptied when full.

    A dictionary and not an `lru_cache`, whose calls would take most of the time that a score takes.

    >>> [STEMS[word] for word in ("ponies", "hopping", "relational", "enjoy", "dying")]
    ['poni', 'hop', 'relat', 'enjoy', 'die']
    """

    def __init__(self, most_words: int = 200_000) -> None:
        self.most_words = most_words

    def __missing__(self, word: str) -> str:
        if len(self) >= self.most_words:
            self.clear()
        stem = self[word] = _stemmer().stem(word, to_lowercase=False)
        return stem


STEMS = StemTable()

SUFFIX_RULES = {  # WordNet's morphy(7WN), by part of speech
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
    """WordNet 3.0's, for METEOR: word -> the words that share a synset with one of its base forms, itself included.

    Gives what `nltk.corpus.wordnet` gives for a word (lemmas of all synsets of its base forms, single words in lower
    case), without its corpus, its load time, or its faults under threads and forks (nltk#2335).
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
        for part in SUFFIX_RULES:
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
    """The packaged table of 0.8 MB; the first call reads it (about 0.1 s).

    scripts/build_synonyms.py rebuilds it; docs/rewards.md says where it comes from.
    """
    packed = files("omnirl_core.rewards.overlap").joinpath("wordnet30_synonyms.gz").read_bytes()
    return Synonyms(gzip.decompress(packed).decode().splitlines())


class Words:
    """One text: `words` in order and what follows from them, each part when it is first asked for."""

    def __init__(self, text: str, words: list[str]) -> None:
        self.text = text
        self.words = words
        self._counts: dict[tuple[int, bool], Mapping[Any, int]] = {}
        self.split_by: Any = None  # (lexicon, content and light words), kept by content.py

    def __len__(self) -> int:
        return len(self.words)

    @property
    def joined(self) -> str:
        return " ".join(self.words)

    @cached_property
    def stems(self) -> list[str]:
        """Stem of every word in ASCII letters; words of other scripts stay as they are."""
        return [STEMS[word] if word.isascii() else word for word in self.words]

    @cached_property
    def rouge_stems(self) -> list[str]:
        """The same with words of up to three letters left alone, as in rouge_score."""
        return [stem if len(word) > 3 else word for word, stem in zip(self.words, self.stems, strict=True)]

    def ngrams(self, order: int, stemmed: bool) -> Iterable[Any]:
        """Runs of `order` words, from every place where one starts; for order 1 the words themselves."""
        words = self.rouge_stems if stemmed else self.words
        return words if order == 1 else zip(*[words[k:] for k in range(order)], strict=False)

    def counts(self, order: int, stemmed: bool) -> Mapping[Any, int]:
        """How often each n-gram of that order occurs."""
        key = (order, stemmed)
        if key not in self._counts:
            self._counts[key] = Counter(self.ngrams(order, stemmed))
        return self._counts[key]

    def shared(self, reference: "Words", order: int, stemmed: bool = False) -> int:
        """How many n-grams both texts have, each counted as often as in both.

        >>> read_words("the cat the cat").shared(read_words("The cat sat."), 1)
        2
        """
        allowed = reference.counts(order, stemmed)
        found = list(filter(allowed.__contains__, self.ngrams(order, stemmed)))
        if len(set(found)) == len(found):  # usual for longer ones, and fast
            return len(found)
        return sum([min(n, allowed[gram]) for gram, n in Counter(found).items()])

    def same_text(self, other: "Words") -> bool:
        """For texts without a single word (punctuation only): is it the same punctuation?"""
        return self.text.split() == other.text.split()


# --- ways to cut a text into words; each is a function of the text alone ---

NOT_ASCII_ALPHANUMERIC = re.compile(r"[^\sa-zA-Z0-9]")
ROUGE_TOKEN = re.compile(r"[a-z0-9]+")
MARKS = re.compile(
    r"[A-Za-z]\+\+|\b[A-Z]#|\b[A-F][+\u2212-](?![\w+-])|[$€£¥₹₩≠≤≥]|[!<>]=|(?<=\s)[<>](?=\s)|n['’]t\b|(?<=\d)\s?%"
)
"""Marks that change what is said: C++ is not C, A+ not A-, $5 not €5, and x = 1 not x ≠ 1."""
MARK_NAMES = {
    "$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee", "₩": "won", "≠": "unequal", "!=": "unequal",
    "≤": "atmost", "<=": "atmost", "≥": "atleast", ">=": "atleast", "<": "below", ">": "above", "n't": "not",
    "n’t": "not", "%": "percent",
}  # fmt: skip


def bare(text: str) -> list[str]:
    """Words alone, as the libraries' tokens are compared with."""
    return tokens(text)


_MAY_HOLD_MARKS = re.compile("[-+#$€£¥₹₩≠≤≥=<>%'’\u2212]")  # a quick look: few texts have any
_ASCII_NUMBERS_AND_MARKS = "0123456789-+#$=<>%'"


def has_number_or_mark(text: str) -> bool:
    """False where every cut below gives the same tokens."""
    if text.isascii():
        return any(map(text.__contains__, _ASCII_NUMBERS_AND_MARKS))  # ten times as fast as a search
    return re.search(r"\d", text) is not None or _MAY_HOLD_MARKS.search(text) is not None


def plain(text: str) -> list[str]:
    return tokens(MARKS.sub(_named, text) if _MAY_HOLD_MARKS.search(text) else text)


def numbered(text: str) -> list[str]:
    """As `plain`, with each number one token, its percent sign included."""
    named = MARKS.sub(_named_but_percent, text) if _MAY_HOLD_MARKS.search(text) else text
    return tokens(named, numbers=True)


def _named(match: re.Match[str]) -> str:
    mark = match.group().strip()
    if mark in MARK_NAMES:
        return f" {MARK_NAMES[mark]} "
    return mark.replace("+", "plus").replace("#", "sharp").replace("-", "minus").replace("\u2212", "minus")


def _named_but_percent(match: re.Match[str]) -> str:
    return match.group() if match.group().endswith("%") else _named(match)


def rouge_score_words(text: str) -> list[str]:
    """rouge_score's own tokens: everything outside ASCII letters and digits is a space."""
    return ROUGE_TOKEN.findall(text.lower())


def seed_words(text: str) -> list[str]:
    """The original OmniRL's tokens for BLEU: punctuation deleted, case kept, split at white space."""
    return NOT_ASCII_ALPHANUMERIC.sub("", text).split()


Cut = Callable[[str], list[str]]


def cut_by(numbers: bool, compat: object = None) -> Cut:
    return numbered if numbers else bare if compat else plain


def read_words(text: str, cut: Cut = plain) -> Words:
    """The text as words, from the cache where it was read a moment ago."""
    if cut is rouge_score_words and text.isascii():
        cut = bare  # the same tokens: share what is known
    return _read_words(text, cut)


@lru_cache(maxsize=16)  # a group and its references; small enough to stay near the processor
def _read_words(text: str, cut: Cut) -> Words:
    return Words(text, cut(text))


def forget() -> None:
    """Empty the caches of texts and stems."""
    _read_words.cache_clear()
    STEMS.clear()
