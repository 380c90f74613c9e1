"""Photographs that scikit-learn and scikit-image carry, and a writer of data files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from sklearn.datasets import load_sample_images

CARRIED = ("astronaut", "camera", "chelsea", "coffee", "coins", "hubble_deep_field", "immunohistochemistry")
CARRIED += ("logo", "moon", "page", "retina", "rocket", "text", "brick", "clock")


@pytest.fixture(scope="session")
def photographs() -> dict[str, np.ndarray]:
    """Name -> pixels, uint8, (H, W), (H, W, 3) or (H, W, 4); nothing is downloaded."""
    pixels = {name: getattr(skimage.data, name)() for name in CARRIED}
    china, flower = load_sample_images().images
    return pixels | {"china": china, "flower": flower}


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., str]:
    """Writes rows as `.json` (one row a line, after a line with `[`) or `.jsonl`; gives the path."""

    def write(rows: list[Any], name: str = "rows.jsonl") -> str:
        lines = [json.dumps(row) for row in rows]
        text = "\n".join(lines) if name.endswith(".jsonl") else "[\n" + ",\n".join(lines) + "\n]\n"
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write
