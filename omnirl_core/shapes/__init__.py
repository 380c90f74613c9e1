"""Two small drawn worlds, shapes and documents, and a policy small enough to learn in the first on a laptop."""

from pathlib import Path

from .dataset import write_dataset
from .documents import DOCUMENTS
from .tasks import GROUPS, TASKS

__all__ = ["DOCUMENTS", "GROUPS", "TASKS", "tiny_policy", "write_dataset"]

CHECKPOINT = Path(__file__).parent / "checkpoint"


def tiny_policy() -> str:
    """Path of the shipped checkpoint, a warm-started Qwen2.5-VL of 1.4 million parameters with its processor.

    Use it as `model_name_or_path`; `python scripts/build_tiny_policy.py` rebuilds it.

    >>> sorted(path.name for path in Path(tiny_policy()).glob("*config.json"))
    ['config.json', 'generation_config.json', 'processor_config.json', 'tokenizer_config.json']
    """
    return str(CHECKPOINT)
