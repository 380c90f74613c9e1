"""How scripts/reward_study.py judges a held-out answer, whatever reward it was trained under.

Overlap metrics are the plain ones: all words weigh alike, as in the libraries. `right` is an exact check of facts, and
knows the drawn world and the facts of recipes/text_only/prepare_facts.py: no metric on words is part of it.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from omnirl_core.rewards import bleu, meteor, overlap, rouge
from omnirl_core.rewards.answers.answers import answer_or_overlap, exact
from omnirl_core.rewards.format import think_format
from omnirl_core.rewards.overlap.captions import chrf, cider
from omnirl_core.shapes.tasks import COLORS, SHAPES
from omnirl_core.text import answer_text, tokens
from recipes.text_only.prepare_facts import SUBJECTS

COLOR, KIND = "|".join(COLORS), "|".join(SHAPES)
NAMED = re.compile(rf"\b({COLOR}) ({KIND})s?\b")
RELATIONS = "above|below|left of|right of"
RELATION = re.compile(rf"\b(?:{RELATIONS})\b")
RELATED = re.compile(rf"\b(?=((?:{COLOR}) (?:{KIND})) ({RELATIONS}) (?:an?|the) ((?:{COLOR}) (?:{KIND}))\b)")
"""One match a relation, those in a chain ("a above b above c") too."""
MENTIONED = re.compile(rf"\b(?:{COLOR}|(?:{KIND})s?)\b")
SPLIT = re.compile(r" \| (\w+): ")
ECHOED = 0.8
"""Share of an answer's words in one run of the question, from which a wrong answer counts as an echo."""
MEASURES: dict[str, str] = {
    "right": "facts right",
    "named": "shapes named",
    "false": "false",
    "exact": "exact",
    "bleu": "BLEU",
    "rouge": "ROUGE-L",
    "meteor": "METEOR",
    "original": "original",
    "unified": "unified",
    "chrf": "chrF",
    "cider": "CIDEr",
    "echo": "echo",
    "words": "words",
    "form": "form",
}
"""What an answer is judged by -> its heading. All but `words` (of the answer) lie in [0, 1]."""


def shapes_named(answer: str) -> tuple[set[str], int]:
    """The shapes that a caption names by colour and kind, and how many words name half of one.

    >>> shapes_named("a red circle above a star")
    ({'red circle'}, 1)
    """
    named = NAMED.findall(answer.lower())
    return {f"{color} {kind}" for color, kind in named}, len(MENTIONED.findall(answer.lower())) - 2 * len(named)


def judge_caption(answer: str, references: Sequence[str]) -> tuple[float, float, float]:
    """Whether a caption names both shapes and nothing else, whether it says how they lie too, and whether it lies.

    Half a name (a colour or a kind alone) makes a caption wrong; it is a lie where no shape of the image has it, as are
    a shape that is not there and a relation that does not hold.

    >>> references = ["a red circle above a blue star", "a blue star below a red circle"]
    >>> judge_caption("a blue star and a red circle", references), judge_caption("it is a red circle", references)
    ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    >>> judge_caption("a blue star below a red circle", references), judge_caption("a black circle", references)
    ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    >>> judge_caption("a blue star left of a red circle", references)
    (1.0, 0.0, 1.0)
    """
    wanted, _ = shapes_named(references[0])
    named, halves = shapes_named(answer)
    known = " ".join(wanted)
    strange = any(word.rstrip("s") not in known for word in MENTIONED.findall(answer.lower())) or named - wanted
    complete = named == wanted and not halves
    said = RELATED.findall(answer.lower())
    holds = [
        any(f"a {first} {relation} a {second}" == text for text in references) for first, relation, second in said
    ]
    related = len(RELATION.findall(answer.lower()))
    right = complete and holds == [True] and related == 1
    return float(complete), float(right), float(bool(strange) or (related > 0 and not all(holds)))


def judge_facts(answer: str, problem: str, subject: str) -> tuple[float, float]:
    """Whether a sentence has every value that its prompt lists, and whether it has another value of the fields.

    A list in the prompt's form is no sentence, and not right.

    >>> problem = "Write one short sentence that tells these facts. train | from: Lyon | to: Paris | platform: 4"
    >>> judge_facts("From Lyon to Paris, platform 4.", problem, "train"), judge_facts("Lyon to Milan", problem, "train")
    ((1.0, 0.0), (0.0, 1.0))
    """
    parts = SPLIT.split(problem)[1:]
    given = {_bare(value) for value in parts[1::2]}
    missing = [value for value in given if not _stands_in(value, answer)]
    known = {_bare(value) for values in SUBJECTS[subject].fields.values() for value in values}
    strange = any(_stands_in(value, answer) for value in known - given)
    return float(not missing and not strange and not is_list(answer, subject)), float(strange)


def is_list(answer: str, subject: str) -> bool:
    """Whether an answer lists facts as the prompt does: `|` between them, or a field's name with a colon.

    >>> is_list("train | from: Lyon", "train"), is_list("To: Paris", "train"), is_list("From Lyon to Paris.", "train")
    (True, True, False)
    """
    fields = "|".join(SUBJECTS[subject].fields)
    return "|" in answer or re.search(rf"\b(?:{fields}): ", answer.lower()) is not None


def _bare(value: str) -> str:
    return re.sub(r"^(?:at|the) ", "", value.strip().lower())


def _stands_in(value: str, answer: str) -> bool:
    return re.search(rf"(?<![\w:]){re.escape(value)}(?![\w:])", answer.lower()) is not None


def echoes(answer: str, problem: str) -> bool:
    """Whether an answer of two words or more is, but for a fifth, a run of the question's own words.

    >>> echoes("red star blue", "Sort by alphabet: red star blue"), echoes("blue", "blue or red?")
    (True, False)
    """
    said, asked = tokens(answer), tokens(problem)
    longest = max(
        (
            next((n for n in range(min(len(said) - i, len(asked) - j)) if said[i + n] != asked[j + n]),
                 min(len(said) - i, len(asked) - j))
            for i in range(len(said)) for j in range(len(asked))
        ),
        default=0,
    )  # fmt: skip
    return len(said) >= 2 and longest >= ECHOED * len(said)


def judge(line: Mapping[str, object], frequencies: str | None = None, tags: bool = True) -> dict[str, float]:
    """Every measure of one held-out answer, by name; an answer that cannot be read scores 0 on all.

    Args:
        line: with `task`, `problem`, `solution` (a text or several) and `completion`.
        frequencies: CIDEr's file of document frequencies.
        tags: whether the answer stands in tags; without, the completion is the answer.
    """
    completion, solution, problem = str(line["completion"]), line["solution"], str(line["problem"])
    said = answer_text(completion) if tags else completion
    answer = (said or "").strip()
    found = {name: (scorer(answer, solution) or 0.0) if answer else 0.0 for name, scorer in SCORERS.items()}
    found["cider"] = (cider(answer, solution, frequencies=frequencies, best=True) or 0.0) if answer else 0.0
    shapes = right = found["exact"]
    false = float(bool(answer) and not right)
    if line["task"] == "caption":
        shapes, right, false = judge_caption(answer, solution if isinstance(solution, list) else [str(solution)])
    elif line["task"] in SUBJECTS:
        right, false = judge_facts(answer, problem, str(line["task"]))
        shapes = right
    echo = not found["exact"] and (
        echoes(answer, problem) or (str(line["task"]) in SUBJECTS and is_list(answer, str(line["task"])))
    )
    found |= {
        "right": right,
        "named": shapes,
        "false": false,
        "echo": float(echo),
        "words": float(len(answer.split())),
    }
    found["form"] = think_format(completion) if tags else 1.0
    return {name: found[name] for name in MEASURES}


SCORERS: dict[str, Callable[[str, object], float | None]] = {
    "exact": exact,
    "bleu": bleu,
    "rouge": rouge,
    "meteor": meteor,
    "original": lambda answer, solution: overlap(answer, solution, preset="seed"),
    "unified": answer_or_overlap,
    "chrf": chrf,
}


@cache
def _captions(solution: tuple[str, ...]) -> bool:
    return all(len(shapes_named(text)[0]) == 2 for text in solution)


def right(completion: str, solution: object) -> float:
    """The check of facts as a reward of weight 0, for the curves of the drawn world."""
    answer = answer_text(completion)
    if answer is None:
        return 0.0
    if isinstance(solution, list) and _captions(tuple(map(str, solution))):
        return judge_caption(answer, solution)[1]
    return exact(answer, solution) or 0.0
