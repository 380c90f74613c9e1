"""Ranges of the scorers' settings: what lies outside is refused when a rewards.yaml is read.

A value that only made an answer right or wrong always (a threshold of -1) would not show in training.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from omnirl_core.boxes import SPACES
from omnirl_core.type_checks import nearest

ABOVE_0 = (0.0, math.inf, "above 0")
FROM_0 = (0.0, math.inf, "0 or more")
RANGES: dict[
    str, tuple[float, float, str]
] = {  # least, most, in words; "above" and "below" leave the end out
    "relative_tolerance": (0.0, 1.0, "from 0 to below 1"),
    "absolute_tolerance": FROM_0,
    "tolerance": (0.0, 1.0, "from 0 to below 1"),
    "threshold": (0.0, 1.0, "above 0 and up to 1"),
    "thresholds": (0.0, 1.0, "above 0 and up to 1"),
    "floor": (0.0, 1.0, "from 0 to 1"),
    "timeout_s": ABOVE_0,
    "total_timeout_s": ABOVE_0,
    "memory_bytes": (16 << 20, math.inf, "16 MiB (16777216) or more"),
    "workers": FROM_0,
    "max_order": (1.0, math.inf, "1 or more"),
    "max_boxes": (1.0, math.inf, "1 or more"),
    "order": (1.0, math.inf, "1 or more"),
    "power": ABOVE_0,
    "light": (0.0, 1.0, "above 0 and up to 1"),
    "contradiction": (0.0, 1.0, "from 0 to 1"),
    "alpha": (0.0, 1.0, "above 0 and below 1"),
    "beta": FROM_0,
    "gamma": (0.0, 1.0, "from 0 to 1"),
    "low": ABOVE_0,
    "high": ABOVE_0,
    "edge": ABOVE_0,
}
CHOICES: dict[str, tuple[str, ...]] = {
    "space": tuple(SPACES),
    "solution_space": tuple(SPACES),
    "pick": ("last", "first", "only"),
    "kind": ("iou", "giou"),
    "measure": ("f1", "precision", "recall"),
    "language": ("auto", "python", "cpp"),
}


def range_faults(settings: Mapping[str, Any]) -> list[str]:
    """One message for each setting of this package's scorers that is out of its range.

    >>> range_faults({"relative_tolerance": 5}), range_faults({"space": "resize"})
    (['relative_tolerance: 5 must be from 0 to below 1'], ["space: 'resize' is not a choice; did you mean 'resized'?"])
    """
    faults = []
    for name, value in settings.items():
        if name in CHOICES and isinstance(value, str) and value not in CHOICES[name]:
            faults.append(f"{name}: {value!r} is not a choice{nearest(value, CHOICES[name])}")
        elif name in RANGES:
            faults += [
                f"{name}: {one} must be {RANGES[name][2]}"
                for one in _numbers(value)
                if not _lies(one, *RANGES[name])
            ]
            if name == "thresholds" and not list(_numbers(value)):
                faults.append("thresholds: an empty list judges nothing; leave it out for COCO's")
    return faults


def _numbers(value: Any) -> Iterable[float]:
    values = value if isinstance(value, list | tuple) else [value]
    return [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]


def _lies(value: float, least: float, most: float, words: str) -> bool:
    above, below = "above" in words, "below" in words
    return (
        math.isfinite(value)
        and (value > least if above else value >= least)
        and (value < most if below else value <= most)
    )
