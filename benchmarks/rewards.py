"""Overlap rewards against nltk and rouge_score: one process, 64 prompts x 8 completions, values compared.

    python benchmarks/rewards.py [--repeats 5] [--sections each] [--write]

Both sides get the same texts, batch by batch in turn, and are timed by the CPU time of this process. Every repeat
draws new texts, so that nobody finds a completion in a cache: what stays warm is what stays warm in training, the
stems and synonyms of words seen before. The libraries get their tokens ready-made. nltk's METEOR reads WordNet if
it finds the corpus (NLTK_DATA); otherwise it gets our synonym table behind nltk's interface, which is faster than
nltk's own reader, so that the ratio errs on the low side. Then: one 20,000-word completion, and 50,000 characters
of tags, through every scorer but two: `code`, whose cost is the program's that it runs, and `reference_probability`,
whose cost is the policy's. `--write` renews the two sections in benchmarks/RESULTS.md.
"""

import argparse
import os
import platform
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version

from nltk.corpus import wordnet as nltk_wordnet
from nltk.translate.bleu_score import sentence_bleu
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sections import processor, publish
from stub_judge import stub_judge

from omnirl_core.rewards import Reward, bleu, meteor, rouge
from omnirl_core.rewards.embedding import MOST_CHARACTERS
from omnirl_core.rewards.embedding import _vector as vector_of
from omnirl_core.rewards.overlap import words
from omnirl_core.rewards.overlap.words import wordnet
from omnirl_core.rewards.registry import SCORERS, scorer_named
from omnirl_core.text import tokens
from scripts.build_embedding import demo_folder

PROMPTS, COMPLETIONS = 64, 8
MARKS = {
    name: (f"<!-- made by benchmarks/rewards.py, {name} -->", f"<!-- end of benchmarks/rewards.py, {name} -->")
    for name in ("overlap", "each")
}
ELSEWHERE = ("code", "reference_probability")  # what they cost is a program's and the policy's time
NOTE = (
    "`judge` asks a local endpoint that replies at once, in a process of its own whose time is not counted, and sends "
    "20,000 characters at most: add what a model takes. `embedding` reads the model of scripts/build_embedding.py; an "
    "answer beyond 10,000 characters is 0.0 unread, one of 10,000 takes {:.0f} ms. `code` has no row, since it costs "
    "what the program costs that it runs, nor has `reference_probability`, which asks the policy."
)
Pair = tuple[str, str]
Scores = list[float]


# --- texts ---


def vocabulary(size: int = 20_000) -> list[str]:
    """Words of WordNet, plain and inflected; with Zipf's law below, 200 new words in 98,000 are like running text."""
    lemmas = sorted(word for word in wordnet().lemmas() if word.isalpha() and word.isascii())
    forms = [word + ending for word in lemmas for ending in ("", "s", "ed", "ing")]
    random.Random(0).shuffle(forms)
    return forms[:size]


def draw(known: list[str], rng: random.Random) -> str:
    """A word by Zipf's law: the one of rank r in proportion to 1 / r."""
    return known[int(len(known) ** rng.random()) - 1]


def group(known: list[str], size: int, rng: random.Random) -> list[Pair]:
    """Eight completions that keep 30-95 % of one reference; the rest is replaced, some by synonyms, or dropped."""
    reference = [draw(known, rng) for _ in range(size)]
    pairs = []
    for _ in range(COMPLETIONS):
        keep = rng.uniform(0.3, 0.95)
        changed = [word for word in reference for word in altered(word, known, keep, rng)]
        if rng.random() < 0.2:  # halves swapped
            changed = changed[size // 2 :] + changed[: size // 2]
        pairs.append((sentence(changed), sentence(reference)))
    return pairs


def altered(word: str, known: list[str], keep: float, rng: random.Random) -> list[str]:
    """The word with probability `keep`; otherwise another, a synonym, nothing, or itself and another."""
    if rng.random() < keep:
        return [word]
    fate = rng.random()
    if fate < 0.5:
        return [draw(known, rng)]
    if fate < 0.7:
        return [rng.choice(sorted(name for name in wordnet()[word] if name.isalpha() and name.isascii()))]
    return [] if fate < 0.9 else [word, draw(known, rng)]


def sentence(drawn: list[str]) -> str:
    return " ".join(drawn).capitalize() + "."


def batch(known: list[str], size: int, seed: int) -> list[Pair]:
    rng = random.Random(seed)
    return [pair for _ in range(PROMPTS) for pair in group(known, size, rng)]


# --- the two sides ---


class TableAsWordNet:
    """Our synonym table with nltk's interface: one synset per word, holding all its synonyms."""

    @dataclass(frozen=True)
    class Synset:
        names: frozenset[str]

        def lemmas(self) -> "Iterator[TableAsWordNet.Lemma]":
            return map(TableAsWordNet.Lemma, self.names)

    @dataclass(frozen=True)
    class Lemma:
        text: str

        def name(self) -> str:
            return self.text

    def synsets(self, word: str) -> list[Synset]:
        return [self.Synset(wordnet()[word])]


def library_wordnet() -> tuple[object, str]:
    try:
        nltk_wordnet.ensure_loaded()
    except LookupError:
        return TableAsWordNet(), "our synonym table behind nltk's interface"
    return nltk_wordnet, "nltk's WordNet reader"


def libraries(corpus: object) -> Callable[[str, str], Scores]:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)

    def score(prediction: str, reference: str) -> Scores:
        predicted_tokens, reference_tokens = tokens(prediction), tokens(reference)
        found = scorer.score(reference, prediction)
        rouges = [found[variant].fmeasure for variant in ("rouge1", "rouge2", "rougeL")]
        return [
            float(sentence_bleu([reference_tokens], predicted_tokens)),
            *rouges,
            meteor_score([reference_tokens], predicted_tokens, wordnet=corpus),
        ]

    return score


def ours(prediction: str, reference: str) -> Scores:
    rouges = [rouge(prediction, reference, v, compat="rouge_score") for v in ("rouge1", "rouge2", "rougeL")]
    return [bleu(prediction, reference, compat="nltk"), *rouges, meteor(prediction, reference, compat="nltk")]


@lru_cache(maxsize=1)
def question_for(reference: str) -> str:
    return f"What is the {' '.join(reference.split()[::4])}?"


def weighted(prediction: str, reference: str) -> Scores:
    """The same five with content weights, as in training: the question holds every fourth word of the reference."""
    problem = question_for(reference)
    rouges = [rouge(prediction, reference, v, problem=problem) for v in ("rouge1", "rouge2", "rougeL")]
    return [
        bleu(prediction, reference, problem=problem),
        *rouges,
        meteor(prediction, reference, problem=problem),
    ]


def seconds(score: Callable[[str, str], Scores], pairs: list[Pair]) -> tuple[float, list[Scores]]:
    started = time.process_time()
    scores = [score(*pair) for pair in pairs]
    return time.process_time() - started, scores


@dataclass(frozen=True)
class Comparison:
    words: int
    libraries_us: float
    ours_us: float
    ratio: float
    weighted_us: float
    weighted_ratio: float
    difference: float
    pairs: int


def compare(size: int, repeats: int, by_library: Callable[[str, str], Scores]) -> Comparison:
    """Medians over the repeats, in microseconds a completion."""
    known = vocabulary()
    for seed in (-3, -2, -1):  # words get their stems and synonyms
        seconds(ours, batch(known, size, seed))
        seconds(weighted, batch(known, size, seed))
    times, difference = [], 0.0
    for repeat in range(repeats):
        pairs = batch(known, size, repeat)
        theirs_s, expected = seconds(by_library, pairs)
        ours_s, got = seconds(ours, pairs)
        difference = max(difference, *map(distance, expected, got))
        weighted_s, _ = seconds(weighted, pairs)
        times.append((theirs_s, ours_s, theirs_s / ours_s, weighted_s, theirs_s / weighted_s))
    n = PROMPTS * COMPLETIONS
    theirs_us, ours_us, weighted_us = (statistics.median(t[k] for t in times) / n * 1e6 for k in (0, 1, 3))
    ratio, weighted_ratio = (statistics.median(t[k] for t in times) for k in (2, 4))
    return Comparison(size, theirs_us, ours_us, ratio, weighted_us, weighted_ratio, difference, n * repeats)


def distance(expected: Scores, got: Scores) -> float:
    return max(abs(a - b) for a, b in zip(expected, got, strict=True))


# --- long texts ---


def long_texts() -> dict[str, str]:
    """One completion of 20,000 words, and four of 50,000 characters of tags."""
    known, rng = vocabulary(), random.Random(0)
    drawn = " ".join(draw(known, rng) for _ in range(20_000))
    units = ["</think>", "<answer>", "<answer>x</answer>", "<think>x</think><answer>x</answer>"]
    tags = {f"{unit} repeated": unit * (50_000 // len(unit)) for unit in units}
    return {"20,000 words": f"<think>so</think><answer>{drawn}</answer>", **tags}


def slowest(repeats: int = 3) -> dict[str, tuple[float, float]]:
    """Scorer -> milliseconds for 20,000 words and for the worst of the tags; best of some repeats, worst reference."""
    references = [
        "the red cube stands left of the green ball " * 3,
        "B",
        42,
        [10, 20, 300, 400],
        r"\frac{1}{2}",
    ]
    texts = long_texts()
    found = {}
    with stub_judge() as url:
        settings = {"embedding": {"model": demo_folder()}, "judge": {"url": url}}
        for name in SCORERS:
            if name in ELSEWHERE:
                continue
            reward = Reward(name, scorer_named(name), settings=settings.get(name, {}))
            reward.score("<answer>1</answer>", 1)  # what is loaded once
            times = [
                min(milliseconds(reward, text, reference) for _ in range(repeats))
                for text in texts.values()
                for reference in references
            ]
            found[name] = (max(times[: len(references)]), max(times[len(references) :]))
    return found


def longest_embedding(repeats: int = 3) -> float:
    """Milliseconds of `embedding` for an answer as long as it reads one; best of some repeats."""
    answer = long_texts()["20,000 words"].partition("<answer>")[2][:MOST_CHARACTERS]
    reward = Reward("embedding", scorer_named("embedding"), settings={"model": demo_folder()})
    text, reference = f"<answer>{answer}</answer>", "the red cube stands left of the green ball"
    return min(milliseconds(reward, text, reference) for _ in range(repeats))


def milliseconds(reward: Reward, text: str, reference: object) -> float:
    clear_memory()
    started = time.process_time()
    reward.score(text, reference)
    return (time.process_time() - started) * 1e3


def clear_memory() -> None:
    """No text, stem or synonym is known: the first long completion of a run."""
    words.forget()
    wordnet().clear()
    vector_of.cache_clear()


# --- the report ---


def overlap(repeats: int) -> str:
    """The section on the overlap rewards against the libraries."""
    corpus, name = library_wordnet()
    comparisons = [compare(size, repeats, libraries(corpus)) for size in (30, 200)]
    lines = [
        "## Overlap rewards",
        "",
        f"`python benchmarks/rewards.py --repeats {repeats}`: {PROMPTS} prompts x {COMPLETIONS} completions; BLEU-4, "
        "ROUGE-1, ROUGE-2, ROUGE-L and METEOR with synonyms, in compat mode, then with content weights as in training; "
        "CPU time of one process, median.",
        "",
        "| words | nltk + rouge_score, us a completion | ours | ratio | largest difference of values | ours, weighted "
        "| ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for c in comparisons:
        lines.append(
            f"| {c.words} | {c.libraries_us:.0f} | {c.ours_us:.0f} | **{c.ratio:.1f}x** | {c.difference:.1g} "
            f"(of {c.pairs} completions x 5) | {c.weighted_us:.0f} | **{c.weighted_ratio:.1f}x** |"
        )
    return "\n".join([*lines, "", f"{machine()}; {packages()}; WordNet for nltk: {name}."])


def each() -> str:
    """The section on what each reward takes for a long completion."""
    lines = [
        "## Each reward on a long completion",
        "",
        "`python benchmarks/rewards.py --sections each`: milliseconds of CPU time for one completion, nothing cached, "
        "the slowest of five references.",
        "",
        "| scorer | 20,000 words | 50,000 characters of tags |",
        "|---|---|---|",
        *(f"| {scorer} | {long:.0f} | {tagged:.0f} |" for scorer, (long, tagged) in slowest().items()),
    ]
    return "\n".join([*lines, "", NOTE.format(longest_embedding()), "", f"{machine()}; {packages()}."])


def packages() -> str:
    names = ("nltk", "rouge-score", "rapidfuzz")
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)])


def machine() -> str:
    load = f", load average {os.getloadavg()[0]:.1f} while it ran" if hasattr(os, "getloadavg") else ""
    return f"{processor()}, {os.cpu_count()} cores{load}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sections", nargs="+", default=list(MARKS), choices=list(MARKS))
    parser.add_argument("--write", action="store_true", help="renew the sections in benchmarks/RESULTS.md")
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore", message="\nThe hypothesis contains 0 counts")  # nltk, on every other pair
    for name in arguments.sections:
        section, (start, end) = overlap(arguments.repeats) if name == "overlap" else each(), MARKS[name]
        publish(f"{start}\n{section}\n{end}", start, end, arguments.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
