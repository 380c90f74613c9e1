"""Which policy a run's settings mean, and how it is loaded: path, dtype, attention, quantization."""

import logging

from transformers import BitsAndBytesConfig
from transformers.utils import is_flash_attn_2_available
from trl import ModelConfig, get_quantization_config

from omnirl_core.models import TOWER_NAMES
from omnirl_core.shapes import POLICIES
from omnirl_core.types import JsonObject

logger = logging.getLogger(__name__)

FLASH = "flash_attention_2"


def policy_path(config: ModelConfig) -> str:
    """Path or hub name of the policy; `tiny_policy` and `tiny_reader` are those that the package brings."""
    name = str(config.model_name_or_path)
    return POLICIES[name]() if name in POLICIES else name


def model_settings(config: ModelConfig) -> JsonObject:
    """How the policy, and the reference of beta > 0, are loaded."""
    settings = {
        "revision": config.model_revision,
        "dtype": config.dtype,
        "attn_implementation": _attention(config.attn_implementation),
    }
    return {key: value for key, value in settings.items() if value is not None}


def quantization_settings(config: ModelConfig) -> BitsAndBytesConfig | None:
    """TRL's, but the vision tower stays in the model's dtype: it is small, and what it loses no adapter mends.

    transformers 5.23 leaves out modules by the start of their full name (`model.visual`), and the output layer
    only if it is named too.
    """
    settings = get_quantization_config(config)
    if settings is not None:
        settings.llm_int8_skip_modules = [*(f"model.{name}" for name in TOWER_NAMES), "lm_head"]
    return settings


def _attention(name: str | None) -> str | None:
    if name != FLASH or is_flash_attn_2_available():
        return name
    logger.warning("attn_implementation: %s needs a GPU and `pip install flash-attn`; this run uses sdpa", FLASH)
    return "sdpa"
