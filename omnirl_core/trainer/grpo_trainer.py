"""TRL's GRPOTrainer for samples of any mix: text-only, one image, several images."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias

import torch
from accelerate.utils import gather_object
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from peft import PeftConfig, PeftModel
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, TrainerCallback
from transformers.trainer_utils import TrainOutput
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.grpo_trainer import EnvironmentFactory, RewardFunc, RolloutFunc

from omnirl_core.data.dataset import is_of_rows
from omnirl_core.launch import silence_upstream_noise
from omnirl_core.models import unpadded
from omnirl_core.trainer.callbacks import (
    PREPARE,
    ROLLOUT,
    SCORE,
    JsonlLogger,
    StepTimer,
    as_json,
    replace_progress,
)
from omnirl_core.trainer.completion_logging import (
    as_text,
    batch_lines,
    log_images,
    mend_model_card,
    no_images_gathered,
    show_completions,
)
from omnirl_core.trainer.dummy_image import (
    DummyImage,
    add_dummy_images,
    ddp_search_of,
    encode_before_rollout,
    set_up_vision,
)
from omnirl_core.trainer.dynamic_sampling import DynamicSampling, IndexedSamples, dynamic_sampling_of
from omnirl_core.trainer.fault_tolerance.checkpoint_mixin import CheckpointMixin
from omnirl_core.trainer.fault_tolerance.image_guard import SAMPLES, ImageGuard, images_turn_up, samples_of
from omnirl_core.trainer.fault_tolerance.nonfinite import NonFiniteGuard
from omnirl_core.trainer.fault_tolerance.reward_guard import RewardGuard
from omnirl_core.trainer.fault_tolerance.watchdog import Watchdog
from omnirl_core.trainer.fsdp import (
    engine_of,
    gathered_for_generation,
    refuse_early_evaluation,
    trainable_after_reference,
)
from omnirl_core.trainer.grpo_config import OFF, OmniGRPOConfig, default_config, settings_of
from omnirl_core.trainer.multimodal import (
    check_tool_images,
    counted_by_sample,
    mixed_samples,
    note_resized_sizes,
    text_samples,
    with_own_images,
)
from omnirl_core.trainer.preparation import Preparation, release, reward_weights
from omnirl_core.trainer.reference_probability import ReferenceProbability, reference_probability_of
from omnirl_core.trainer.reward_stats import RewardScaleCallback, log_scales, zero_constant_groups
from omnirl_core.trainer.rollout_metrics import RolloutMetrics
from omnirl_core.trainer.shared_prefix.runtime import PROMPTS, SharedBatch, SharedPrefix, regrouped, shared_prefix_of
from omnirl_core.trainer.vllm import engine_for_images, note_vllm_dtype
from omnirl_core.trainer.zero_advantages import ZeroAdvantages
from omnirl_core.types import Sample

Datasets: TypeAlias = Dataset | IterableDataset


class OmniGRPOTrainer(CheckpointMixin, GRPOTrainer):
    """Drop-in for `trl.GRPOTrainer`: what works there works here, unchanged.

    In addition: samples with and without images in one batch and across ranks, images given as paths, pixel
    budgets, a prompt-length policy and a frozen vision tower (see OmniGRPOConfig), a resume that restores the
    weights, and a run folder with `metrics.jsonl` and `completions.jsonl`. Rewards of `load_rewards` bring their
    weights along, unless `reward_weights` is given, and between them have to judge every sample's answer.

    Each method of TRL 1.16 is overridden once, in the order of a step; a collaborator is None where it is off. What
    concerns checkpoints is in `CheckpointMixin`.

    Args:
        model: id or folder of a checkpoint, or a model, with or without an adapter.
        reward_funcs: rewards of `load_rewards`, or what TRL takes: functions, reward models, their ids.
        args: OmniGRPOConfig. A plain GRPOConfig leaves everything that OmniGRPOConfig adds switched off.
        train_dataset: samples with a `prompt` and, for images, `images` or `image`: paths, PIL images, URLs or
            base64 strings. Other columns go to the rewards.
        eval_dataset: as `train_dataset`, or several by name.
        processing_class: processor or tokenizer of the model; by default the checkpoint's own.
        reward_processing_classes: tokenizers of reward models.
        callbacks: added to the run's own.
        optimizers: optimizer and learning-rate scheduler; by default from `args`.
        quantization_config: for QLoRA; used where `model` is a path.
        peft_config: adapter to train. With `freeze_vision_tower` it leaves the tower out.
        tools: functions that the policy may call.
        rollout_func: generates in place of the trainer.
        environment_factory: makes the environments of a rollout.

    Raises:
        ValueError: settings, model and data do not fit; all that is wrong in one message.
        DataError: some samples have no reward that judges their answer.
    """

    processing_class: Any
    ref_model: Any
    reward_funcs: list[Any]
    _logs: dict[str, Any]
    _metrics: dict[str, Any]
    _buffered_inputs: Any
    jsonl_logger: JsonlLogger
    # class-level defaults, for a trainer that was made without __init__, as tests of TRL make theirs
    settings: OmniGRPOConfig = OFF
    shared_prefix: SharedPrefix | None = None
    image_guard = ImageGuard(None)
    reward_guard: RewardGuard | None = None
    nonfinite: NonFiniteGuard | None = None
    dummy_image: DummyImage | None = None
    dynamic_sampling: DynamicSampling | None = None
    zero_advantages = ZeroAdvantages(None)
    reference_probability: ReferenceProbability | None = None
    rollout_metrics = RolloutMetrics(None)
    step_timer = StepTimer({})
    _is_mixed = False
    _samples: Sequence[Sample] = ()
    """Of the generation batch at hand, on this rank, with their images opened."""
    _images: list[list[Any]] | None = None

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        reward_funcs: RewardFunc | Sequence[RewardFunc] | None = None,
        args: GRPOConfig | None = None,
        train_dataset: Datasets | None = None,
        eval_dataset: Datasets | DatasetDict | IterableDatasetDict | dict[str, Datasets] | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        reward_processing_classes: PreTrainedTokenizerBase | list[PreTrainedTokenizerBase] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LambdaLR | None] = (None, None),
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: PeftConfig | None = None,
        tools: list[Callable[..., object]] | None = None,
        rollout_func: RolloutFunc | None = None,
        environment_factory: EnvironmentFactory | dict[str, EnvironmentFactory] | None = None,
    ):
        args = args if args is not None else default_config(model)
        silence_upstream_noise(use_cpu=args.use_cpu)
        self.settings = settings_of(args)
        ddp_search = ddp_search_of(args)
        has_environment = environment_factory is not None
        prepared = Preparation(
            model, args, train_dataset, eval_dataset, processing_class, peft_config, tools, has_environment
        )
        prepared.apply()
        fitted = prepared.fitted_rewards(reward_funcs)
        release(model)
        with engine_for_images(self):
            super().__init__(
                model=model,
                reward_funcs=fitted,
                args=args,
                train_dataset=prepared.train_dataset,
                eval_dataset=prepared.eval_dataset,
                processing_class=prepared.processing_class,
                reward_processing_classes=reward_processing_classes,
                callbacks=callbacks,
                optimizers=optimizers,
                quantization_config=quantization_config,
                peft_config=prepared.peft_config,
                tools=tools,
                rollout_func=rollout_func,
                environment_factory=environment_factory,
            )
        self._add_collaborators()
        # TRL 1.16 would weigh each 1, also a `repetition` of weight -0.2
        weights = reward_weights(self.reward_funcs, args.reward_weights)
        if args.reward_weights is None:
            self.reward_weights = weights
        self._completions: list[Any] = []
        self._completion_ids: list[list[int]] = []
        self._rewards = torch.empty(0)
        # tools and environments can bring images into a run whose data has none
        self._is_mixed = self._is_vlm and bool(prepared.may_have_images or tools or has_environment)
        set_up_vision(self, ddp_search)
        note_vllm_dtype(self)
        self._add_callbacks()

    def _add_collaborators(self) -> None:
        settings = self.settings
        self.rollout_metrics = RolloutMetrics(self)
        self.shared_prefix = shared_prefix_of(self)
        self.dynamic_sampling = dynamic_sampling_of(self)
        self.zero_advantages = ZeroAdvantages(self)
        self.reference_probability = reference_probability_of(self)
        if settings.on_reward_error is not None:
            self.reward_guard = RewardGuard(self)
        if settings.on_nonfinite is not None:
            self.nonfinite = NonFiniteGuard(self)
            self.watchdog = Watchdog(self)
        self.image_guard = ImageGuard(self)

    def _add_callbacks(self) -> None:
        self.jsonl_logger = JsonlLogger(self.args.output_dir, self.settings.log_file_limit_mb)
        self.step_timer = StepTimer(self._metrics["train"])
        for callback in (self.jsonl_logger, RewardScaleCallback(), self.step_timer):
            self.add_callback(callback)
        replace_progress(self)

    @property
    def engine(self) -> str:
        """What runs the ranks, by the name of its file in accelerate_configs/; `cpu` stands for one process."""
        return engine_of(self)

    @property
    def _batch(self) -> SharedBatch | None:
        """The generation batch at hand, where its prompts are shared."""
        return None if self.shared_prefix is None else self.shared_prefix.batch

    # -- a run --------------------------------------------------------------------------------------------------

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: object = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train, watched where `on_nonfinite` is set: an error carries what each rank was doing."""
        refuse_early_evaluation(self, trains=True)
        plain = partial(super().train, resume_from_checkpoint, trial, ignore_keys_for_eval)
        if self.watchdog is None:
            return plain()
        with self.watchdog.watching():
            self._ping("start")
            return plain()

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """TRL's, with an error of one line where the engine cannot evaluate before `train()`."""
        refuse_early_evaluation(self)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    # -- a generation batch -------------------------------------------------------------------------------------

    def _get_dataloader(self, **kwargs: Any) -> Any:  # type: ignore[override]  # Trainer calls it by name
        dataset = kwargs["dataset"]
        if kwargs.get("is_training") and self.dynamic_sampling is not None:
            kwargs["dataset"] = IndexedSamples(dataset)
        loader: Any = super()._get_dataloader(**kwargs)
        if is_of_rows(dataset):  # accelerate 1.15 would search all values of all samples for tensors to move
            loader.device = None
        return loader

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Put the samples of a prompt side by side again after TRL has shuffled them; see `regrouped`."""
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        buffered = self._buffered_inputs
        if buffered is None or buffered is before or PROMPTS not in buffered[0]:
            return inputs
        self._buffered_inputs = regrouped(buffered)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _generate_and_score_completions(self, inputs: list[Sample]) -> dict[str, Any]:
        """With `dynamic_sampling`, a batch is generated and scored before TRL takes it."""
        if self.dynamic_sampling is not None and self.model.training:
            with self.step_timer.measure(PREPARE):
                inputs = self.dynamic_sampling.draw(inputs)
        self._open_samples(inputs)
        with self.step_timer.measure(PREPARE), no_images_gathered(self), trainable_after_reference(self.model):
            if self.shared_prefix is None:
                output = super()._generate_and_score_completions(list(self._samples))
            else:
                with self.shared_prefix.generation_batch(self._samples) as batch:
                    output = super()._generate_and_score_completions(batch.placeholder_samples)
                    output[PROMPTS] = batch.of_samples(batch.encoded)
            output = counted_by_sample(output)
        if self.image_guard.samples:
            output[SAMPLES] = list(self.image_guard.samples)
        self.image_guard.agree()
        self.rollout_metrics.log_gap(output, [n for _, n in samples_of(self._samples, self._images)])
        zero_constant_groups(self, output, self._rewards)
        if self.reference_probability is not None and self.model.training:
            self.reference_probability.low_spread.apply(output, self._rewards)
        log_images(self)
        lines = [as_json(line) for line in batch_lines(self, inputs, output["advantages"])]
        if self.jsonl_logger in self.callback_handler.callbacks:
            self.jsonl_logger.write_completions(gather_object(lines), self.state)
        if self.nonfinite is not None and self.model.training:  # no step learns from an evaluation
            self.nonfinite.remember(output, lines)
        self._samples = []
        return output

    def _open_samples(self, inputs: list[Sample]) -> None:
        """TRL 1.16 takes no mix of samples with and without images; see `mixed_samples`."""
        self._samples = inputs
        self._ping("rollout", inputs)
        with self.step_timer.measure(PREPARE):
            if not self._is_mixed and images_turn_up(self, inputs):  # in `evaluate` on another data set
                self._is_mixed, self.dummy_image = True, add_dummy_images(self)
            if self._is_vlm and not self.environment_factories:
                self._samples = mixed_samples(inputs) if self._is_mixed else text_samples(inputs)
            self.image_guard.expect(samples_of(self._samples))
        self._images = None

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, Any]:
        """Each distinct prompt once; the grid of patches tells rewards the size at which the policy sees an image."""
        shared, batch = self.shared_prefix, self._batch
        with unpadded(self.processing_class):
            found = super()._tokenize_prompts(prompts if batch is None else batch.distinct_prompts)
        prompt_ids, images, fields = found if shared is None or batch is None else shared.expand(found)
        note_resized_sizes(self._samples, fields, self.processing_class)
        return prompt_ids, images, fields

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """TRL 1.16 gives None for a sample without images; processors need an empty list.

        Replaced here, after generation: vLLM's colocate mode wants the None. Where prompts are shared there are no
        images at the end: TRL would process them again, and gather them across ranks.
        """
        if self.dynamic_sampling is not None and self.dynamic_sampling.drawn is not None:
            *before, images, tool_images = self.dynamic_sampling.drawn.generated(*self._tokenize_prompts(prompts))
        else:
            begun = perf_counter()
            with self.step_timer.measure(ROLLOUT):
                *before, images, tool_images = super()._generate(prompts)
            self.rollout_metrics.log_speed(before[1], before[2], perf_counter() - begun)
        if self._batch is not None:
            images = None
        if images is not None:
            images = self._images = [own or [] for own in images]
        if self.image_guard.tools_bring_images:
            self.image_guard.expect(samples_of(self._samples, images or [()] * len(prompts)))
        return *before, images, tool_images

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> Any:
        """One prefill for each distinct prompt where they are shared; vLLM does the same by its own prefix cache."""
        check_tool_images(self, has_tool_images)
        shared, batch = self.shared_prefix, self._batch
        prefills = shared is not None and shared.in_rollout
        if not prefills:  # a shared prefill is a forward as any other, which has the dummy image in it
            encode_before_rollout(self, multimodal_fields)
        prefill: AbstractContextManager[None] = nullcontext()
        if shared is not None and batch is not None:
            if prefills:
                multimodal_fields, prefill = batch.fields, shared.prefill(self.model)
            else:
                multimodal_fields = {} if self.use_vllm else batch.sample_fields()
        counted = self.image_guard.rollout(images, self.use_vllm, batch if prefills else None)
        gathered = nullcontext() if self.use_vllm else gathered_for_generation(self.model)
        with gathered, counted, prefill:
            return super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images=has_tool_images
            )

    def _calculate_rewards(
        self, inputs: list[Sample], prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        """Scores, unless `dynamic_sampling` has; what each reward contributes within groups goes into the log."""
        if self.dynamic_sampling is not None and self.dynamic_sampling.drawn is not None:
            rewards = self.dynamic_sampling.rewards()
        else:
            rewards = self._score(inputs, prompts, completions, completion_ids_list)
        self._completions, self._rewards = completions, rewards  # rewards: (ranks*B*G, K)
        self._completion_ids = completion_ids_list
        if self.model.training:
            log_scales(self, rewards)
        return rewards

    def _score(self, inputs: list[Sample], prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        """No reward sees what another drew on an image; what one does wrong is raised after all ranks have met."""
        if self._batch is not None:  # with their images again
            inputs, prompts = list(self._batch.samples), self._batch.prompts
        given, names = self.reward_funcs, self.reward_func_names
        with self.step_timer.measure(SCORE):
            if self.reference_probability is not None:
                inputs = self.reference_probability.given(inputs, prompts, completion_ids_list)
            functions = [with_own_images(function) for function in given]
            if self.reward_guard is not None:
                ping = partial(self._ping, samples=inputs)
                functions = self.reward_guard.wrap(functions, names, lambda name: ping(f"reward '{name}'"))
            self.reward_funcs = functions
            try:
                rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            finally:
                self.reward_funcs = given
            return rewards if self.reward_guard is None else self.reward_guard.checked(rewards, inputs)

    # -- a micro-batch ------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """With DeepSpeed, whose backward pass also takes the step, and in evaluation, ranks agree here."""
        with self.zero_advantages.loss_of(inputs) as forwarded:
            self.image_guard.expect(forwarded.get(SAMPLES, ()))
            nonfinite = self.nonfinite if model.training else None
            if nonfinite is not None:
                nonfinite.begin(forwarded)
                self._ping("training", [{"row_id": name} for name, _ in forwarded.get(SAMPLES, ())])
            shared = self.shared_prefix
            with nullcontext() if shared is None else shared.pass_of(forwarded.get(PROMPTS)):
                loss = super()._compute_loss(model, inputs)
        if nonfinite is not None:
            nonfinite.check("loss", loss)
            if self.is_deepspeed_enabled:
                nonfinite.stop_or_skip()
        if self.is_deepspeed_enabled or not model.training:
            self.image_guard.agree()
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **fields: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Packs where the samples' prompts are known; counts the images and looks for non-finite values."""
        if self.zero_advantages.leaves_out:
            settings = dict(batch_size=batch_size, compute_entropy=compute_entropy, compute_aux_loss=compute_aux_loss)
            return self.zero_advantages.log_probs(model, input_ids, attention_mask, logits_to_keep, settings, fields)
        plain = partial(
            super()._get_per_token_logps_and_entropies,
            model, input_ids, attention_mask, logits_to_keep, batch_size=batch_size,
        )  # fmt: skip
        mask = attention_mask[:, -logits_to_keep:]  # (B, C)
        shared = self.shared_prefix
        where = "reference's log-probabilities" if model is self.ref_model else "log-probabilities"
        with self.image_guard.log_probs(where, len(input_ids), batch_size, shared):
            if shared is None or shared.prompts is None:
                values, entropies, aux_loss = plain(
                    compute_entropy=compute_entropy, compute_aux_loss=compute_aux_loss, **counted_by_sample(fields)
                )
            else:
                completion_ids, aux_loss = input_ids[:, -logits_to_keep:], None
                values, entropies = shared.log_probs(model, completion_ids, mask, batch_size)
                if shared.to_verify:
                    shared.verify(model, plain, input_ids, mask, batch_size)
                entropies = entropies if compute_entropy else None
        if self.nonfinite is not None and values.requires_grad:
            self.nonfinite.check("log-probability", values, mask)
        return values, entropies, aux_loss

    # -- an optimizer step --------------------------------------------------------------------------------------

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called once a step, between the last backward pass and the optimizer: all ranks meet here."""
        if not self.is_deepspeed_enabled:
            self.image_guard.agree()
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.nonfinite is not None:
            self.nonfinite.check_gradient(norm)
            self.nonfinite.stop_or_skip()
        return norm

    # -- what a run leaves behind -------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """What TRL 1.16 logs of completions, as text, and what it does not show of them.

        wandb 0.31 ends a run whose table has content blocks, images in some prompts and none in others.
        """
        if self._is_mixed and self.log_completions:
            as_text(self._logs)
        super().log(logs, start_time)
        if self.accelerator.is_main_process and self.log_completions:
            show_completions(self.callback_handler.callbacks, self._logs, self.state.global_step)

    def create_model_card(  # type: ignore[override]  # TRL 1.16 has its own signature
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """TRL 1.16 writes None where the policy came from a folder and is in no hub; see `mend_model_card`."""
        super().create_model_card(model_name, dataset_name, tags)
        if self.is_world_process_zero():
            mend_model_card(self.args.output_dir, self.model.config)
