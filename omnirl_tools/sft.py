"""The parts of recipes/sft.py: its arguments, the samples as prompt and response, and a trainer that counts images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig
from trl import ModelConfig, SFTTrainer

from omnirl_core.boxes import default_space
from omnirl_core.config.arguments import DataArguments
from omnirl_core.config.parser import StrictParser
from omnirl_core.config.path_checks import file_faults
from omnirl_core.config.rows import read_rows
from omnirl_core.config.sft_config import OmniSFTConfig
from omnirl_core.data.dataset import for_language_model
from omnirl_core.data.sft import ResponseTransform
from omnirl_core.shapes.drawing import only_own_names
from omnirl_core.trainer import OmniGRPOConfig
from omnirl_core.trainer.callbacks import RewardLines, RewardProgress, replace_progress
from omnirl_core.trainer.dummy_image import add_dummy_image
from omnirl_core.trainer.fault_tolerance.image_guard import ImageCounter, ImageMismatchError
from omnirl_core.trainer.prompt_length import prompt_images
from omnirl_core.types import JsonObject, Sample
from omnirl_tools.evaluation.ready import qwen_resize


def parse_sft(argv: list[str] | None = None) -> tuple[DataArguments, OmniSFTConfig, ModelConfig]:
    """Read `--config FILE` and what overrides it; keys of the YAML that only GRPO knows are left alone."""
    kinds = [DataArguments, OmniSFTConfig, ModelConfig]
    parser = StrictParser(kinds, [file_faults], elsewhere=[OmniGRPOConfig], adjust=only_own_names)
    return parser.parse(argv)  # type: ignore[return-value]


N_IMAGES = "n_images"
"""Key of the number of images of each sample, (B,), in what the collator makes of a batch."""


@dataclass(frozen=True)
class CountedImages:
    """A collator that also says how many images each sample has."""

    collator: Any

    def __call__(self, samples: list[Sample]) -> JsonObject:
        counts = [len(prompt_images({"prompt": "", **sample})) for sample in samples]
        return {**self.collator(samples), N_IMAGES: torch.tensor(counts)}


TAUGHT = (("loss", "loss"), ("mean_token_accuracy", "accuracy"), ("grad_norm", "grad norm"))
"""Of a log line what a user watches, and what it is called there."""


class LossProgress(RewardProgress):
    """The bar of a warm start, with the loss on it."""

    shown = TAUGHT


class LossLines(RewardLines):
    """The lines of a warm start."""

    shown = TAUGHT


class SeeingSFTTrainer(SFTTrainer):
    """TRL's, which stops where a batch has images and the model is not given them; all ranks together."""

    _counter: ImageCounter | None = None

    def show_progress_as_grpo(self) -> None:
        """The bar of GRPO in the place of transformers' own."""
        replace_progress(self, bar=LossProgress, lines=LossLines)

    def see_in_every_pass(self, processor: Any) -> None:
        """The vision tower runs in every forward, as in GRPO, so that ranks agree; what it is given is counted."""
        plugin = self.args.deepspeed_plugin
        is_sharded = self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)
        model: Any = self.model
        add_dummy_image(model, processor, is_sharded)
        self.count_images()

    def count_images(self) -> None:
        self.data_collator = CountedImages(self.data_collator)
        model: Any = self.model
        self._counter = ImageCounter(model)

    def compute_loss(self, model: Any, inputs: JsonObject, *args: Any, **kwargs: Any) -> Any:
        """Counts what the tower encodes."""
        counts = inputs.pop(N_IMAGES, None)
        if self._counter is None or counts is None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        self._counter.restart()
        result = super().compute_loss(model, inputs, *args, **kwargs)
        given = int(counts.sum())
        is_wrong = torch.tensor([int(self._counter.disagrees(given))], device=counts.device)
        if int(self.accelerator.gather(is_wrong).sum()):
            encoded = self._counter.n_images
            raise ImageMismatchError(
                f"warm start, step {self.state.global_step + 1}: the vision tower was given {encoded} images where the "
                f"samples have {given} (rank {self.accelerator.process_index}, or another)"
            )
        return result


def rows_to_say(data: DataArguments, training: OmniSFTConfig, processor: object, sees: str | None) -> Dataset:
    """Prompt and response of every row; images are opened as rows are drawn. `sees`: path of a model that can."""
    report = Path(str(training.output_dir)) / "bad_rows.txt"
    rows = read_rows(data, data.dataset_name, training.seed, report)
    space = "pixels"
    if sees is None:
        rows = for_language_model(rows)
    else:
        space = training.box_space or default_space(AutoConfig.from_pretrained(sees).model_type)
    transform = ResponseTransform(
        rows.format["format_kwargs"]["transform"], training.response_template, space, qwen_resize(processor)
    )
    said = rows.with_transform(transform)
    # TRL prepares the rows of a language model beforehand, and only columns that are there
    return said if sees else Dataset.from_list([said[place] for place in range(len(said))])
