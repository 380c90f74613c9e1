"""What a recipe's YAML and command line say, as the objects that they configure."""

import json
from dataclasses import dataclass, field

from trl import ModelConfig, TrlParser

from omnirl_core.trainer import OmniGRPOConfig


@dataclass
class DataArguments:
    """What to train on and what to reward. Paths are relative to the folder that the command runs in."""

    dataset_name: str = field(metadata={"help": "JSON, JSONL or YAML mixture of training rows, or a hub id"})
    rewards: str = field(metadata={"help": "rewards.yaml"})
    eval_dataset_name: str | None = field(
        default=None, metadata={"help": "held-out rows, answered greedily before and after training"}
    )
    eval_rows: int | None = field(default=None, metadata={"help": "use only the first N held-out rows"})
    image_root: str | None = field(default=None, metadata={"help": "folder that image paths are relative to"})
    templates: dict | str | None = field(
        default=None, metadata={"help": "prompt template per task (docs/data.md)"}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "system turn before every prompt"})
    on_bad_sample: str = field(
        default="error", metadata={"help": "what a bad row does", "choices": ["error", "skip"]}
    )
    draw_shapes: dict | str | None = field(
        default=None,
        metadata={
            "help": "{task, train, test, seed}: draw dataset_name and eval_dataset_name where they are missing"
        },
    )

    def __post_init__(self) -> None:
        for name in ("templates", "draw_shapes"):  # on the command line a mapping is JSON
            if isinstance(getattr(self, name), str):
                setattr(self, name, json.loads(getattr(self, name)))


def parse(argv: list[str] | None = None) -> tuple[DataArguments, OmniGRPOConfig, ModelConfig]:
    """Read `--config FILE` and what overrides it; `argv` is the command line by default."""
    parser = TrlParser([DataArguments, OmniGRPOConfig, ModelConfig])  # type: ignore[list-item]  # TRL types it so
    return parser.parse_args_and_config(argv)  # type: ignore[return-value]  # its own annotation is wider
