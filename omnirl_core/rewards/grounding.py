"""Rewards for boxes: one box by IoU, several by optimal assignment, detections by COCO's average precision.

Each reads *the answer* of the completion (`text.answer_text`). The reference is in pixels of the original image
and the answer in the model's own space; both can be set. docs/boxes.md says which reward to take.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import numpy as np

from omnirl_core.boxes import LabelledBox, Size, area, giou, iou, parse_labelled_boxes, to_pixels
from omnirl_core.rewards.reward import Scorer, made_by
from omnirl_core.text import answer_text, strip_tags
from omnirl_core.types import Box, Completion, JsonObject, check_choice

Converter = Callable[[Box], Box]
Space = Literal["pixels", "resized", "0-1000", "0-1"]  # boxes.SPACES
Pick = Literal["last", "first", "only"]
Kind = Literal["iou", "giou"]
Measure = Literal["f1", "precision", "recall"]

COCO_THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
RECALLS = np.linspace(0, 1, 101)
NONE_SAID = {
    "none", "null", "nothing", "no", "no object", "no objects", "no object found", "no objects found",
    "no box", "no boxes", "no such object", "no target", "not found", "not present",
    "无", "没有", "不存在", "没有目标", "没有物体", "未找到",
}  # fmt: skip


class Spaces(NamedTuple):
    """The spaces that answer and reference are written in, and the sizes of the row's images."""

    reward: str
    space: Space = "pixels"
    solution_space: Space = "pixels"
    image_sizes: Sequence[Size] | None = None
    resized_sizes: Sequence[Size] | None = None
    image_index: int = 0

    def converters(self) -> tuple[Converter, Converter]:
        """What brings the answer's and the reference's boxes to pixels: nothing where both share a space."""
        if self.space == self.solution_space and self.space in get_args(Space):
            return (lambda box: box), (lambda box: box)
        return self._to_pixels(self.space), self._to_pixels(self.solution_space)

    def _to_pixels(self, space: str) -> Converter:
        check_choice("space", space, get_args(Space))
        if space == "pixels":
            return lambda box: box
        image_size = self._size(space, "image_sizes")
        resized_size = self._size(space, "resized_sizes") if space == "resized" else None
        return lambda box: to_pixels(box, space, image_size, resized_size)

    def _size(self, space: str, column: Literal["image_sizes", "resized_sizes"]) -> Size:
        sizes, index = getattr(self, column), self.image_index
        if sizes is None or not -len(sizes) <= index < len(sizes):
            have = "is missing" if sizes is None else f"has {len(sizes)} entries and image_index is {index}"
            raise ValueError(
                f"{self.reward}: space {space!r} needs the row's `{column}`, which {have}. OmniGRPOTrainer adds it "
                f"to rows with images; elsewhere add a column of [(width, height), ...], or set space: pixels"
            )
        return sizes[index]


def reads_spaces(scorer: Scorer) -> Scorer:
    """Decorator of a scorer of boxes or points in any space: it is given `spaces`, from settings and columns.

    The settings are `space`, `solution_space` and `image_index` (docs/boxes.md), the columns `image_sizes` and
    `resized_sizes`.
    """
    return made_by(partial(Spaces, scorer.__name__), "spaces")(scorer)


BOX_SETTINGS = ("space", "solution_space", "image_index")


def box_reading(reward: object) -> JsonObject:
    """How a reward reads boxes, set or by default, for images of what it saw; {} for one that reads none.

    >>> from omnirl_core.rewards import Reward
    >>> box_reading(Reward("box_iou", box_iou, settings={"space": "0-1000"}))
    {'space': '0-1000', 'solution_space': 'pixels', 'image_index': 0}
    """
    scorer = getattr(reward, "scorer", None)
    known = inspect.signature(scorer).parameters if callable(scorer) else {}
    if "space" not in known:
        return {}
    settings = getattr(reward, "settings", {})
    return {name: settings.get(name, known[name].default) for name in BOX_SETTINGS if name in known}


@reads_spaces
def box_iou(
    completion: Completion | None,
    solution: object,
    *,
    spaces: Spaces,
    pick: Pick = "last",
    kind: Kind = "iou",
    threshold: float | None = None,
) -> float | None:
    """IoU of the answer's box with the reference box, in [0, 1]; None where the reference holds no box with an area.

    One box of the answer counts, whatever else it lists: the `last`, the `first`, or with `only` none at all
    where several differ. Several reference boxes are alternatives. `threshold` makes it 1.0 from that IoU on and
    0.0 below. `kind: giou` gives (1 + GIoU) / 2, which also tells near misses from far ones, but pays up to
    0.5 for boxes that do not touch.

    >>> box_iou("<answer>[1, 2, 3, 4]</answer>", [1, 2, 3, 4])
    1.0
    >>> box_iou('<answer>{"bbox_2d": [0, 0, 500, 1000]}</answer>', [0, 0, 640, 480], space="0-1000",
    ...         image_sizes=[(640, 480)])
    0.5
    """
    check_choice("pick", pick, get_args(Pick))
    check_choice("kind", kind, get_args(Kind))
    if threshold is not None and kind != "iou":
        raise ValueError("box_iou: threshold is an IoU; leave it out or set kind: iou")
    references = reference_boxes(solution)
    if not references:
        return None
    answer_to_pixels, reference_to_pixels = spaces.converters()
    boxes = [found.box for found in parse_labelled_boxes(answer_text(completion) or "")]
    if not boxes or (pick == "only" and len(set(boxes)) > 1):
        return 0.0
    box = answer_to_pixels(boxes[0] if pick == "first" else boxes[-1])
    alternatives = [reference_to_pixels(reference.box) for reference in references]
    if kind == "giou":
        return max((1 + giou(box, reference)) / 2 for reference in alternatives)
    best = max(iou(box, reference) for reference in alternatives)
    return best if threshold is None else float(best >= threshold)


@reads_spaces
def box_f1(
    completion: Completion | None,
    solution: object,
    *,
    threshold: float = 0.5,
    soft: bool = False,
    kind: Kind = "iou",
    measure: Measure = "f1",
    match_labels: bool = True,
    spaces: Spaces,
) -> float | None:
    """F1 (or precision, or recall) of the answer's boxes under the best one-to-one assignment, in [0, 1].

    A pair counts from `threshold` IoU on: 1, or its IoU when `soft`. `kind: giou` takes (1 + GIoU) / 2 in its place,
    which with `soft` and a `threshold` of 0.3 pays a part for a box beside its object. Labels must agree where every
    reference box has one. An empty reference (`[]`, "none") asks for an answer that says so. Every box listed lowers
    the precision, so listing them all does not pay; `recall` alone has no such guard.

    >>> box_f1("<answer>[[0, 0, 10, 10], [50, 50, 60, 60]]</answer>", [[0, 0, 10, 10], [20, 20, 30, 30]])
    0.5
    >>> box_f1("<answer>[]</answer>", []), box_f1("<answer>[0, 0, 10, 10]</answer>", [])
    (1.0, 0.0)
    """
    check_choice("measure", measure, get_args(Measure))
    check_choice("kind", kind, get_args(Kind))
    compared = _compared(completion, solution, match_labels, spaces, kind)
    if not isinstance(compared, Compared):
        return compared
    found, references, overlaps, labelled = compared
    if labelled:
        overlaps = overlaps * (_labels(found)[:, None] == _labels(references)[None])  # (found, references)
    hits = _assigned(overlaps, threshold, soft)
    out_of = {"f1": (len(found) + len(references)) / 2, "precision": len(found), "recall": len(references)}
    return hits / out_of[measure]


@reads_spaces
def box_ap(
    completion: Completion | None,
    solution: object,
    *,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    max_boxes: int = 100,
    count_penalty: bool = False,
    spaces: Spaces,
    match_labels: bool = True,
) -> float | None:
    """COCO's average precision of the answer's detections, mean over classes and IoU thresholds, in [0, 1].

    Boxes rank by their scores, and in the order of the answer without; at most `max_boxes` a class. Where
    every reference box has a label, the mean is over the classes of the reference and of the answer: an invented class
    costs. An empty reference (`[]`, "none") asks for an answer that says so. Surplus boxes ranked last cost
    nothing in AP; `count_penalty` multiplies by reference count / answer count where the answer lists more.

    >>> box_ap('<answer>[{"bbox_2d": [0, 0, 10, 9], "label": "cat"}]</answer>',
    ...        [{"bbox_2d": [0, 0, 10, 10], "label": "cat"}])
    0.9
    """
    compared = _compared(completion, solution, match_labels, spaces)
    if not isinstance(compared, Compared):
        return compared
    precision = _mean_over_classes(compared, thresholds, max_boxes)
    surplus = len(compared.references) / len(compared.found)
    return precision * (min(1.0, surplus) if count_penalty else 1.0)


class Compared(NamedTuple):
    """Boxes of an answer and of its reference, at least one of each."""

    found: list[LabelledBox]
    references: list[LabelledBox]
    overlaps: np.ndarray  # (found, references): IoU
    labelled: bool  # labels must agree


def _compared(
    completion: Completion | None, solution: object, match_labels: bool, spaces: Spaces, kind: str = "iou"
) -> Compared | float | None:
    """What is to be scored; the score itself where a side has no boxes; None without a readable reference."""
    references = reference_boxes(solution)
    if references is None:
        return None
    converters = spaces.converters()
    answer = answer_text(completion) or ""
    found = parse_labelled_boxes(answer)
    if not references or not found:
        return float(not references and not found and _says_none(answer))
    labelled = match_labels and all(reference.label for reference in references)
    return Compared(found, references, _overlaps(found, references, *converters, kind), labelled)


def _mean_over_classes(compared: Compared, thresholds: Sequence[float], max_boxes: int) -> float:
    found, references, overlaps, labelled = compared
    scores = np.array([1.0 if one.score is None else one.score for one in found])
    found_class = _labels(found) if labelled else np.zeros(len(found))
    reference_class = _labels(references) if labelled else np.zeros(len(references))
    total = 0.0
    for name in np.unique(reference_class):
        rows, columns = found_class == name, reference_class == name
        ranked = np.argsort(-scores[rows], kind="stable")[:max_boxes]
        total += _average_precision(overlaps[rows][:, columns][ranked], thresholds)
    return total / len(set(reference_class) | set(found_class))


def _average_precision(overlaps: np.ndarray, thresholds: Sequence[float]) -> float:
    """Mean over thresholds of the 101-point interpolated precision; rows of `overlaps` are ranked."""
    n_found, n_reference = overlaps.shape
    if not n_found:
        return 0.0
    return float(np.mean([_precision_area(_true_positives(overlaps, t), n_reference) for t in thresholds]))


def _true_positives(overlaps: np.ndarray, threshold: float) -> np.ndarray:
    """COCO's greedy matching: each detection, best first, takes the free reference box that it overlaps most."""
    free = overlaps.copy()
    hits = np.zeros(len(overlaps))
    for row in range(len(overlaps)):
        reference = int(np.argmax(free[row]))
        if free[row, reference] >= min(threshold, 1 - 1e-10):
            hits[row] = 1
            free[:, reference] = -1
    return hits


def _precision_area(hits: np.ndarray, n_reference: int) -> float:
    true_positives = np.cumsum(hits)
    precision = true_positives / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(true_positives / n_reference, RECALLS, side="left")
    return float(np.sum(envelope[at[at < len(hits)]]) / len(RECALLS))


def _assigned(overlaps: np.ndarray, threshold: float, soft: bool) -> float:
    """Pairs (or their summed IoU) of the best one-to-one assignment."""
    from scipy.optimize import linear_sum_assignment  # half a second to import; only these rewards need it

    counted = overlaps * ((overlaps >= threshold) & (overlaps > 0))
    worth = counted if soft else (counted > 0).astype(float)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return float(worth[rows, columns].sum())


def _overlaps(
    found: list[LabelledBox],
    references: list[LabelledBox],
    answer_to_pixels: Converter,
    reference_to_pixels: Converter,
    kind: str,
) -> np.ndarray:
    """IoU, or (1 + GIoU) / 2, of each found box (rows) with each reference box (columns)."""
    a = [answer_to_pixels(one.box) for one in found]
    b = [reference_to_pixels(reference.box) for reference in references]
    rows, columns = np.array(a).T[..., None], np.array(b).T[:, None]  # (4, found, 1), (4, 1, reference)
    width, height = np.clip(np.minimum(rows[2:], columns[2:]) - np.maximum(rows[:2], columns[:2]), 0, None)
    inter = width * height
    union = (rows[2:] - rows[:2]).prod(0) + (columns[2:] - columns[:2]).prod(0) - inter
    ious = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    if kind == "iou":
        return ious
    hull = (np.maximum(rows[2:], columns[2:]) - np.minimum(rows[:2], columns[:2])).prod(0)
    # GIoU = IoU - 1 + union / hull
    return (ious + np.divide(union, hull, out=np.zeros_like(hull), where=hull > 0)) / 2


def reference_boxes(solution: object) -> list[LabelledBox] | None:
    """Reference boxes with an area; [] where the reference says that there are none; None where it says nothing."""
    if solution is None:
        return None
    text = strip_tags(solution) if isinstance(solution, str) else solution
    references = [reference for reference in parse_labelled_boxes(text) if area(reference.box) > 0]
    if references:
        return references
    said_none = _says_none(text) if isinstance(text, str) else isinstance(text, list | tuple) and not text
    return [] if said_none else None


def _says_none(text: str) -> bool:
    """Whether a text without boxes says that there are none: `[]`, "no objects", 没有; silence does not."""
    if len(text) > 200:
        return False
    bare = text.replace("```json", "").replace("```", "").strip().casefold()
    return bare.replace(" ", "") in ("[]", "{}", "()", "[[]]") or bare.strip("\"'.。!") in NONE_SAID


def _labels(boxes: list[LabelledBox]) -> np.ndarray:
    return np.array([" ".join((one.label or "")[:200].casefold().split()) for one in boxes])
