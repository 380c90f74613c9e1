"""Model families whose images vLLM takes, and their prompts as vLLM wants them: each image as one token."""

from collections.abc import Sequence
from itertools import groupby

from transformers import PretrainedConfig

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Values of `model_type` whose images vLLM 0.31 was seen to answer as transformers does."""


def vllm_obstacle(config: PretrainedConfig) -> str | None:
    """Why images of a model with this configuration cannot go to vLLM; None where they can.

    >>> from transformers import Gemma3Config, Qwen2_5_VLConfig
    >>> vllm_obstacle(Qwen2_5_VLConfig()), vllm_obstacle(Gemma3Config())[:31]
    (None, 'use_vllm: true with images of g')
    """
    model_type = config.model_type
    if model_type == "qwen3_vl" and not config.text_config.rope_parameters.get("mrope_interleaved"):
        # transformers 5.24 interleaves whatever the configuration says, vLLM 0.31 where it says so
        return (
            "use_vllm: true with images: vLLM would place them otherwise than transformers; set use_vllm: false, or "
            "mrope_interleaved: true in rope_parameters of its text configuration, as Qwen's checkpoints have it"
        )
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
