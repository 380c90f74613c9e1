"""Which rewards judge a task's references: by what most of them are, and by what their prompts ask for."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omnirl_core.rewards.overlap.content import languages_of
from omnirl_core.types import JsonObject
from omnirl_tools.checks.material import HIGH, known_share
from omnirl_tools.suggestion.kinds import LONG, Reference, options_of

MOST = 0.95
"""Share of a task's samples from which it has one kind of reference."""
ASKS = {
    "click": r"click|\btap\b|cursor|\bpress\b|点击",
    "point": r"\bpoint(?:s|ing)?\b|coordinates? of|指出",
    "box": r"\bbox|bbox|\bregion\b|框",
    "outline": r"outline|\bmask|polygon|contour|segment",
    "time": r"\bwhen\b|second|moment|\bspan\b|\btimes?\b|video|timestamp",
    "chart": r"\bbars?\b|\blines?\b|graph|chart|\bpie\b|segment|\baxis\b|legend|\bplot|percent|lowest|highest|图表",
    "page": r"document|\bpage|letter\b|letterhead|\bmemo\b|\bform\b|invoice|\breport\b|receipt|contract|\btable\b|scan"
    r"|mentioned|\btitle\b|heading|footer",
    "transcribe": r"transcri|plain text|\bocr\b|read (?:the|all)|text (?:of|in|on) (?:the|this)|naturally|转写|识别",
    "list": r"\ball\b|\blist\b|labels?\b|tags?\b|categor|\bwhich .* are\b|apply|genres|topics|keywords|哪些",
    "rank": r"\brank|\border\b|\bsort|arrange|排序",
    "count": r"how many|number of|\bcount\b|多少|几",
    "caption": r"describe|caption|what (?:is|does) the (?:image|photo) show|描述",
}
"""What a prompt can ask for -> words that say so."""


@dataclass
class Judge:
    """The entries that judge one task's answers, the reason for them, and what the samples left open."""

    entries: list[JsonObject]
    why: str
    unclear: list[str] = field(default_factory=list)
    tasks: list[str | None] = field(default_factory=list)


def _one(scorer: str, why: str, *unclear: str, weight: float = 1.0, **settings: Any) -> Judge:
    """A judge of one entry."""
    return Judge([_entry(scorer, weight, **settings)], why, [text for text in unclear if text])


def _entry(scorer: str, weight: float = 1.0, **settings: Any) -> JsonObject:
    gate = {name: settings.pop(name) for name in ("gated_by", "gate_at") if name in settings}
    return {"name": scorer, "weight": weight} | ({"settings": settings} if settings else {}) | gate


class Group:
    """The references of one task: shares of their kinds, and of the prompts that ask for something."""

    def __init__(self, references: Sequence[Reference], space: str | None) -> None:
        self.all, self.space = references, space
        self.known = [reference for reference in references if reference.kind not in ("nothing", "empty")]
        self.kinds = Counter(reference.kind for reference in self.known)
        self.texts = [text for reference in self.known for text in reference.texts]

    def share(self, *kinds: str) -> float:
        """Share of the samples with a reference whose kind is one of these."""
        return sum(self.kinds[kind] for kind in kinds) / len(self.known)

    def only(self, *kinds: str) -> bool:
        return self.share(*kinds) >= MOST

    def asks(self, *what: str, least: float = 0.5) -> bool:
        """Whether that share of the prompts asks for one of these."""
        pattern = re.compile("|".join(ASKS[name] for name in what), re.IGNORECASE)
        hits = sum(pattern.search(reference.problem) is not None for reference in self.known)
        return hits >= least * len(self.known)

    @property
    def has_images(self) -> bool:
        return 2 * sum(bool(reference.record.images) for reference in self.known) > len(self.known)

    @property
    def words(self) -> float:
        """Words of a reference in the mean."""
        return sum(reference.n_words for reference in self.known) / len(self.known)

    def said(self, what: str, *kinds: str) -> str:
        """The reason for a choice, with the share of samples that led to it."""
        return f"{self.share(*kinds):.0%} of {len(self.known)} references are {what}"


# --- rules: each gives a judge, or None where the group is none of its own ---


def _programs(group: Group) -> Judge | None:
    if group.only("code"):
        warning = "`code` runs programs of the policy on this machine; read docs/code_reward.md, or take the entry out"
        return _one(
            "code", group.said("tests of a program", "code"), warning, allow_local_execution=True, all_or_nothing=True
        )
    if group.only("asserts"):
        fix = 'write the tests as {"tests": [{"call": ..., "args": [...], "expected": ...}]} (docs/code_reward.md)'
        return _one(
            "code", group.said("asserts in Python", "asserts"), f"`code` cannot read asserts; {fix}",
            allow_local_execution=True, all_or_nothing=True,
        )  # fmt: skip
    return None


def _places(group: Group) -> Judge | None:
    """Boxes, points, outlines and spans of time."""
    if group.only("box", "boxes"):
        return _boxes(group)
    if group.only("point"):
        return _one("point_distance", group.said("a point", "point"), *_space_note(group), **_space(group))
    if group.only("mask"):
        return _one("mask_iou", group.said("outlines or run lengths", "mask"))
    if group.only("points"):
        outline = group.asks("outline")
        open_question = "" if outline else "lists of points may be outlines or points; the prompts do not say which"
        return _one("mask_iou", group.said("lists of points", "points"), open_question)
    if group.only("pair", "span"):
        return _pairs(group)
    return None


def _boxes(group: Group) -> Judge:
    why = group.said("boxes", "box", "boxes")
    empty = any(reference.kind == "empty" for reference in group.all)
    if group.share("boxes") > 1 - MOST or empty:
        entries = [_entry("box_f1", 0.5, **_space(group)), _entry("box_ap", 0.5, **_space(group), count_penalty=True)]
        return Judge(entries, f"{why}, {group.share('boxes'):.0%} of them several", _space_note(group))
    if group.asks("click") or (group.asks("point") and not group.asks("box")):
        entries = [_entry("point_gaussian", 0.5, **_space(group)), _entry("point_in_box", 0.5, **_space(group))]
        return Judge(entries, f"{why}, and the prompts ask for a click", _space_note(group))
    open_question = (
        "" if group.asks("box") else "the prompts do not say whether a box or a click (`point_in_box`) is asked for"
    )
    return _one("box_iou", why, open_question, *_space_note(group), **_space(group), pick="only")


def _space(group: Group) -> JsonObject:
    return {"space": group.space or "pixels"}


def _space_note(group: Group) -> list[str]:
    corners = [
        one for reference in group.known if isinstance(one := reference.record.solution, list) and len(one) == 4
    ]
    swapped = any(
        box[2] < box[0] or box[3] < box[1] for box in corners if all(isinstance(side, int | float) for side in box)
    )
    sizes = "boxes end before they begin; if they are [x, y, width, height], map them: {column: ..., box: xywh}"
    notes = [sizes] if swapped else []
    if group.space is not None:
        return notes
    known = "pixels is written, Qwen2.5-VL wants resized (docs/boxes.md)"
    return [*notes, f"the space of the policy's answers is not known: {known}"]


def _pairs(group: Group) -> Judge:
    why = group.said("two numbers or times", "pair", "span")
    if group.share("span") > 0.5 or group.asks("time", least=0.3):
        return _one("temporal_iou", why)
    if group.asks("point", "click", least=0.3):
        return _one("point_distance", f"{why}, and the prompts ask for a point", *_space_note(group), **_space(group))
    what = "a point, a span of time (`temporal_iou`) or two labels (`set_f1`)"
    return _one(
        "point_distance",
        why,
        f"two numbers may be {what}; the prompts do not say which",
        *_space_note(group),
        **_space(group),
    )


def _structures(group: Group) -> Judge | None:
    """JSON, tables, tests of pages, pages, patterns."""
    if group.only("json"):
        wrapped = any(isinstance(one, Mapping) and "gt_parse" in one for one in map(_value, group.known))
        note = "the fields lie under `gt_parse`; map it: columns: {solution: ground_truth.gt_parse}" if wrapped else ""
        return _one("json_fields", group.said("JSON objects", "json"), note)
    if group.only("tests"):
        return _one("unit_tests", group.said("lists of a page's tests", "tests"))
    if group.only("table"):
        entries = [_entry("teds", 0.8), _entry("teds_struct", 0.2, gated_by="teds", gate_at=0.3)]
        return Judge(entries, group.said("tables", "table"))
    if group.only("pattern"):
        return _one("regex", group.said("patterns", "pattern"))
    if group.has_images and group.only("long", "sentence", "table", "short") and _is_transcription(group):
        return Judge(
            [_entry("cer", 0.5), _entry("wer", 0.5)], group.said("the text of a page", "long", "sentence", "table")
        )
    return None


def _is_transcription(group: Group) -> bool:
    lines = sum("\n" in text for text in group.texts) / len(group.texts)
    return group.share("long", "sentence", "table") > 0.5 and (
        group.asks("transcribe") or (group.share("long") > 0.5 and lines > 0.5)
    )


def _value(reference: Reference) -> object:
    solution = reference.record.solution
    try:
        return json.loads(solution) if isinstance(solution, str) else solution
    except ValueError:
        return solution


def _options(group: Group) -> Judge | None:
    if not group.only("option", "letter", "index"):
        return None
    notes = []
    name = next((name for reference in group.known if (name := options_of(reference.record)[0])), "")
    if name and name != "options":
        notes.append(f"`choice` reads options from a column `options`; map it: columns: {{options: {name}}}")
    if group.share("index"):
        notes.append(
            "references are an index into the options; map it: columns: {solution: {column: ..., index_from: 0}}"
        )
    if group.share("letter") > 1 - MOST:
        notes.append("references are single letters, and neither prompts nor a column `options` list options")
    return Judge([_entry("choice")], group.said("one of the options", "option", "letter", "index"), notes)


def _right_or_wrong(group: Group) -> Judge | None:
    """Numbers, formulas, yes or no, and mixes of short answers of one source."""
    if group.only("yes_no"):
        return _one("yes_no", group.said("yes or no", "yes_no"))
    if group.only("final"):
        fix = 'map what follows ####: columns: {solution: {column: ..., pattern: "#### (.+)"}}'
        note = f"references are worked solutions that end in `#### answer`, which no reward reads; {fix}"
        return _one("number", group.said("solutions with a final number", "final"), note)
    chart = group.has_images and group.asks("chart", least=0.3) and not group.asks("count", least=0.8)
    numbers = group.share("number") > 0.3 and not group.only("number")
    decimal = any("." in text or "%" in text for text in group.texts)
    if chart and group.only("number", "yes_no", "short", "letter") and (numbers or decimal):
        return _one("relaxed_accuracy", f"{group.said('numbers', 'number')}, the others short texts, on charts")
    if group.only("number"):
        return _one("number", group.said("numbers", "number"))
    if group.share("math") > 1 - MOST and group.only("math", "number"):
        return _one("math", group.said("formulas, the others numbers", "math"))
    return None


def _several(group: Group) -> Judge | None:
    """Several texts a sample: people's answers, captions, labels."""
    if group.only("people"):
        return _one("vqa_accuracy", group.said("answers of several people", "people"))
    if group.only("sentences", "sentence") and group.share("sentences") > 0.5:
        entries = [
            _entry("keywords", 0.1), _entry("bleu", 0.7, gated_by="keywords"), _entry("chrf", 0.1, gated_by="keywords"),
            _entry("cider", 0.1, best=True, gated_by="keywords"),
        ]  # fmt: skip
        return Judge(entries, group.said("several sentences each", "sentences"))
    if not group.share("list", "numbers") > 1 - MOST or not group.only(
        "list", "numbers", "spellings", "short", "number"
    ):
        return None
    return _lists(group)


def _lists(group: Group) -> Judge | None:
    """Labels, a ranking, or other answers that are right too."""
    why = group.said("lists of short texts", "list", "numbers")
    if group.asks("rank"):
        return _one("ranking", f"{why}, and the prompts ask for an order")
    reused = len(set(group.texts)) <= 0.7 * len(group.texts)
    if group.asks("list") and group.share("list", "numbers") > group.share("spellings"):
        return _one("set_f1", f"{why}, and the prompts ask for all that apply")
    if group.share("spellings") >= group.share("list"):
        return None  # other ways to say one answer
    if reused:
        note = "lists may be several labels or other right answers; the same items recur, so they are taken for labels"
        return _one("set_f1", f"{why}, and their items recur", note)
    note = "lists may be labels (`set_f1`), an order (`ranking`) or other right answers; the prompts do not say which"
    return _one("set_f1", why, note)


def _short(group: Group) -> Judge | None:
    """A few words, spelled in one or several ways."""
    kinds = ("short", "spellings", "list", "number", "yes_no", "letter", "option", "math")
    if not group.only(*kinds):
        return None
    why = group.said(f"short texts ({group.words:.1f} words)", "short", "spellings", "list")
    if group.has_images and group.asks("page", least=0.3):
        return _one("anls", f"{why}, and the prompts ask about documents", contradiction=0.1)
    if group.has_images and group.asks("transcribe"):
        return _one("anls", f"{why}, and the prompts ask to read", contradiction=0.1)
    if group.share("short", "spellings", "list") < MOST:
        return _one("answer", f"short answers of several kinds: {_counted(group)}")
    if group.has_images:
        note = "if the images are documents, `anls` fits better; the prompts do not say so"
        return _one("answer" if group.words <= 1.5 else "token_f1", why, note if group.words > 1.5 else "")
    return _one("token_f1", why)


def _counted(group: Group) -> str:
    return ", ".join(f"{n / len(group.known):.0%} {kind}" for kind, n in group.kinds.most_common(4))


def _free(group: Group) -> Judge | None:
    """Sentences and longer texts."""
    short = ("short", "number", "yes_no", "letter", "spellings", "option")
    if not group.only("sentence", "long", "sentences", "math", *short) or not group.share(
        "sentence", "long", "sentences"
    ):
        return None
    if group.share(*short) > 1 - MOST:
        return _one("answer_or_overlap", f"{group.said('short', *short)}, the others sentences")
    why = group.said(f"free text ({group.words:.0f} words)", "sentence", "long", "sentences", "math")
    notes = (
        ["references of over a page are judged poorly by shared words; look at what a run learns"]
        if group.words > 3 * LONG
        else []
    )
    asked = [reference for reference in group.known if "?" in reference.problem or "？" in reference.problem]
    shares = [known_share(reference.texts[0], reference.problem) for reference in group.known if reference.texts]
    made_of_prompt = not asked and shares and sum(shares) / len(shares) >= HIGH
    if made_of_prompt:
        why += f", made of the prompts' words ({sum(shares) / len(shares):.0%})"
        return Judge([_entry("overlap", power=2, light=1)], why, notes)
    chinese = sum(bool({"zh", "ja"} & set(languages_of(text))) for text in group.texts) > 0.5 * len(group.texts)
    if chinese:
        return Judge(
            [_entry("overlap", power=2.5, synonyms="none", numbers=True)], f"{why} in Chinese or Japanese", notes
        )
    if group.has_images and group.asks("caption"):
        weights = {"bleu": 1, "rouge": 1, "meteor": 2}
        return Judge([_entry("overlap", power=2.5, weights=weights)], f"{why} on images", notes)
    return Judge([_entry("overlap", power=2.5)], why, notes)


RULES: list[Callable[[Group], Judge | None]] = [
    _programs, _places, _structures, _options, _right_or_wrong, _several, _short, _free,
]  # fmt: skip
"""Tried in this order; the first that gives a judge stands."""

FAMILIES = {
    "code": ("code", "asserts"), "boxes": ("box", "boxes"), "points": ("point", "points"), "mask": ("mask",),
    "span": ("pair", "span"), "json": ("json",), "tests": ("tests",), "table": ("table",), "pattern": ("pattern",),
    "choice": ("option", "index"), "final": ("final",), "vqa": ("people",), "labels": ("list", "numbers"),
    "text": ("short", "spellings", "number", "yes_no", "letter", "math", "sentence", "long", "sentences"),
}  # fmt: skip
"""Names for parts of a mix -> their kinds."""
