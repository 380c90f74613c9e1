"""The parts of recipes/sft.py: its arguments, the samples as prompt and response, and a trainer that counts images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from transformers import AutoConfig, ProcessorMixin
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import ModelConfig, SFTConfig, SFTTrainer

from omnirl_core.boxes import Size, default_space, from_pixels
from omnirl_core.config import DataArguments, StrictParser, only_own_names
from omnirl_core.data.dataset import RowTransform, for_language_model
from omnirl_core.data.images import open_image
from omnirl_core.data.record import DataError
from omnirl_core.launch import silence_upstream_noise
from omnirl_core.trainer import OmniGRPOConfig
from omnirl_core.trainer.callbacks import RewardLines, RewardProgress, replace_progress
from omnirl_core.trainer.dummy_image import add_dummy_image
from omnirl_core.trainer.fault_tolerance.checkpoint_mixin import RestoredWeights
from omnirl_core.trainer.fault_tolerance.image_guard import ImageCounter, ImageMismatchError
from omnirl_core.trainer.prompt_length import prompt_images
from omnirl_core.types import Columns, JsonObject, Sample
from omnirl_tools.checks.path_checks import MERGED, file_faults
from omnirl_tools.evaluation.policy import load_trained
from omnirl_tools.evaluation.ready import qwen_resize


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
    stop_at_accuracy: float | None = field(
        default=None,
        metadata={"help": "stop where training samples earn that much, form left out (0 to 1); wants rewards"},
    )
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


def parse_sft(argv: list[str] | None = None) -> tuple[DataArguments, OmniSFTConfig, ModelConfig]:
    """Read `--config FILE` and what overrides it; keys of the YAML that only GRPO knows are left alone."""
    silence_upstream_noise()
    kinds = [DataArguments, OmniSFTConfig, ModelConfig]
    parser = StrictParser(kinds, [file_faults], elsewhere=[OmniGRPOConfig], adjust=only_own_names)
    return parser.parse(argv)  # type: ignore[return-value]


N_IMAGES = "n_images"
"""Key of the number of images of each sample, (B,), in what the collator makes of a batch."""


@dataclass(frozen=True)
class CountedImages:
    """A collator that also says how many images each sample has."""

    collator: Callable[[list[Sample]], JsonObject]

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


class SeeingSFTTrainer(RestoredWeights, SFTTrainer):
    """TRL's, which stops where a batch has images and the model is not given them; all ranks together."""

    _counter: ImageCounter | None = None

    def show_progress_as_grpo(self) -> None:
        """The bar of GRPO in the place of transformers' own."""
        replace_progress(self, bar=LossProgress, lines=LossLines)

    def see_in_every_pass(self, processor: ProcessorMixin) -> None:
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

    def compute_loss(self, model: object, inputs: JsonObject, *args: object, **kwargs: object) -> Any:
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


def saved_policy(trainer: SFTTrainer, folder: Path) -> Path:
    """Where GRPO starts from: what the trainer saved in `folder`, or, with LoRA, `folder/merged`.

    That is written here, by one process: the adapter merged into the model that it was trained on, in that model's
    dtype, also where training had quantized it.
    """
    if not is_peft_model(trainer.model):
        return folder
    unset_hf_deepspeed_config()  # ZeRO-3 would take the model apart as it loads
    model: Any = load_trained(str(folder), dtype="auto")
    model.merge_and_unload().save_pretrained(folder / MERGED)
    trainer.processing_class.save_pretrained(folder / MERGED)  # type: ignore[union-attr]
    return folder / MERGED


@dataclass(frozen=True)
class ResponseTransform:
    """Draws a row as `prompt`, `completion` (one assistant turn) and opened `images`.

    `template` is the response; `{solution}` in it is the row's answer, and `{name}` any other key of the row.
    Of several references the first is taught. A box is told in `space`, as the rewards will read it.
    """

    rows: RowTransform
    template: str
    space: str = "pixels"
    resize: Callable[[Size], Size] | None = None

    def __call__(self, batch: Mapping[str, list[str]]) -> Columns:
        drawn = self.rows(batch)
        rows = [dict(zip(drawn, values, strict=True)) for values in zip(*drawn.values(), strict=True)]
        images = [[open_image(path, row["row_id"]) for path in row["images"]] for row in rows]
        responses = [self._response(row, seen) for row, seen in zip(rows, images, strict=True)]
        if self.rows.as_text:
            return {"prompt": drawn["prompt"], "completion": responses}
        return {"prompt": drawn["prompt"], "completion": responses, "images": images}

    def _response(self, row: dict[str, Any], images: list[Any]) -> list[dict[str, Any]]:
        answer = answer_text(row["solution"], self.space, images[0].size if images else None, self.resize)
        try:
            text = self.template.format_map({**row, "solution": answer})
        except KeyError as error:
            raise DataError(
                f"{row['row_id']}: the response template names {error}, which the row has not; it has {', '.join(row)}"
            ) from None
        content = text if self.rows.as_text else [{"type": "text", "text": text}]
        return [{"role": "assistant", "content": content}]


def answer_text(
    solution: object,
    space: str = "pixels",
    shown: Size | None = None,
    resize: Callable[[Size], Size] | None = None,
) -> str:
    """The answer as the policy should write it.

    >>> answer_text(7), answer_text(["a red star", "one star, red"]), answer_text([10, 10, 30, 30], "0-1000", (40, 40))
    ('7', 'a red star', '[250, 250, 750, 750]')
    """
    if not isinstance(solution, list):
        return str(solution)
    if len(solution) == 4 and all(isinstance(side, int | float) for side in solution):
        x1, y1, x2, y2 = solution
        if space != "pixels" and shown is not None:
            resized = resize(shown) if resize else None
            x1, y1, x2, y2 = from_pixels((x1, y1, x2, y2), space, shown, resized)
        return str([round(side) for side in (x1, y1, x2, y2)])
    return str(solution[0] if solution else solution)


def rows_to_say(rows: Dataset, training: OmniSFTConfig, processor: object, sees: str | None) -> Dataset:
    """Prompt and response of every row; images are opened as rows are drawn. `sees`: path of a model that can."""
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
