"""TRL's GRPOTrainer for rows of any mix: text-only, one picture, many."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate.utils import gather_object, is_peft_model
from trl import GRPOConfig

from omnirl_core.log_filters import silence_upstream_noise
from omnirl_core.models import base_model, freeze_vision_tower, keep_4bit_trainable, vision_token_ids
from omnirl_core.rewards.grounding import box_reading
from omnirl_core.text import completion_text
from omnirl_core.trainer.callbacks import (
    RunFiles,
    completion_lines,
    distinct_names,
    in_place_of,
    prompt_text,
)
from omnirl_core.trainer.checkpoints import EpochSampler, has_full_weights, pickled_weights, restore_weights
from omnirl_core.trainer.completion_logging import show_completions
from omnirl_core.trainer.constant_groups import settle_constant_groups
from omnirl_core.trainer.dummy_image import VisionAnchor, add_vision_anchor, remove_vision_anchor
from omnirl_core.trainer.fsdp import gathered_for_generation, trainable_after_reference
from omnirl_core.trainer.image_passes import SAMPLES, samples_of
from omnirl_core.trainer.model_card import mend_model_card
from omnirl_core.trainer.multimodal import Row, counted_by_row, mixed_rows, row_images, text_rows
from omnirl_core.trainer.phases import PREPARE, ROLLOUT, SCORE, PhaseClock
from omnirl_core.trainer.preparation import Preparation
from omnirl_core.trainer.reuse import release
from omnirl_core.trainer.reward_columns import with_own_images
from omnirl_core.trainer.reward_setup import fit_rewards, kept_weights, reward_weights
from omnirl_core.trainer.reward_stats import ScaleDoctor, reward_scales, scale_metrics
from omnirl_core.trainer.seeing import SeeingTrainer

ANCHORED_WHOLE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families of whose trainable parameters every one takes part in every anchored forward."""


class OmniGRPOTrainer(SeeingTrainer):
    """Drop-in for `trl.GRPOTrainer`: what works there works here, unchanged.

    Besides: rows with and without pictures in one batch and across ranks, pictures given as paths, pixel
    budgets, a prompt-length policy and a frozen vision tower (see OmniGRPOConfig), a resume that restores the
    weights, and a run folder with `metrics.jsonl` and `completions.jsonl`. Rewards of `load_rewards` bring their
    weights along, unless `reward_weights` is given, and between them have to judge every sample's answer.

    Each override says what in TRL 1.16 it is about; tests/trainer/test_seams.py holds the signatures.
    """

    model: Any
    args: Any
    processing_class: Any
    _logs: dict[str, Any]
    # what a trainer has that was made without __init__, as some tests of TRL make theirs
    _is_mixed = False
    _rows: Sequence[Row] = ()
    _images: list[list[Any]] | None = None
    _anchor: VisionAnchor | None = None
    _clock = PhaseClock({})
    run_files: RunFiles | None = None

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        callbacks: Any = None,
        optimizers: Any = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
        tools: Any = None,
        rollout_func: Any = None,
        environment_factory: Any = None,
    ):
        silence_upstream_noise(use_cpu=getattr(args, "use_cpu", False))
        has_environment = environment_factory is not None
        if args is not None and getattr(args, "_is_ddp_search_ours", False):  # set by an earlier trainer
            args.ddp_find_unused_parameters = None
        looks_for_unused = getattr(args, "ddp_find_unused_parameters", None)
        ready = Preparation(
            model, args, train_dataset, eval_dataset, processing_class, peft_config, tools, has_environment
        )
        ready.settle()
        fitted = fit_rewards(reward_funcs, ready.train_dataset, ready.eval_dataset)
        own_weights = getattr(args, "reward_weights", None) is None
        if args is not None and not own_weights:
            args.reward_weights = kept_weights(reward_funcs, fitted, args.reward_weights)
        release(model)
        super().__init__(
            model=model,
            reward_funcs=fitted,
            args=args,
            train_dataset=ready.train_dataset,
            eval_dataset=ready.eval_dataset,
            processing_class=ready.processing_class,
            reward_processing_classes=reward_processing_classes,
            callbacks=callbacks,
            optimizers=optimizers,
            quantization_config=quantization_config,
            peft_config=ready.peft_config,
            tools=tools,
            rollout_func=rollout_func,
            environment_factory=environment_factory,
        )
        if own_weights:  # TRL 1.16 would weigh each 1, also a `repetition` of weight -0.2
            self.reward_weights = reward_weights(self.reward_funcs, None)
        else:
            reward_weights(self.reward_funcs, self.args.reward_weights)
        # tools and environments can bring pictures into a run whose data has none
        self._is_mixed = self._is_vlm and bool(ready.may_have_images or tools or has_environment)
        self._completions: list[Any] = []
        self._completion_ids: list[list[int]] = []
        self._rewards = torch.empty(0)
        keep_4bit_trainable(self.model)
        if getattr(args, "freeze_vision_tower", False):
            freeze_vision_tower(self.model)
        self._anchor = self._add_anchors() if self._is_mixed else None
        if self._anchor is None:
            remove_vision_anchor(self.model)
        if (
            self._anchor is not None
            and looks_for_unused is None
            and self.model.config.model_type in ANCHORED_WHOLE
        ):
            # TRL 1.16 has DDP search for what a text-only batch leaves out; now nothing is, and DDP would warn so
            self.args.ddp_find_unused_parameters = self.accelerator.ddp_handler.find_unused_parameters = False
            self.args._is_ddp_search_ours = True
        if self._is_vlm:
            self._suppress_vision_tokens()
        self._add_callbacks()

    def _add_callbacks(self) -> None:
        self.run_files = RunFiles(self.args.output_dir, getattr(self.args, "log_file_limit_mb", math.inf))
        self.add_callback(self.run_files)
        self.add_callback(ScaleDoctor())
        self._clock = PhaseClock(self._metrics["train"])
        self.add_callback(self._clock)
        for callback in list(self.callback_handler.callbacks):
            if shown := in_place_of(type(callback)):
                self.remove_callback(callback)
                self.add_callback(shown())

    # -- the vision tower ---------------------------------------------------------------------------------------

    def _add_anchors(self) -> VisionAnchor | None:
        sharded = self.is_fsdp_enabled or self._is_zero3
        config: Any = base_model(self.model).config
        takes_part_whole = config.model_type in ANCHORED_WHOLE
        ordered = sharded or self.args.deepspeed_plugin is not None
        how = (self.processing_class, sharded, ordered or not takes_part_whole)
        if self.ref_model is not None:
            add_vision_anchor(self.accelerator.unwrap_model(self.ref_model), *how)
        return add_vision_anchor(self.model, *how)

    @property
    def engine(self) -> str:
        """What runs the processes, by the name of its file in accelerate_configs/; `cpu` stands for one process."""
        plugin = self.args.deepspeed_plugin
        if plugin is not None:
            offload = plugin.deepspeed_config["zero_optimization"].get("offload_param") or {}
            return f"zero{plugin.zero_stage}{'_offload' if offload.get('device') == 'cpu' else ''}"
        if self.is_fsdp_enabled:
            return f"fsdp{self._dist.fsdp_version}"
        return "ddp" if self.accelerator.num_processes > 1 else "cpu"

    @property
    def _is_zero3(self) -> bool:
        plugin = self.args.deepspeed_plugin
        return plugin is not None and plugin.zero_stage == 3

    def _suppress_vision_tokens(self) -> None:
        """TRL 1.16 keeps one image token from being sampled, and only where transformers generates."""
        ids = vision_token_ids(self.model.config, self._tokenizer)
        if self.use_vllm:
            kwargs = dict(self.vllm_generation.generation_kwargs)
            bias = {**(kwargs.get("logit_bias") or {}), **dict.fromkeys(ids, -100)}
            self.vllm_generation.generation_kwargs = {**kwargs, "logit_bias": bias}
        else:
            ids = sorted({*ids, *(self.generation_kwargs.get("suppress_tokens") or [])})
            self.generation_kwargs["suppress_tokens"] = self.generation_config.suppress_tokens = ids

    # -- one generation batch -----------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[Row]) -> dict[str, Any]:
        """TRL 1.16 takes no mix of rows with and without pictures; see `mixed_rows`."""
        self._rows = inputs
        self._beat("rollout", inputs)
        with self._clock.measure(PREPARE):
            self._meet_images(inputs)
            if self._is_vlm and not self.environment_factories:
                self._rows = mixed_rows(inputs) if self._is_mixed else text_rows(inputs)
            self._expect_images(samples_of(self._rows))
        self._images = None
        with (
            self._clock.measure(PREPARE),
            self._without_gathering_images(),
            trainable_after_reference(self.model),
        ):
            output = counted_by_row(super()._generate_and_score_completions(self._rows))
        if self._passes is not None:
            if self._passes.samples:
                output[SAMPLES] = list(self._passes.samples)
            self._passes.settle()
        settle_constant_groups(self, output, self._rewards)
        self._log_images()
        lines = self._completion_lines(inputs, output["advantages"])
        if self.run_files is not None and self.run_files in self.callback_handler.callbacks:
            self.run_files.write_completions(gather_object(lines), self.state)
        self._remember_rows(output, lines)
        self._rows = []
        return output

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, Any]:
        """Only looks on: the grid of patches tells rewards the size at which the policy sees each picture."""
        prompt_ids, images, fields = super()._tokenize_prompts(prompts)
        grid = fields.get("image_grid_thw")
        if grid is not None and len(grid) == sum(len(row_images(row)) for row in self._rows):
            side = self.processing_class.image_processor.patch_size
            sizes = iter([(int(width) * side, int(height) * side) for _, height, width in grid.tolist()])
            for row in self._rows:
                resized = [next(sizes) for _ in row_images(row)]
                if row.get("resized_sizes", ...) is None:
                    row["resized_sizes"] = resized
        return prompt_ids, images, fields

    def _generate_single_turn(
        self,
        prompt_ids: Any,
        images: Any,
        multimodal_fields: Any,
        num_generations: int,
        has_tool_images: bool = False,
    ) -> Any:
        """Where `generate` gathers parameters module by module, ranks without pictures must encode one too.

        A shared prefill is a forward as any other, which has the anchor in it.
        """
        if (
            self._anchor is not None
            and self._generates_ungathered
            and "pixel_values" not in multimodal_fields
        ):
            backbone: Any = base_model(self.accelerator.unwrap_model(self.model)).base_model
            with torch.no_grad():
                self._anchor.features(backbone)
        gathered = nullcontext() if self.use_vllm else gathered_for_generation(self.model)
        with gathered, self._rollout_watched(images):
            return super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images=has_tool_images
            )

    @property
    def _generates_ungathered(self) -> bool:
        by_module = self._dist.fsdp_version == 1 or (
            self._is_zero3 and not self.args.ds3_gather_for_generation
        )
        return by_module and not self._shares_rollout

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """TRL 1.16 gives None for a row without pictures; processors need an empty list.

        Mended here, after generation: vLLM's colocate mode wants the None.
        """
        with self._clock.measure(ROLLOUT):
            *before, images, tool_images = super()._generate(prompts)
        if images is not None:
            images = self._images = [pictures or [] for pictures in images]
        if self._passes is not None and (self.tools or self.environment_factories):  # which bring images
            counts = map(len, images or [()] * len(prompts))
            names = [str(row.get("row_id", f"{i} of the batch")) for i, row in enumerate(self._rows)]
            self._expect_images(list(zip(names, counts, strict=True)))
        return *before, images, tool_images

    def _calculate_rewards(
        self, inputs: list[Row], prompts: Any, completions: Any, completion_ids_list: Any
    ) -> torch.Tensor:
        """What each reward contributes within groups goes into the log; no reward sees what another drew."""
        plain = self.reward_funcs
        self.reward_funcs = [with_own_images(function) for function in plain]
        try:
            with self._clock.measure(SCORE):
                rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        finally:
            self.reward_funcs = plain
        self._completions, self._rewards = completions, rewards  # rewards: (ranks*B*G, K)
        self._completion_ids = completion_ids_list
        if self.model.training:
            groups = rewards.view(-1, self.num_generations, rewards.shape[-1])
            scales = reward_scales(groups, self.reward_weights.tolist())
            for name, value in scale_metrics(self.reward_func_names, scales).items():
                self._metrics["train"][name].append(value)
        return rewards

    # -- what a run leaves behind -------------------------------------------------------------------------------

    @contextmanager
    def _without_gathering_images(self) -> Iterator[None]:
        """TRL 1.16 gathers pictures on ranks that have some, which hangs when another has none."""
        given, self.log_multimodal = self.log_multimodal, self.log_multimodal and not self._is_vlm
        try:
            yield
        finally:
            self.log_multimodal = given

    def _log_images(self) -> None:
        if self._is_mixed and self.log_multimodal and self.log_completions:
            self._logs["images"].extend(
                gather_object(self._images or [row_images(row) for row in self._rows])
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """What TRL 1.16 logs of completions, as text, and what it does not show of them.

        wandb 0.31 ends a run whose table has content blocks, pictures in some prompts and none in others.
        """
        if self._is_mixed and self.log_completions:
            for name, read in (("prompt", prompt_text), ("completion", completion_text)):
                texts = [read(item) for item in self._logs[name]]
                self._logs[name].clear()
                self._logs[name].extend(texts)
        super().log(logs, start_time)
        if self.accelerator.is_main_process and self.log_completions:
            show_completions(self.callback_handler.callbacks, self._logs, self.state.global_step)

    def _completion_lines(self, inputs: list[Row], advantages: torch.Tensor) -> list[dict[str, Any]]:
        first = self.accelerator.process_index * len(inputs)
        own = self._rewards[first : first + len(inputs)].tolist()
        names = distinct_names(self.reward_func_names)
        # the report scores a completion by them: no other file of a run without held-out rows has them
        weights = {
            name: round(weight, 6) for name, weight in zip(names, self.reward_weights.tolist(), strict=True)
        }
        rewards = {name: [row[k] for row in own] for k, name in enumerate(names)}
        training = self.model.training
        return completion_lines(
            inputs,
            self._completions,
            rewards,
            advantages.tolist(),
            step=self.state.global_step + training,  # the step that learns from them
            phase="train" if training else "eval",
            details=[{"weights": weights} | self._detail(place, own[place]) for place in range(len(inputs))],
        )

    def _detail(self, place: int, rewards: list[float]) -> dict[str, Any]:
        """Of one completion: its length, the sizes of its pictures, and how a reward that judges it reads boxes."""
        ids, row = self._completion_ids[place], self._rows[place]
        ends = (*self.eos_token_ids, self._tokenizer.pad_token_id)  # as TRL counts clipped completions
        detail: dict[str, Any] = {"n_tokens": len(ids), "clipped": not ids or ids[-1] not in ends}
        if row_images(row):
            detail |= {name: row.get(name) for name in ("image_sizes", "resized_sizes")}
        judging = [reward for reward, value in zip(self.reward_funcs, rewards, strict=True) if value == value]
        boxes = next((reading for reward in judging if (reading := box_reading(reward))), None)
        return detail | ({"boxes": boxes} if boxes else {})

    # -- checkpoints --------------------------------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Any = None) -> EpochSampler:
        """TRL 1.16's sampler forgets on resume which epoch it is in."""
        return EpochSampler(super()._get_train_sampler(dataset))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Trainer of transformers 5.23 restores no weight of a vision-language model; see `restore_weights`."""
        if fault := pickled_weights(resume_from_checkpoint):
            raise ValueError(fault)
        if self._loads_full_weights(resume_from_checkpoint):
            restore_weights(self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        """As `_load_from_checkpoint`."""
        best = self.state.best_model_checkpoint
        if not self.is_deepspeed_enabled and self._loads_full_weights(best):
            restore_weights(self.model, best)
        else:
            super()._load_best_model()

    def create_model_card(  # type: ignore[override]  # TRL 1.16 has its own signature
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """TRL 1.16 writes None where the policy came from a folder and is in no hub; see `mend_model_card`."""
        super().create_model_card(model_name, dataset_name, tags)
        if self.is_world_process_zero():
            mend_model_card(self.args.output_dir, self.model.config)

    def _loads_full_weights(self, folder: str | None) -> bool:
        plain = not is_peft_model(self.model) and not self.is_fsdp_enabled
        return self._is_vlm and plain and has_full_weights(folder)
