"""Ways to write a row's reference answer as a completion: the best of them has to earn full marks."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from omnirl_core.boxes import LabelledBox, Size, area, from_pixels, parse_labelled_boxes, to_pixels
from omnirl_core.rewards.code.test_cases import read_exercise
from omnirl_core.rewards.format import think_format
from omnirl_core.rewards.reward import Reward, signature_of
from omnirl_core.text import reference_texts, strip_tags
from omnirl_tools.checks.hacks import THOUGHT, formed

THOUGHTS = ("This is what the question asks for.", THOUGHT, "ok")
"""A sentence, a paragraph (for a reward that wants length), a word (for one that wants brevity)."""
MOST_ANSWERS = 8
"""Alternatives of a reference that are tried; one of them is enough."""

STRUCTURED = {"set_f1", "ranking", "json_fields", "mask_iou", "temporal_iou", "point_distance"}
"""Scorers whose references may be lists or objects as a whole, written as JSON."""


def reference_answers(
    solution: object, rewards: Iterable[Reward], image_sizes: Sequence[Size], resized_sizes: Sequence[Size]
) -> list[str]:
    """Texts that should be right: boxes in the space that a box reward reads, else the reference's own references.

    [] where the reference holds no answer that could be written down: nothing, or the tests of a program.
    """
    found: dict[str, None] = {}
    rewards = list(rewards)
    reader = next((reward for reward in rewards if reads_boxes(reward)), None)
    if reader is not None:
        found |= dict.fromkeys(_box_answers(solution, reader, image_sizes, resized_sizes))
    if solution in ([], "[]"):
        found["[]"] = None
    listed = solution if isinstance(solution, list) else []
    people = listed and all(isinstance(one, Mapping) and "answer" in one for one in listed)
    for one in listed if people else [] if read_exercise(solution) else [solution]:
        found |= dict.fromkeys(reference_texts(one) or ())
    structured = any(getattr(reward.scorer, "__name__", "") in STRUCTURED for reward in rewards)
    whole = [json.dumps(solution, ensure_ascii=False)] if structured and isinstance(solution, list | dict) else []
    return [*list(found)[:MOST_ANSWERS], *whole]


def reference_completions(answer: str, rewards: Sequence[Reward]) -> Iterator[str]:
    """The answer in the tags that the format reward wants, after thoughts of three lengths; and bare."""
    opened = any(reward.scorer is think_format and reward.settings.get("think_opened") is True for reward in rewards)
    for thought in THOUGHTS:
        text = formed(answer, think=thought)
        yield text.removeprefix("<think>") if opened else text
    yield answer


def reads_boxes(reward: Reward) -> bool:
    """Whether the reward's scorer takes a coordinate space."""
    return "space" in signature_of(reward.scorer).keywords


def box_setting(reward: Reward, name: str) -> Any:
    """A setting of a box reward, its own or the scorer's default."""
    return reward.settings.get(name, signature_of(reward.scorer).defaults.get(name))


def reference_boxes_in_pixels(
    solution: object, reward: Reward, image_sizes: Sequence[Size], resized_sizes: Sequence[Size]
) -> list[LabelledBox]:
    """The reference's boxes with an area, in pixels of the original image; ValueError where a size is missing."""
    text = strip_tags(solution) if isinstance(solution, str) else solution
    image, resized = _sizes(reward, image_sizes, resized_sizes)
    space = box_setting(reward, "solution_space")
    return [
        LabelledBox(to_pixels(reference.box, space, image, resized), reference.label)
        for reference in parse_labelled_boxes(text)
        if area(reference.box) > 0
    ]


def _box_answers(
    solution: Any, reward: Reward, image_sizes: Sequence[Size], resized_sizes: Sequence[Size]
) -> Iterator[str]:
    """All boxes in one answer, then each alone: several may be alternatives, or all be asked for."""
    image, resized = _sizes(reward, image_sizes, resized_sizes)
    space = box_setting(reward, "space")
    digits = 5 if space == "0-1" else 2
    boxes = [
        (reference.label, [round(x, digits) for x in from_pixels(reference.box, space, image, resized)])
        for reference in reference_boxes_in_pixels(solution, reward, image_sizes, resized_sizes)
    ]
    if len(boxes) > 1 or any(label for label, _ in boxes):
        yield json.dumps([{"bbox_2d": box, **({"label": label} if label else {})} for label, box in boxes])
    for _, box in boxes:
        yield json.dumps(box)


def _sizes(
    reward: Reward, image_sizes: Sequence[Size], resized_sizes: Sequence[Size]
) -> tuple[Size | None, Size | None]:
    """The sizes of the image that the reward's boxes are in; ValueError where a space needs one that is missing."""
    index = box_setting(reward, "image_index") or 0
    inside = -len(image_sizes) <= index < len(image_sizes)
    image = image_sizes[index] if inside else None
    resized = resized_sizes[index] if inside and len(resized_sizes) == len(image_sizes) else None
    for name in ("space", "solution_space"):
        space = box_setting(reward, name)
        if space != "pixels" and (image is None or (space == "resized" and resized is None)):
            missing = "the row has no image" if image is None else "the model's processor does not tell it"
            raise ValueError(f"{reward.name}: {name} {space!r} needs an image's size, and {missing}")
    return image, resized


def total(scores: Mapping[str, float | None], rewards: Iterable[Reward]) -> float:
    """The weighted sum that the run would give; rewards that do not judge count nothing.

    >>> from omnirl_core.rewards import think_format
    >>> total({"form": 0.5}, [Reward("form", think_format, weight=2.0)])
    1.0
    """
    return sum(reward.weight * (scores.get(reward.name) or 0.0) for reward in rewards)
