"""Model families whose images vLLM takes, and their prompts as vLLM wants them: each image as one token."""

from collections.abc import Sequence
from itertools import groupby

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Values of `model_type` whose images vLLM 0.31 was seen to answer as transformers does."""


def vllm_obstacle(model_type: str) -> str | None:
    """Why images of this family cannot go to vLLM; None where they can.

    >>> vllm_obstacle("qwen2_5_vl"), vllm_obstacle("gemma3")[:31]
    (None, 'use_vllm: true with images of g')
    """
    if model_type in FAMILIES:
        return None
    return (
        f"use_vllm: true with images of {model_type}: vLLM was not seen to answer them as transformers does, "
        f"only those of {', '.join(FAMILIES)}; set use_vllm: false"
    )


def image_runs(ids: Sequence[int], token: int) -> list[int]:
    """Lengths of the runs of the image token.

    >>> image_runs([5, 9, 9, 9, 6, 9], 9)
    [3, 1]
    """
    return [len(list(run)) for value, run in groupby(ids) if value == token]


def collapsed(ids: Sequence[int], token: int) -> list[int]:
    """The prompt with one image token for each run, as vLLM expands it.

    >>> collapsed([5, 9, 9, 9, 6, 9], 9)
    [5, 9, 6, 9]
    """
    return [value for i, value in enumerate(ids) if value != token or i == 0 or ids[i - 1] != token]
