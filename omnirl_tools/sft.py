"""A warm start: TRL's SFTTrainer on the rows of a recipe, any mix of text, one picture and many.

`recipes/sft.py` calls `main`. GRPO learns from what a policy does right some of the time; where the form or the
kind of answer never occurs, some steps of imitation bring it there. What is saved starts `recipes/grpo.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from datasets import Dataset
from transformers import AutoConfig
from trl import ModelConfig, SFTTrainer, get_peft_config

from omnirl_core.boxes import default_space
from omnirl_core.config.arguments import DataArguments
from omnirl_core.config.model_settings import model_settings, policy_path, quantization_settings
from omnirl_core.config.parser import StrictParser
from omnirl_core.config.path_checks import file_faults
from omnirl_core.config.rows import read_rows
from omnirl_core.config.sft_config import OmniSFTConfig
from omnirl_core.data.dataset import for_language_model
from omnirl_core.data.sft import ResponseTransform
from omnirl_core.log_filters import silence_upstream_noise
from omnirl_core.models import freeze_vision_tower, has_vision, load_processor, without_vision
from omnirl_core.rewards import load_rewards
from omnirl_core.shapes.drawing import draw_missing, only_own_names
from omnirl_core.trainer import OmniGRPOConfig
from omnirl_core.trainer.callbacks import in_place_of
from omnirl_core.trainer.dummy_image import add_vision_anchor
from omnirl_core.trainer.fault_tolerance.image_guard import ImageCounter, ImageMismatchError
from omnirl_core.trainer.prompt_length import prompt_images
from omnirl_tools.evaluation.compare import compare
from omnirl_tools.evaluation.ready import qwen_resize
from omnirl_tools.run import grade, show, start_quietly


def parse_sft(argv: list[str] | None = None) -> tuple[DataArguments, OmniSFTConfig, ModelConfig]:
    """Read `--config FILE` and what overrides it; keys of the YAML that only GRPO knows are left alone."""
    kinds = [DataArguments, OmniSFTConfig, ModelConfig]
    parser = StrictParser(kinds, [file_faults], elsewhere=[OmniGRPOConfig], adjust=only_own_names)
    return parser.parse(argv)  # type: ignore[return-value]


def main(argv: list[str] | None = None) -> SFTTrainer:
    """Run the config that `argv` (default: the command line) names; the model is saved to `output_dir`.

    Where it names rewards and held-out rows (`rewards`, `eval_dataset_name`), these are answered before and after, as
    in GRPO: before.jsonl, after.jsonl, completions.html and the table.
    """
    data, training, model_config = parse_sft(argv)
    start_quietly(training)
    set_seed(training.seed)
    with training.main_process_first(local=False, desc="drawing the shapes data set"):
        draw_missing(data)
    trainer = build(data, training, model_config)
    rewards = load_rewards(data.rewards) if data.rewards else []
    held_out = held_out_rows(data, training) if rewards else None
    before = grade(trainer, rewards, held_out, "before")
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    after = grade(trainer, rewards, held_out, "after")
    if trainer.accelerator.is_main_process:
        if before:
            show(Path(str(training.output_dir)), compare(before, after), curves=False)
        print(f"\nSaved; start GRPO from it with --model_name_or_path {training.output_dir}")
    trainer.accelerator.wait_for_everyone()
    return trainer


def held_out_rows(data: DataArguments, training: OmniSFTConfig) -> Dataset | None:
    """The first `eval_rows` of the held-out rows, None where the config names none."""
    if not data.eval_dataset_name:
        return None
    report = Path(str(training.output_dir)) / "bad_eval_rows.txt"
    rows = read_rows(data, data.eval_dataset_name, training.seed, report)
    return rows if data.eval_rows is None else rows.select(range(min(data.eval_rows, len(rows))))


def build(data: DataArguments, training: OmniSFTConfig, model_config: ModelConfig) -> SFTTrainer:
    """TRL's trainer over the rows; a vision tower runs in every forward, as in GRPO, so that ranks agree."""
    silence_upstream_noise(use_cpu=training.use_cpu)
    path = policy_path(model_config)
    sees = has_vision(path)
    processor = load_processor(path, training.min_pixels, training.max_pixels)
    peft = get_peft_config(model_config)
    if peft is not None and training.freeze_vision_tower:
        peft = without_vision(peft)
    training.model_init_kwargs = model_settings(model_config)
    trainer = SeeingSFTTrainer(
        model=path,
        args=training,
        train_dataset=rows_to_say(data, training, processor, path if sees else None),
        processing_class=processor,
        quantization_config=quantization_settings(model_config),
        peft_config=peft,
    )
    for callback in [type(callback) for callback in trainer.callback_handler.callbacks]:
        if shown := in_place_of(callback, taught=True):
            trainer.remove_callback(callback)
            trainer.add_callback(shown)
    model: Any = trainer.model
    if training.freeze_vision_tower:
        freeze_vision_tower(model)
    if sees:
        plugin = training.deepspeed_plugin
        is_sharded = trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)
        add_vision_anchor(model, processor, is_sharded)
        trainer.count_images()
    return trainer


N_IMAGES = "n_images"
"""Key of the number of images of each sample, (B,), in what the collator makes of a batch."""


@dataclass(frozen=True)
class CountedImages:
    """A collator that also says how many images each sample has."""

    collator: Any

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        counts = [len(prompt_images({"prompt": "", **sample})) for sample in samples]
        return {**self.collator(samples), N_IMAGES: torch.tensor(counts)}


class SeeingSFTTrainer(SFTTrainer):
    """TRL's, which stops where a batch has images and the model is not given them; all ranks together."""

    _counter: ImageCounter | None = None

    def count_images(self) -> None:
        self.data_collator = CountedImages(self.data_collator)
        model: Any = self.model
        self._counter = ImageCounter(model)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
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


def rows_to_say(data: DataArguments, training: OmniSFTConfig, processor: Any, sees: str | None) -> Dataset:
    """Prompt and response of every row; pictures are opened as rows are drawn. `sees`: path of a model that can."""
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
