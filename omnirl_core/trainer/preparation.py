"""What is applied, and refused, before TRL makes the trainer: settings, data, rewards, a model trained before."""

import inspect
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate.utils import DistributedType, parse_flag_from_env
from peft import PeftConfig
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase, ProcessorMixin
from trl.trainer.utils import get_config_model_id

from omnirl_core.data import DataError
from omnirl_core.data.dataset import for_language_model, is_in_order, is_of_rows, routing
from omnirl_core.models import (
    base_model,
    has_vision,
    is_adapted,
    load_processor,
    set_pixel_budget,
    unfreeze_vision_tower,
    vision_tower,
    without_vision,
)
from omnirl_core.rewards import Reward
from omnirl_core.rewards.load import Sample, accuracy_rewards, coverage_error, used_rewards
from omnirl_core.trainer.grpo_config import OmniGRPOConfig, settings_of
from omnirl_core.trainer.multimodal import may_have_images
from omnirl_core.trainer.prompt_length import PromptLength, fit_prompts
from omnirl_core.trainer.vllm import vllm_obstacle

logger = logging.getLogger(__name__)

_WRAPPERS = ("accelerate", "torch", "trl")
"""Packages that replace a model's forward on behalf of a trainer."""


@dataclass
class Preparation:
    """A trainer's arguments, as they were given and then as its settings want them."""

    model: Any
    args: Any
    train_dataset: object
    eval_dataset: object
    processing_class: PreTrainedTokenizerBase | ProcessorMixin | None
    peft_config: PeftConfig | None
    tools: list[Callable[..., object]] | None
    has_environment: bool

    def apply(self) -> None:
        """Apply pixel budgets, prompt-length policy and frozen tower; one ValueError with all that is wrong.

        A plain GRPOConfig has none of these settings, and everything stays as it was given.
        """
        self._apply_texts()  # the steps below would meet prompts that no template of the model can render
        faults: list[str] = []
        for step in (
            self._apply_engine, self._apply_vllm, self._apply_processor, self._apply_tower, self._apply_prompts,
        ):  # fmt: skip
            try:
                step()
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("\n".join(faults))

    def fitted_rewards(self, reward_funcs: object) -> Any:
        """The rewards that the samples need; `reward_weights` of the others are left out as well."""
        fitted = fit_rewards(reward_funcs, self.train_dataset, self.eval_dataset)
        self.args.reward_weights = kept_weights(reward_funcs, fitted, self.args.reward_weights)
        return fitted

    @property
    def may_have_images(self) -> bool:
        """Whether an image can turn up in the run, as far as every rank knows the same."""
        return may_have_images(self.train_dataset) or may_have_images(self.eval_dataset)

    @property
    def _settings(self) -> OmniGRPOConfig:
        return settings_of(self.args)

    def _apply_texts(self) -> None:
        """A language model's chat template takes plain text, where a vision-language model's takes blocks.

        A curriculum is not shuffled.
        """
        if is_in_order(self.train_dataset):
            self.args.shuffle_dataset = False
        for name in ("train_dataset", "eval_dataset"):
            dataset = getattr(self, name)
            if is_of_rows(dataset) and not self._sees:
                setattr(self, name, for_language_model(dataset))

    @property
    def _sees(self) -> bool:
        if isinstance(self.model, str):
            return has_vision(self.model, self.args.trust_remote_code)
        return vision_tower(self.model) is not None

    def _apply_engine(self) -> None:
        state = self.args.distributed_state
        wants_fsdp = parse_flag_from_env("ACCELERATE_USE_FSDP")
        if wants_fsdp and state is not None and state.distributed_type == DistributedType.MULTI_CPU:
            # accelerate 1.15 shards on accelerators only, and would train plain DDP without a word
            raise ValueError(
                "FSDP is asked for on CPUs, where accelerate does not start it; launch with "
                "accelerate_configs/ddp.yaml or zero3.yaml"
            )

    def _apply_vllm(self) -> None:
        if not (self.args.use_vllm and self._sees and self.may_have_images):
            return
        if obstacle := vllm_obstacle(self._config):
            raise ValueError(obstacle)
        settings = self._settings
        budget = {name: value for name in ("min_pixels", "max_pixels") if (value := getattr(settings, name))}
        if budget and self.args.vllm_mode == "server":
            # vLLM 0.31 takes none with a request, unless it is told to trust its clients
            logger.warning(
                "use_vllm: the server has to size images as this run does; start it with --mm-processor-kwargs '%s'",
                json.dumps(budget),
            )

    @property
    def _config(self) -> PretrainedConfig:
        if isinstance(self.model, str):
            return AutoConfig.from_pretrained(self.model, trust_remote_code=self.args.trust_remote_code)
        return cast(PretrainedConfig, base_model(self.model).config)

    def _apply_processor(self) -> None:
        low, high = self._settings.min_pixels, self._settings.max_pixels
        wanted = low or high or self._settings.max_prompt_length
        if wanted and self.processing_class is None:
            # the same call as TRL 1.16 makes after loading the model
            kwargs = {
                "revision": (self.args.model_init_kwargs or {}).get("revision"),
                "trust_remote_code": self.args.trust_remote_code,
            }
            self.processing_class = load_processor(self._model_path, **kwargs)
        set_pixel_budget(self.processing_class, low, high)

    def _apply_tower(self) -> None:
        if not self._settings.freeze_vision_tower:
            return
        if not self._sees:
            raise ValueError(f"freeze_vision_tower: {self._model_path} has no vision tower; remove the setting")
        if self.peft_config is not None:
            self.peft_config = without_vision(self.peft_config)

    def _apply_prompts(self) -> None:
        limit = self._settings.max_prompt_length
        if limit is None or self.processing_class is None:
            return
        if self.has_environment:
            raise ValueError("max_prompt_length: prompts that an environment makes cannot be measured beforehand")
        template_kwargs = self.args.chat_template_kwargs or {}
        length = PromptLength(self.processing_class, template_kwargs, self.tools)
        policy = self._settings.on_long_prompt
        self.train_dataset = fit_prompts(self.train_dataset, length, limit, policy)
        self.eval_dataset = fit_prompts(self.eval_dataset, length, limit, policy, "eval")

    @property
    def _model_path(self) -> str:
        return self.model if isinstance(self.model, str) else get_config_model_id(self.model.config)


def fit_rewards(reward_funcs: Any, train_dataset: object, eval_dataset: object = None) -> object:
    """The rewards that the samples need: without those for samples that name no task, where there are none.

    Looks at data sets of `load_dataset` and rewards of `load_rewards`; all else is given back as it is.

    Raises:
        DataError: some samples have no reward that judges their answer.
    """
    rewards = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    if not rewards or not is_of_rows(train_dataset) or not all(isinstance(one, Reward) for one in rewards):
        return reward_funcs
    samples = [Sample(*row) for row in routing(train_dataset)]
    if error := coverage_error(samples, rewards):
        raise DataError(error)
    if not accuracy_rewards(rewards):
        names = ", ".join(one.name for one in rewards)
        logger.warning("no reward judges whether an answer is right, only how it is written: %s", names)
    tasks = {one.task for one in samples}
    if is_of_rows(eval_dataset):
        tasks |= {task for _, task, *_ in routing(eval_dataset)}
    return used_rewards(rewards, tasks)


def reward_weights(reward_funcs: Sequence[object], given: Sequence[float] | None) -> torch.Tensor:
    """(K,) `given` where it is, else each `Reward`'s own weight and 1 for other functions.

    Logs where a given weight differs from one that a reward was given itself (its default is 1).
    """
    own = [one.weight if isinstance(one, Reward) else 1.0 for one in reward_funcs]
    if given is None:
        return torch.tensor(own, dtype=torch.float32)
    weighted = [
        f"{one.name} {weight:g} (its own {one.weight:g})"
        for one, weight in zip(reward_funcs, given, strict=False)
        if isinstance(one, Reward) and one.weight not in (1.0, weight)
    ]
    if weighted and all(isinstance(one, Reward) for one in reward_funcs):
        logger.warning("reward_weights overrides the rewards' own weights: %s", ", ".join(weighted))
    return torch.tensor(list(given), dtype=torch.float32)


def kept_weights(reward_funcs: object, fitted: object, given: list[float] | None) -> list[float] | None:
    """`given` without the weights of the rewards that `fit_rewards` left out."""
    if given is None or not isinstance(reward_funcs, list) or len(given) != len(reward_funcs):
        return given
    kept = {id(one) for one in fitted} if isinstance(fitted, list) else set()
    return [weight for one, weight in zip(reward_funcs, given, strict=True) if id(one) in kept]


def release(model: object) -> None:
    """Undo what an earlier trainer left on the model; nothing is done to a model that none has had, or to a path.

    Its wrappers around `forward` would stay: autocast of a run in bf16 in one in float32, and, in a copy of the
    model, TRL's fused head, whose plain forward is that of the model it was made on. The vision tower trains again
    where the earlier trainer froze it (`freeze_vision_tower`).
    """
    if not isinstance(model, nn.Module):
        return
    for module in {id(m): m for m in (model, base_model(model))}.values():
        _unwrap_forward(module)
    unfreeze_vision_tower(model, is_adapted(model))


def _unwrap_forward(module: nn.Module) -> None:
    own = vars(module).get("forward")
    if own is not None and _is_wrapped_by_trainer(own, type(module).forward):
        del module.forward
        vars(module).pop("_original_forward", None)  # accelerate's note of it


def _is_wrapped_by_trainer(forward: Any, plain: Any) -> bool:
    """Whether nothing but a trainer's wrappers lies around the class's own forward."""
    function = getattr(forward, "__func__", forward)
    while function is not plain:
        if _module(function).partition(".")[0] not in _WRAPPERS:
            return False
        inner = None
        if inspect.isfunction(function):  # TRL 1.16's fused head names the class's forward as what it wraps
            inner = inspect.getclosurevars(function).nonlocals.get("original_forward")
        inner = getattr(function, "__wrapped__", None) if inner is None else inner
        function = getattr(inner, "__func__", inner)
    return True


def _module(function: Any) -> str:
    """Where a function, or a callable object, is written; `__module__` is that of what it wraps."""
    if inspect.isfunction(function):
        return str(function.__globals__["__name__"])
    return type(function).__module__
