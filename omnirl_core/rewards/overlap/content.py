"""Which words of an answer carry weight: all but those of the question and the function words of the language.

Words are weighted as information-weighted n-gram metrics do (NIST, Doddington 2002: an n-gram is worth what it
tells beyond what was known before; CIDEr's idf, Vedantam et al. 2015; METEOR 1.5's weight for function words,
Denkowski and Lavie 2014). What the question says is known, so its words tell nothing: they and function words
are *light* and weigh `light` (0.02), all others weigh 1. With Mc matched content words of Pc and Gc in answer
and reference, and Mf matched light words of Pf and Gf:

    precision = (Mc + light * Mf) / (Pc + light * Pf),  recall = (Mc + light * Mf) / (Gc + light * Gf)

Longer n-grams (BLEU), the longest common subsequence (ROUGE-L) and the alignment (METEOR) run over the content
words. A reference whose content is all in the question ("Is it red or blue?" aside: alternatives keep their
weight) gets the question's words back; one of function words only is scored without weights.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.resources import files
from itertools import compress
from typing import NamedTuple

from omnirl_core.rewards.answers.numbers import NUMBERS
from omnirl_core.rewards.overlap.words import (
    STEMS,
    Cut,
    Words,
    bare,
    has_number_or_mark,
    numbered,
    read_words,
    wordnet,
)
from omnirl_core.rewards.reward import made_by
from omnirl_core.text import TAG, tokens

WORD_LISTS = tomllib.loads(
    files("omnirl_core.rewards.overlap").joinpath("word_lists.toml").read_text(encoding="utf-8")
)
FUNCTION_WORDS = {language: frozenset(words.split()) for language, words in WORD_LISTS["function_words"].items()}
SCRIPTS = {
    language: re.compile(f"[{first}-{last}]")
    for language, first, last in (
        ("ru", "\u0400", "\u04ff"), ("zh", "\u4e00", "\u9fff"), ("ko", "\uac00", "\ud7a3"),
        ("ar", "\u0600", "\u06ff"), ("hi", "\u0900", "\u097f"),
    )
}  # fmt: skip
"""Letters that stand for one of the languages, where no function word tells."""
_KANA = re.compile("[\u3040-\u30ff]")

LONGEST = 60
"""Tokens; of a longer prompt only its questions count: the rest is a text to work on, whose words are facts."""

_SENTENCE = re.compile(r"[^.!?。！？؟\n]+[.!?。！？؟\n]*")
_ASKS = ("?", "？", "؟")


def question_of(prompt: object = None, problem: object = None) -> str:
    """The question's text; "" where there is none.

    `problem` counts where the row has it. Otherwise it is the last user turn of `prompt` (messages with text or
    blocks, or plain text) up to the sentence that asks for <think> or <answer> tags: a system prompt and format
    instructions are no question. Placeholders of images are taken out.

    >>> question_of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "image"},
    ...     {"type": "text", "text": "Where is it? Output the answer in <answer> </answer> tags."}]}])
    'Where is it?'
    """
    return _shortened(question_text(prompt, problem))


asks = made_by(question_of, "question")
"""Decorator: the scorer's parameter `question` is read from the columns `prompt` and `problem`."""


def question_text(prompt: object = None, problem: object = None) -> str:
    """The same with its format instructions and all of its length."""
    if isinstance(problem, str) and problem.strip():
        return problem
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list | tuple):
        return ""
    turns = [turn for turn in prompt if isinstance(turn, Mapping) and turn.get("role", "user") == "user"]
    content = turns[-1].get("content") if turns else None
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list | tuple) else ()
    texts = [block.get("text") if isinstance(block, Mapping) else block for block in blocks]
    return " ".join(text for text in texts if isinstance(text, str))


@lru_cache(maxsize=64)
def _shortened(text: str) -> str:
    text = text.replace("<image>", " ")
    tag = TAG.search(text)
    if tag is not None:
        text = "".join(match.group() for match in _SENTENCE.finditer(text[: tag.start()]) if match.end() < tag.start())
    text = text.strip()
    if len(tokens(text)) <= LONGEST:
        return text
    asked = [match.group() for match in _SENTENCE.finditer(text) if match.group().rstrip().endswith(_ASKS)]
    return " ".join(one.strip() for one in asked[-3:])


@lru_cache(maxsize=512)
def languages_of(text: str) -> tuple[str, ...]:
    """The language whose function words a text has most of, two where they tie; () where it has none.

    >>> languages_of("What is the man holding?"), languages_of("Was hält der Mann?"), languages_of("x")
    (('en',), ('de',), ())
    """
    if not text.isascii() and _KANA.search(text):
        return ("ja",)
    words = set(tokens(text))
    hits = {language: len(words & known) for language, known in FUNCTION_WORDS.items()}
    most = max(hits.values())
    if most:
        return tuple(language for language, count in hits.items() if count == most)[:2]
    return () if text.isascii() else tuple(name for name, letters in SCRIPTS.items() if letters.search(text))


OR = {"or", "oder", "ou", "o", "или", "أو", "또는", "아니면"}
_ARTICLES = {"a", "an", "the", "ein", "eine", "der", "die", "das", "un", "une", "le", "la", "el", "los"}
_CJK_OR = re.compile(r"(.{1,4})(?:还是|或者|或|それとも)(.{1,4}?)(?=[的吗？?，。]|$)")
_ENDINGS = {  # light stemmers after Savoy (2006): endings that inflection adds
    "de": re.compile(r"(?<=\w{3})(?:em|en|er|es|e|n|s)$"),
    "fr": re.compile(r"(?<=\w{3})(?:es|s|e|x)$"),
    "es": re.compile(r"(?<=\w{3})(?:os|as|es|o|a|e|s)$"),
    "it": re.compile(r"(?<=\w{3})[aeio]$"),
    "pt": re.compile(r"(?<=\w{3})(?:os|as|es|o|a|e|s)$"),
    "ru": re.compile(
        r"(?<=\w{3})(?:ого|его|ому|ему|ами|ями|ая|яя|ое|ее|ый|ий|ой|ые|ие|ую|юю|ых|их|ым|им|ах|ях|ов|ев|ам|ям|ом|ем"
        r"|[уюаяыиоеьй])$"
    ),
    "ko": re.compile(r"(?<=\w)(?:입니다|에서|으로|은|는|이|가|을|를|에|의|와|과|도|로)$"),
    "ar": re.compile(r"^ال(?=\w{2})|ة$"),
}
LIGHT = ""
LIGHT_WEIGHT = 0.02
"""A sentence of 50 light words weighs as much as one word of content."""


class Lexicon(dict[str, str]):
    """token -> its form as a content word, or LIGHT; for one question and its languages, filled as asked."""

    def __init__(self, question: str, languages: tuple[str, ...]) -> None:
        self._endings = [_ENDINGS[language] for language in languages if language in _ENDINGS]
        self._bases = wordnet().base_forms
        asked = set(numbered(question)) - alternatives(question)
        self._light = asked.union(*(FUNCTION_WORDS[language] for language in languages))
        self._asked = {STEMS[self._uninflected(word)] for word in asked}
        self._asked |= {base for word in asked for base in (word, *self._bases.get(word, ()))}

    def __missing__(self, word: str) -> str:
        form = self._uninflected(word)
        is_asked = STEMS[form] in self._asked or not self._asked.isdisjoint(self._bases.get(word, ()))
        found = self[word] = LIGHT if is_asked or word in self._light else CANONICAL.get(word, form)
        return found

    def _uninflected(self, token: str) -> str:
        for ending in self._endings:
            token = ending.sub("", token)
        return token


CANONICAL = {"cannot": "not"} | {word: str(value) for word, value in NUMBERS.items()}
"""One form for one fact: three, drei and 三 are 3."""


@lru_cache(maxsize=64)
def alternatives(question: str) -> frozenset[str]:
    """Words that a question offers to choose from: one of them is the fact.

    >>> sorted(alternatives("Is the car red or blue?"))
    ['blue', 'red']
    """
    kept: set[str] = set()
    asked = numbered(question)
    for place, word in enumerate(asked):
        if word in OR:
            kept.update(asked[max(0, place - 1) : place])
            kept.update([one for one in asked[place + 1 : place + 3] if one not in _ARTICLES][:1])
    for match in _CJK_OR.finditer(question):
        kept.update(match[1][-2:] + match[2])
    return frozenset(kept)


lexicon = lru_cache(maxsize=64)(Lexicon)
"""The lexicon of a question and its languages, remembered for the group."""


def asked(prompt: object, problem: object, light: float) -> str:
    """The question whose words are light; "" where none is known or all words weigh alike. ValueError out of (0, 1]."""
    if not 0 < light <= 1:
        raise ValueError(f"light: {light} must be above 0 and up to 1")
    return question_of(prompt, problem) if light < 1 else ""


class Split(NamedTuple):
    """A text's content words, and its light ones."""

    content: Words
    light: Words


def split(words: Words, known: Lexicon) -> Split:
    """The text under a lexicon; kept with the text, for the references that share it."""
    if words.split_by is None or words.split_by[0] is not known:
        forms = list(map(known.__getitem__, words.words))
        content = list(filter(None, forms))
        light = list(compress(words.words, map(LIGHT.__eq__, forms)))
        words.split_by = (known, Split(Words(words.text, content), Words(words.text, light)))
    found: Split = words.split_by[1]
    return found


class Pair(NamedTuple):
    """Prediction and reference as the metrics see them: content words of both, and the weights of all words."""

    predicted: Words
    reference: Words
    size: float
    reference_size: float
    light_matched: float = 0
    """Weight of the light words that both have."""

    @property
    def is_wordless(self) -> bool:
        return not self.size or not self.reference_size

    @property
    def same_marks(self) -> float:
        """The score of a wordless pair: 1.0 for the same punctuation."""
        return float(self.size == self.reference_size and self.predicted.same_text(self.reference))


def plain_pair(predicted: Words, reference: Words) -> Pair:
    """A pair whose words weigh all alike."""
    return Pair(predicted, reference, len(predicted), len(reference))


def pairs(prediction: str, references: Iterable[str], cut: Cut, question: str, light: float) -> list[Pair]:
    """The prediction with each reference: weighed where the question is known and the reference has content."""
    return [
        (weigh(prediction, reference, question, light) if question else None)
        or plain_pair(read_words(prediction, cut), read_words(reference, cut))
        for reference in references
    ]


@lru_cache(maxsize=16)  # the metrics of one completion, and its references
def weigh(prediction: str, reference: str, question: str, light: float) -> Pair | None:
    """The weighted pair; None where the reference has function words only, and weights would say nothing."""
    known, wanted = split_reference(reference, question)
    if not wanted.content.words:
        return None
    predicted = split(_read(prediction), known)
    size, reference_size = (len(text.content) + light * len(text.light) for text in (predicted, wanted))
    light_matched = light * predicted.light.shared(wanted.light, 1)
    return Pair(predicted.content, wanted.content, size, reference_size, light_matched)


@lru_cache(maxsize=16)
def split_reference(reference: str, question: str) -> tuple[Lexicon, Split]:
    """The reference under the question's lexicon; under that of no question where all its content is asked."""
    words, languages = _read(reference), languages_of(question) + languages_of(reference)
    known = lexicon(question, languages)
    found = split(words, known)
    if not found.content.words:
        known = lexicon("", languages)
        found = split(words, known)
    return known, found


def _read(text: str) -> Words:
    return read_words(text, numbered if has_number_or_mark(text) else bare)
