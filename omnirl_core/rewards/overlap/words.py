"""A text as the overlap metrics see it: words, stems, n-grams, computed once and remembered.

Eight completions share one reference, and one completion is judged by several metrics, so what is derived from
a text is kept with it, in a cache that holds one group.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from omnirl_core.text import tokens

# --- stems: Porter's, with the extensions that nltk (and so rouge_score) uses, memoised ---

# M. F. Porter, "An algorithm for suffix stripping", Program 14.3 (1980). A word is read as a row of consonants
# (c) and vowels (v); its measure m is the number of `vc` in it. nltk's own takes four times as long for a new word.

IRREGULAR = {
    "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie",
    "innings": "inning", "outings": "outing", "cannings": "canning",
}  # fmt: skip
_UNCHANGED = "sky news inning outing canning howe proceed exceed succeed"
IRREGULAR |= {word: word for word in _UNCHANGED.split()}

STEP_2 = {  # applied where m > 0
    "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "bli": "ble", "alli": "al",
    "entli": "ent", "eli": "e", "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate", "alism": "al",
    "iveness": "ive", "fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive", "biliti": "ble",
    "fulli": "ful", "logi": "log",
}  # fmt: skip
STEP_3 = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}  # m > 0
_REMOVED = "al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize"
STEP_4 = dict.fromkeys(_REMOVED.split(), "")  # where m > 1
Endings = dict[str, list[tuple[str, str]]]
"""Last two letters -> (ending, its replacement), longest first."""


def _by_tail(endings: dict[str, str]) -> Endings:
    tails: Endings = {}
    for ending in sorted(endings, key=len, reverse=True):
        tails.setdefault(ending[-2:], []).append((ending, endings[ending]))
    return tails


STEP_2_TAILS, STEP_3_TAILS, STEP_4_TAILS = _by_tail(STEP_2), _by_tail(STEP_3), _by_tail(STEP_4)
TOUCHED = {ending[-1] for ending in (*STEP_2, *STEP_3, *STEP_4)} | set("sdgyel")
"""Last letters that some step changes; a word that ends otherwise is its own stem."""


class _Shape(dict[int, str]):
    """Translation table: vowels to v, everything else to c; y waits for the letter before it."""

    def __missing__(self, code: int) -> str:
        return "c"


CONSONANTS = dict.fromkeys(map(ord, "bcdfghjklmnpqrstvwxz"), "c")
SHAPE = _Shape(CONSONANTS | dict.fromkeys(map(ord, "aeiou"), "v") | {ord("y"): "y"})


def _shape(word: str) -> str:
    """Consonants and vowels: `toy` -> cvc, `syzygy` -> cvcvcv."""
    shape = word.translate(SHAPE)
    if "y" not in shape:
        return shape
    kinds: list[str] = []
    for kind in shape:  # y is a vowel after a consonant
        kinds.append(kind if kind != "y" else "v" if kinds[-1:] == ["c"] else "c")
    return "".join(kinds)


def _measure(word: str) -> int:
    return _shape(word).count("vc")


def _ends_cvc(word: str) -> bool:
    shape = _shape(word)
    return (shape.endswith("cvc") and word[-1] not in "wxy") or shape == "vc"


def _plural(word: str) -> str:
    """Step 1a."""
    if not word.endswith("s") or word.endswith("ss"):
        return word
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-2]  # dies -> die, flies -> fli
    return word[:-2] if word.endswith("sses") else word[:-1]


def _past(word: str) -> str:
    """Step 1b: -ied, -eed, -ed, -ing."""
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    if word.endswith("ed"):
        stem = word[:-2]
    elif word.endswith("ing"):
        stem = word[:-3]
    else:
        return word
    if "v" not in _shape(stem):
        return word
    if stem.endswith(("at", "bl", "iz")):
        return stem + "e"
    if len(stem) > 1 and stem[-1] == stem[-2] and _shape(stem)[-1] == "c":  # hopp -> hop, fall -> fall
        return stem if stem[-1] in "lsz" else stem[:-1]
    return stem + "e" if _measure(stem) == 1 and _ends_cvc(stem) else stem


def _final_y(word: str) -> str:
    """Step 1c: y -> i after a consonant that does not stand alone (happy, spy; not enjoy, by)."""
    if word.endswith("y") and len(word) > 2 and _shape(word[:-1])[-1] == "c":
        return word[:-1] + "i"
    return word


def _derived(word: str) -> str:
    """Step 2."""
    if word.endswith("alli") and _measure(word[:-4]) > 0:
        word = word[:-2]
    return _without(word, STEP_2_TAILS, above=0)


def _without(word: str, tails: Endings, above: int) -> str:
    """Steps 2 to 4: replace the longest ending that fits, where it leaves a measure above `above`."""
    for ending, new in tails.get(word[-2:], ()):
        if word.endswith(ending):
            stem = word[: -len(ending)]
            counted = stem + "l" if ending == "logi" else stem  # geology like archaeology
            fits = _measure(counted) > above and (ending != "ion" or stem[-1] in "st")
            return stem + new if fits else word
    return word


def _final_e(word: str) -> str:
    """Step 5: a final e, a double l."""
    if word.endswith("e"):
        measure = _measure(word[:-1])
        if measure > 1 or (measure == 1 and not _ends_cvc(word[:-1])):
            word = word[:-1]
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word


def porter(word: str) -> str:
    """Stem of a lower-case word.

    >>> [porter(word) for word in ("ponies", "hopping", "relational", "enjoy", "dying")]
    ['poni', 'hop', 'relat', 'enjoy', 'die']
    """
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) <= 2 or word[-1] not in TOUCHED:
        return word
    word = _derived(_final_y(_past(_plural(word))))
    return _final_e(_without(_without(word, STEP_3_TAILS, above=0), STEP_4_TAILS, above=1))


class StemTable(dict[str, str]):
    """word -> stem, filled on demand; emptied when full, so that a long run stays small."""

    def __init__(self, stem: Callable[[str], str] = porter, most_words: int = 200_000) -> None:
        self.stem = stem
        self.most_words = most_words

    def __missing__(self, word: str) -> str:
        if len(self) >= self.most_words:
            self.clear()
        stem = self[word] = self.stem(word)
        return stem


STEMS = StemTable()
ROUGE_STEMS = StemTable(lambda word: word if len(word) < 4 else STEMS[word])  # as rouge_score has it


class Chains(NamedTuple):
    """Where equal words stand: the last place of each word, and for each place the one before it of the same word."""

    last: dict[str, int]
    before: list[int]
    """-2 where there is none."""


class Words:
    """One text: `words` in order and what follows from them, each part when it is first asked for."""

    def __init__(self, text: str, words: list[str]) -> None:
        self.text = text
        self.words = words
        self._counts: dict[tuple[int, bool], Mapping] = {}
        self.split_by: Any = None  # (lexicon, content and light words), kept by content.py
        self._shared: tuple[Words | None, dict] = (None, {})

    def __len__(self) -> int:
        return len(self.words)

    @property
    def joined(self) -> str:
        return " ".join(self.words)

    @cached_property
    def stems(self) -> list[str]:
        """Stem of every word in ASCII letters; words of other scripts stay as they are."""
        if self.text.isascii():
            return list(map(STEMS.__getitem__, self.words))
        return [STEMS[word] if word.isascii() else word for word in self.words]

    @cached_property
    def rouge_stems(self) -> list[str]:
        """The same with words of up to three letters left alone, as in rouge_score."""
        if self.text.isascii():
            return list(map(ROUGE_STEMS.__getitem__, self.words))
        return [stemmed if len(word) > 3 else word for word, stemmed in zip(self.words, self.stems, strict=True)]

    @cached_property
    def chains(self) -> Chains:
        return chained(self.words, range(len(self.words)))

    def ngrams(self, order: int, stemmed: bool) -> Iterable:
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
        partner, found = self._shared
        if partner is not reference:  # remembers one partner: BLEU asks for four orders, ROUGE for two
            found = {}
            self._shared = (reference, found)
        return self._share(reference, order, stemmed, found).counted

    def _share(self, reference: "Words", order: int, stemmed: bool, found: dict) -> "Shared":
        if (order, stemmed) not in found:
            shorter = WORDS if order == 1 else self._share(reference, order - 1, stemmed, found)
            found[order, stemmed] = _intersect(self.ngrams(order, stemmed), reference.counts(order, stemmed), shorter)
        return found[order, stemmed]

    def same_text(self, other: "Words") -> bool:
        """For texts without a single word (punctuation only): is it the same punctuation?"""
        return self.text.split() == other.text.split()


class Shared(NamedTuple):
    """N-grams that two texts share: how many, and whether any occurs twice in the first."""

    counted: int
    repeated: bool


WORDS = Shared(1, True)  # before the first order is known: there may be some, and any may be repeated


def _intersect(grams: Iterable, allowed: Mapping[Any, int], shorter: Shared) -> Shared:
    """Where no shorter n-gram is shared, no longer one is; where none is repeated, no longer one is."""
    if not shorter.counted:
        return shorter
    found = list(filter(allowed.__contains__, grams))
    if not shorter.repeated or len(set(found)) == len(found):
        return Shared(len(found), False)
    surplus = sum([n - allowed[gram] for gram, n in Counter(found).items() if n > 1 and n > allowed[gram]])
    return Shared(len(found) - surplus, True)


def chained(words: list[str], among: Iterable[int]) -> Chains:
    """The chains of the places `among`, which ascend."""
    last: dict[str, int] = {}
    before = [-2] * len(words)
    for place in among:
        word = words[place]
        before[place] = last.get(word, -2)
        last[word] = place
    return Chains(last, before)


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
    ROUGE_STEMS.clear()
