"""Where the shipped policy lies: a Qwen2.5-VL small enough to train by GRPO on a laptop."""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"


def tiny_policy() -> str:
    """Path of the shipped checkpoint, a warm-started Qwen2.5-VL of 1.4 million parameters with its processor.

    Use it as `model_name_or_path`; `python scripts/build_tiny_policy.py` rebuilds it.

    >>> sorted(path.name for path in Path(tiny_policy()).glob("*config.json"))
    ['config.json', 'generation_config.json', 'processor_config.json', 'tokenizer_config.json']
    """
    return str(CHECKPOINT)
