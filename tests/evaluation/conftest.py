"""Rows of every modality over the noise images, as the data layer draws them, and the tiny policy."""

from typing import Any

import pytest

from omnirl_core.models import load_policy, load_processor


def row(number: int, problem: str, images: list[Any], solution: Any = "a", task: str | None = None) -> dict:
    blocks = [{"type": "image"} for _ in images] + [{"type": "text", "text": problem}]
    return {
        "prompt": [{"role": "user", "content": blocks}],
        "images": images,
        "solution": solution,
        "task": task,
        "problem": problem,
        "row_id": f"rows.json:{number}",
    }


@pytest.fixture(scope="session")
def policy(tiny_checkpoint: str):
    return load_policy(tiny_checkpoint)


@pytest.fixture(scope="session")
def processor(tiny_checkpoint: str):
    return load_processor(tiny_checkpoint)


@pytest.fixture
def mixed_rows(image_files: list[str]) -> list[dict]:
    """Text, one image, several, of unlike lengths, in no order; two of them share an image."""
    return [
        row(1, "What is this, in a few words that are not so few?", image_files[:1]),
        row(2, "Hello", []),
        row(3, "Which?", image_files[1:4]),
        row(4, "A longer question without an image, about nothing at all", []),
        row(5, "?", image_files[3:4]),
        row(6, "Same or other?", [image_files[5], image_files[0]]),
        row(7, "And", []),
    ]
