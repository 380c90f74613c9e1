"""Porter's stemmer with the extensions that nltk (and so rouge_score) uses, memoised.

M. F. Porter, "An algorithm for suffix stripping", Program 14.3 (1980). A word is read as a row of consonants
(c) and vowels (v); its measure m is the number of `vc` in it. tests/rewards/test_stems.py holds nltk equality.
"""

from collections.abc import Callable

IRREGULAR = {
    "skies": "sky",
    "sky": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "news": "news",
    "innings": "inning",
    "inning": "inning",
    "outings": "outing",
    "outing": "outing",
    "cannings": "canning",
    "canning": "canning",
    "howe": "howe",
    "proceed": "proceed",
    "exceed": "exceed",
    "succeed": "succeed",
}

STEP_2 = {  # applied where m > 0
    **{"ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "bli": "ble"},
    **{
        "alli": "al",
        "entli": "ent",
        "eli": "e",
        "ousli": "ous",
        "ization": "ize",
        "ation": "ate",
        "ator": "ate",
    },
    **{"alism": "al", "iveness": "ive", "fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive"},
    **{"biliti": "ble", "fulli": "ful", "logi": "log"},
}
STEP_3 = {  # applied where m > 0
    **{"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""},
}
STEP_4 = {  # removed where m > 1
    **{"al": "", "ance": "", "ence": "", "er": "", "ic": "", "able": "", "ible": "", "ant": "", "ement": ""},
    **{
        "ment": "",
        "ent": "",
        "ion": "",
        "ou": "",
        "ism": "",
        "ate": "",
        "iti": "",
        "ous": "",
        "ive": "",
        "ize": "",
    },
}
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
    for ending, new in STEP_2_TAILS.get(word[-2:], ()):
        if word.endswith(ending):
            stem = word[: -len(ending)]
            counted = stem + "l" if ending == "logi" else stem  # geology like archaeology
            return stem + new if _measure(counted) > 0 else word
    return word


def _without(word: str, tails: Endings, above: int) -> str:
    """Steps 3 and 4: replace the longest ending that fits, where it leaves a measure above `above`."""
    for ending, new in tails.get(word[-2:], ()):
        if word.endswith(ending):
            stem = word[: -len(ending)]
            fits = _measure(stem) > above and (ending != "ion" or stem[-1] in "st")
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
