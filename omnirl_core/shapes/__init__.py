"""Two small drawn worlds, shapes and documents, and for each a policy small enough to learn in it on a laptop."""

from collections.abc import Callable
from pathlib import Path

from .dataset import write_dataset
from .documents import DOCUMENTS
from .tasks import GROUPS, TASKS

__all__ = ["DOCUMENTS", "GROUPS", "POLICIES", "TASKS", "tiny_policy", "tiny_reader", "write_dataset"]

CHECKPOINT = Path(__file__).parent / "checkpoint"
READER = Path(__file__).parent / "reader"


def tiny_policy() -> str:
    """Path of the shipped checkpoint, a warm-started Qwen2.5-VL of 1.4 million parameters with its processor.

    It knows the drawn shapes. Use it as `model_name_or_path`; `python scripts/build_tiny_policy.py` rebuilds it.

    >>> sorted(path.name for path in Path(tiny_policy()).glob("*config.json"))
    ['config.json', 'generation_config.json', 'processor_config.json', 'tokenizer_config.json']
    """
    return str(CHECKPOINT)


def tiny_reader() -> str:
    """Path of the shipped checkpoint that reads the drawn documents: the tiny policy's architecture, other words.

    Use it as `model_name_or_path`; `python scripts/build_tiny_reader.py` rebuilds it.

    >>> sorted(path.name for path in Path(tiny_reader()).glob("*.safetensors"))
    ['model.safetensors']
    """
    return str(READER)


POLICIES: dict[str, Callable[[], str]] = {"tiny_policy": tiny_policy, "tiny_reader": tiny_reader}
"""The policies that the package brings, by what `model_name_or_path` calls them."""
