"""Settings of a warm start (`recipes/sft.py`)."""

from dataclasses import dataclass, field

from trl import SFTConfig


@dataclass
class OmniSFTConfig(SFTConfig):
    """TRL's SFTConfig with what rows with images need."""

    max_length: int | None = field(
        default=None, metadata={"help": "most tokens; None, since to cut a prompt cuts its images"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "rows are made when drawn"})
    response_template: str = field(
        default="<answer>{solution}</answer>",
        metadata={"help": "what the policy should say; {solution} or any other key of the row is filled in"},
    )
    box_space: str | None = field(
        default=None,
        metadata={"help": "space of the boxes that are taught; by default the policy's family's"},
    )
    min_pixels: int | None = field(default=None, metadata={"help": "least pixels of an image as it is seen"})
    max_pixels: int | None = field(default=None, metadata={"help": "most pixels of an image as it is seen"})
    freeze_vision_tower: bool = field(default=False, metadata={"help": "train the language model only"})
    max_completion_length: int = field(
        default=256, metadata={"help": "most tokens of an answer to a held-out row, as in GRPO"}
    )
    reward_timeout_s: float | None = field(
        default=None,
        metadata={"help": "most seconds of a reward function's call on held-out rows, as in GRPO"},
    )
    on_reward_error: str = field(
        default="stop",
        metadata={
            "help": "a reward that fails on held-out rows: stop, or abstain",
            "choices": ["stop", "abstain"],
        },
    )
