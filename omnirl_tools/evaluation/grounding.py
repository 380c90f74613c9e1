"""Referring expression comprehension (REC): one box per phrase, judged under a named protocol.

Published figures differ because scripts differ in which box they read, whether they rescale it, and which rows
they take. A `Protocol` fixes all of that.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from omnirl_core.boxes import area, default_space, parse_boxes, to_pixels
from omnirl_core.data import load_dataset
from omnirl_core.rewards.grounding import box_iou
from omnirl_core.text import answer_text
from omnirl_core.types import Box, JsonObject, Line, Sample
from omnirl_tools.evaluation.generate import Generation, generate
from omnirl_tools.evaluation.intervals import wilson_interval
from omnirl_tools.evaluation.layout import aligned
from omnirl_tools.evaluation.score import describe_row
from omnirl_tools.evaluation.vlmr1 import vlmr1_box, vlmr1_iou

THRESHOLDS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Protocol:
    """Every choice that moves a REC figure."""

    name: str
    max_new_tokens: int
    n_rows: int | None = None
    """Rows of each data set, None for all."""
    shuffle: str | None = None
    """`each`: seed 42 anew for every data set. `once`: one stream, so the order of the data sets matters."""
    vlmr1_parser: bool = False
    """Last box of whole numbers inside braces in the first `<answer>`; otherwise the reward's parser."""
    one_line_answer: bool = False
    """VLM-R1's parser, and the answer must not hold a line break."""
    space: str | None = None
    """Space of the answered box; None: the model family's."""
    checkpoint_settings: bool = False
    """Generate with the checkpoint's own generation_config (its repetition penalty)."""


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("robust", max_new_tokens=1024),
        Protocol(  # VLM-R1's test_rec_r1.py since 2025-06-26
            "vlmr1-2025-06",
            max_new_tokens=256,
            n_rows=2000,
            shuffle="each",
            vlmr1_parser=True,
            space="resized",
            checkpoint_settings=True,
        ),
        Protocol(  # the same script in 2025-02, which OmniRL took over
            "vlmr1-2025-02",
            max_new_tokens=256,
            n_rows=500,
            shuffle="once",
            vlmr1_parser=True,
            one_line_answer=True,
            space="pixels",
            checkpoint_settings=True,
        ),
    )
}


@dataclass(frozen=True)
class RecResult:
    """Figures of one data set under one protocol. `lines` fit `compare` and the report."""

    dataset: str
    protocol: str
    n: int
    hits: Mapping[float, int]
    """Rows at or beyond each IoU threshold (VLM-R1's protocols: strictly beyond)."""
    mean_iou: float
    n_unparsed: int
    """Rows without a readable box: wrong, and counted in `n`."""
    n_clipped: int
    lines: list[Line] = field(repr=False, default_factory=list)

    def accuracy(self, threshold: float = 0.5) -> float:
        """Share of the rows at this IoU, in [0, 1]."""
        return self.hits[threshold] / self.n

    def interval(self, threshold: float = 0.5, level: float = 0.95) -> tuple[float, float]:
        """Wilson's interval of `accuracy`."""
        return wilson_interval(self.hits[threshold], self.n, level)

    def figures(self) -> JsonObject:
        """What a metrics file holds."""
        low, high = self.interval()
        shares = {f"acc@{threshold:g}": self.accuracy(threshold) for threshold in THRESHOLDS}
        return {
            "dataset": self.dataset,
            "protocol": self.protocol,
            "n": self.n,
            **shares,
            "acc@0.5_low": low,
            "acc@0.5_high": high,
            "mean_iou": self.mean_iou,
            "parse_failure_rate": self.n_unparsed / self.n,
            "clipped_rate": self.n_clipped / self.n,
        }


def load_rec(
    annotations: Sequence[str | PathLike[str]],
    image_root: str | PathLike[str] | None = None,
    template: str = "rec_r1",
) -> Sample:
    """Read annotation files as VLM-R1 distributes them (RefCOCO, RefCOCO+, RefCOCOg, RefGTA, LISA).

    Each becomes a data set of rows for `evaluate_rec`, under its file's name. Images are under `image_root`,
    by default the file's folder; `template` is a name in `omnirl_core.data.TEMPLATES`: `rec_r1`, or `rec` for
    a policy that does not think.
    """
    return {
        Path(path).stem: load_dataset(path, image_root, templates={"default": template}, task=Path(path).stem)
        for path in annotations
    }


def choose_rows(protocol: Protocol, datasets: Mapping[str, Sequence[dict]]) -> dict[str, list[dict]]:
    """Take the rows of each data set that the protocol judges, in its order."""
    stream = random.Random(42)
    chosen = {}
    for name, rows in datasets.items():
        places = list(range(len(rows)))
        if protocol.shuffle == "each":
            stream = random.Random(42)
        if protocol.shuffle:
            stream.shuffle(places)
        chosen[name] = [rows[place] for place in places[: protocol.n_rows]]
    return chosen


def evaluate_rec(
    model: PreTrainedModel,
    processor: object,
    datasets: Mapping[str, Sequence[JsonObject]],
    protocol: str | Protocol = "robust",
    *,
    space: str | None = None,
    batch_size: int = 16,
    progress: bool = False,
) -> dict[str, RecResult]:
    """Answer the protocol's rows of each data set, greedily, and judge the boxes.

    `space` overrules the space in which the boxes are read (protocol's, or the model family's by default).
    Batch size does not matter to the figures.
    """
    rules = PROTOCOLS[protocol] if isinstance(protocol, str) else protocol
    space = space or rules.space or default_space(model.config.model_type)
    results = {}
    for name, rows in choose_rows(rules, datasets).items():
        generations = generate(
            model,
            processor,
            rows,
            max_new_tokens=rules.max_new_tokens,
            batch_size=batch_size,
            checkpoint_settings=rules.checkpoint_settings,
            progress=name if progress else None,
        )
        results[name] = judge(name, rows, generations, rules, space)
    return results


def judge(
    dataset: str, rows: Sequence[dict], generations: Sequence[Generation], protocol: Protocol, space: str
) -> RecResult:
    """Judge ready completions of rows that are already chosen.

    Raises ValueError where a solution holds no box with an area: such rows say nothing about the model.
    """
    _check_solutions(dataset, rows)
    pairs = list(zip(rows, generations, strict=True))
    judged = [_judge_row(row, answer, protocol, space) for row, answer in pairs]
    lines = [
        _line(dataset, row, answer, found, place, space)
        for place, ((row, answer), found) in enumerate(zip(pairs, judged, strict=True))
    ]
    return RecResult(
        dataset,
        protocol.name,
        len(rows),
        {threshold: sum(hits[threshold] for _, _, hits in judged) for threshold in THRESHOLDS},
        sum(overlap for _, overlap, _ in judged) / len(rows),
        sum(box is None for box, _, _ in judged),
        sum(answer.clipped for answer in generations),
        lines,
    )


Judged = tuple[Box | None, float, dict[float, bool]]
"""Box in pixels of the original image, IoU, and whether it reaches each threshold."""


def _judge_row(row: dict, answer: Generation, protocol: Protocol, space: str) -> Judged:
    if protocol.vlmr1_parser:
        said = vlmr1_box(answer.text, one_line=protocol.one_line_answer)
    else:
        said = next(reversed(parse_boxes(answer_text(answer.text) or "")), None)
    if said is None:
        return None, 0.0, dict.fromkeys(THRESHOLDS, False)
    sizes, resized = answer.image_sizes, answer.resized_sizes
    box = to_pixels(said, space, sizes[0] if sizes else None, resized[0] if resized else None)
    if protocol.vlmr1_parser:
        overlap = vlmr1_iou(box, parse_boxes(row["solution"])[0])
        return box, max(0.0, overlap), {threshold: overlap > threshold for threshold in THRESHOLDS}
    score = box_iou(answer.text, row["solution"], space=space, image_sizes=sizes, resized_sizes=resized)
    overlap = score or 0.0
    return box, overlap, {threshold: overlap >= threshold for threshold in THRESHOLDS}


def _check_solutions(dataset: str, rows: Sequence[dict]) -> None:
    odd = [row for row in rows if not any(area(box) > 0 for box in parse_boxes(row["solution"]))]
    if odd:
        named = "\n".join(f"{row['row_id']}: solution {row['solution']!r:.80} is no box" for row in odd[:10])
        more = f"\n... and {len(odd) - 10} more" if len(odd) > 10 else ""
        raise ValueError(f"{named}{more}\n{dataset}: a solution is [x1, y1, x2, y2] in pixels; fix these rows")
    if not rows:
        raise ValueError(f"{dataset}: no rows to judge")


def _line(dataset: str, row: dict, answer: Generation, judged: Judged, place: int, space: str) -> dict[str, Any]:
    box, overlap, hits = judged
    rewards = {"acc@0.5": float(hits[0.5]), "iou": overlap, "parsed": float(box is not None)}
    return describe_row(row, answer, place) | {
        "task": dataset,
        "rewards": rewards,
        "weights": {"acc@0.5": 1.0, "iou": 0.0, "parsed": 0.0},
        "score": rewards["acc@0.5"],
        "box": box and [round(number, 2) for number in box],
        "boxes": {"space": space, "solution_space": "pixels", "image_index": 0},
    }


def rec_table(results: Mapping[str, RecResult]) -> str:
    """Lay results out as plain text, with the mean over data sets where there are several."""
    head = ("", "rows", "acc@0.5", "95 % interval", "acc@0.25", "acc@0.75", "mean IoU", "no box", "clipped")
    body = [_cells(result) for result in results.values()]
    if len(results) > 1:
        mean = sum(result.accuracy() for result in results.values()) / len(results)
        body.append(("mean", "", f"{mean:.2%}", *[""] * 6))
    return aligned([head, *body])


def _cells(result: RecResult) -> tuple[str, ...]:
    low, high = result.interval()
    return (
        result.dataset,
        str(result.n),
        f"{result.accuracy():.2%}",
        f"{low:.2%} .. {high:.2%}",
        f"{result.accuracy(0.25):.2%}",
        f"{result.accuracy(0.75):.2%}",
        f"{result.mean_iou:.3f}",
        f"{result.n_unparsed / result.n:.2%}",
        f"{result.n_clipped / result.n:.2%}",
    )
