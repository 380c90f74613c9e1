"""What a recipe's YAML and command line say, as the objects that they configure.

TRL and torch are imported where `parse` needs them: a command that reads `DataArguments` only does without.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omnirl_core.config.parser import Check, StrictParser
from omnirl_core.data.columns import checked_columns
from omnirl_core.type_checks import setting
from omnirl_core.yaml_loader import Given, read_mapping

if TYPE_CHECKING:
    from trl import ModelConfig

    from omnirl_core.trainer import OmniGRPOConfig

SPLITS = {"dataset_name": "train", "eval_dataset_name": "test"}
"""Setting that names a file of rows -> the split of it that `draw_shapes` draws."""


@dataclass
class DataArguments:
    """What to train on and what to reward. Paths are relative to the folder that the command runs in."""

    dataset_name: str = field(metadata={"help": "training rows: JSON, JSONL, Parquet, CSV, YAML mixture or a hub id"})
    rewards: str | None = setting(None, "rewards.yaml; without one, by what the rows' answers are: boxes or text")
    eval_dataset_name: str | None = setting(None, "held-out rows, answered greedily before and after training")
    eval_rows: int | None = setting(None, "use only the first N held-out rows")
    image_root: str | None = setting(None, "folder that image paths are relative to")
    columns: dict | str | None = setting(
        None, "our names of the data's columns: {problem: question, solution: answer}"
    )
    templates: dict | str | None = setting(None, "prompt template per task (docs/data.md)")
    system_prompt: str | None = setting(None, "system turn before every prompt")
    on_bad_sample: str = setting("error", "what a bad row does: stop the run, or be left out", ["error", "skip"])
    check_images: str = setting(
        "header",
        "how far images are looked at before training; on_bad_sample: skip always reads all pixels",
        ["exists", "header", "pixels"],
    )
    max_image_pixels: int | None = setting(None, "most pixels of an image's file; default: Pillow's 178,956,970")
    allow_outside_image_root: bool = setting(False, "let image paths, or links, lead out of image_root")
    draw_shapes: dict | str | None = setting(
        None, "{task, train, test, seed}: draw the files that the same YAML names, where they are missing"
    )
    warm_start_check: bool = setting(
        True,
        "recipes/grpo.py: before training, answer 32 prompts; where none earns a reward, say so with the command of a "
        "warm start by SFT",
    )

    def __post_init__(self) -> None:
        for name in ("templates", "columns", "draw_shapes"):  # on the command line a mapping is JSON or YAML
            if isinstance(getattr(self, name), str):
                setattr(self, name, read_mapping(getattr(self, name)))
        if self.columns is not None:
            self.columns = dict(checked_columns(self.columns))
        if self.max_image_pixels is not None and self.max_image_pixels < 1:
            raise ValueError(f"max_image_pixels {self.max_image_pixels} is not a whole number above 0")


def parse(
    argv: Sequence[str] | None = None, checks: Iterable[Check] = ()
) -> "tuple[DataArguments, OmniGRPOConfig, ModelConfig]":
    """Read `--config FILE` and what overrides it; `argv` is the command line by default.

    Args:
        checks: further checks of the settings.

    Raises:
        ConfigError: all that is wrong.
    """
    from trl import ModelConfig

    from omnirl_core.trainer import OmniGRPOConfig

    kinds = [DataArguments, OmniGRPOConfig, ModelConfig]
    return StrictParser(kinds, checks, adjust=only_own_names).parse(argv)  # type: ignore[return-value]


def only_own_names(given: Sequence[Given]) -> list[Given]:
    """The settings with the splits taken out of `draw_shapes` whose file is named elsewhere than it stands itself.

    >>> yaml = [Given("draw_shapes", {"task": "rec", "train": 9, "test": 3}, "demo.yaml:4"),
    ...         Given("dataset_name", "a/train.json", "demo.yaml:5")]
    >>> only_own_names([*yaml, Given("dataset_name", "mine/trian.json", "command line")])[0].value
    {'task': 'rec', 'test': 3}
    """
    last = {one.name: one for one in given}
    shapes = last.get("draw_shapes")
    if shapes is None or not isinstance(shapes.value, dict):
        return list(given)
    file = _file(shapes)
    others = [split for name, split in SPLITS.items() if name in last and _file(last[name]) != file]
    kept = shapes._replace(value={key: value for key, value in shapes.value.items() if key not in others})
    return [kept if one is shapes else one for one in given]


def _file(one: Given) -> str:
    return one.place.rpartition(":")[0] or one.place
