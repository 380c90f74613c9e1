"""What to train on and what to reward, as a recipe's YAML says it; imports neither TRL nor torch."""

import json
from dataclasses import dataclass, field


@dataclass
class DataArguments:
    """What to train on and what to reward. Paths are relative to the folder that the command runs in."""

    dataset_name: str = field(metadata={"help": "JSON, JSONL or YAML mixture of training rows, or a hub id"})
    rewards: str | None = field(
        default=None,
        metadata={"help": "rewards.yaml; without one, by what the rows' answers are: boxes or text"},
    )
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
        default="error",
        metadata={"help": "what a bad row does: stop the run, or be left out", "choices": ["error", "skip"]},
    )
    check_images: str = field(
        default="header",
        metadata={
            "help": "how far images are looked at before training; on_bad_sample: skip always reads all pixels",
            "choices": ["exists", "header", "pixels"],
        },
    )
    max_image_pixels: int | None = field(
        default=None,
        metadata={"help": "most pixels of an image's file; default: Pillow's 178,956,970"},
    )
    allow_outside_image_root: bool = field(
        default=False, metadata={"help": "let image paths, or links, lead out of image_root"}
    )
    draw_shapes: dict | str | None = field(
        default=None,
        metadata={
            "help": "{task, train, test, seed}: draw the files that the same YAML names, where they are missing"
        },
    )

    def __post_init__(self) -> None:
        for name in ("templates", "draw_shapes"):  # on the command line a mapping is JSON
            if isinstance(getattr(self, name), str):
                setattr(self, name, json.loads(getattr(self, name)))
        if self.max_image_pixels is not None and self.max_image_pixels < 1:
            raise ValueError(f"max_image_pixels {self.max_image_pixels} is not a whole number above 0")
