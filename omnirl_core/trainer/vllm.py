"""Images on their way to vLLM: what TRL 1.16 leaves out between the trainer's prompts and the engine's.

TRL hands vLLM prompts whose image tokens are already expanded, keeps encoded images over a change of weights, says
nothing of the run's pixel budget, and does not look at the prompts that come back.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from torch import nn
from transformers import PretrainedConfig
from trl.extras.profiling import ProfilingContext
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from omnirl_core.models import base_model
from omnirl_core.trainer.fault_tolerance.image_guard import ImageMismatchError, samples_of
from omnirl_core.types import ModelInputs, Sample

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

logger = logging.getLogger(__name__)

_LANGUAGE = ("language_model.", "lm_head.", "embed_tokens.")


@contextmanager
def engine_for_images(trainer: "OmniGRPOTrainer") -> Iterator[None]:
    """While it lasts, TRL makes its vLLM engine as an `ImageVLLM`; a class that is not TRL's own stays."""
    module: Any = grpo_trainer
    given = module.VLLMGeneration
    if given is VLLMGeneration:
        module.VLLMGeneration = partial(ImageVLLM, samples=lambda: trainer._samples)
    try:
        yield
    finally:
        module.VLLMGeneration = given


class ImageVLLM(VLLMGeneration):
    """TRL's rollout by vLLM, colocate or server, for prompts with any number of images.

    Args:
        samples: gives the samples of the batch at hand on this rank, whose names errors carry.
        settings: of `trl.generation.vllm_generation.VLLMGeneration`.
    """

    def __init__(self, *, samples: Callable[[], Sequence[Sample]], **settings: Any):
        self._samples = samples
        self._names: list[str] = []
        """Of the prompts at hand; in server mode of every rank's, each once."""
        self._place = 0
        self._has_synced = False
        super().__init__(**settings)

    def _init_vllm(self) -> None:
        module: Any = vllm_generation
        given = getattr(module, "LLM", None)  # TRL 1.16 makes it, and has no way to hand it further arguments
        if given is not None:
            module.LLM = partial(given, **engine_settings(self))
        try:
            super()._init_vllm()
        finally:
            if given is not None:
                module.LLM = given

    def sync_weights(self) -> None:
        """TRL 1.16 resets the prefix cache only; an image would keep the features of the weights before."""
        super().sync_weights()
        if not self._has_synced or not images_stay_encoded(self.model):
            self.reset_encoder_cache()
        self._has_synced = True

    def reset_encoder_cache(self) -> None:
        """Have each image encoded anew where it next occurs."""
        if self.mode == "colocate":
            self.llm.llm_engine.reset_encoder_cache()
        elif self.accelerator.is_main_process:
            url = f"{self.vllm_client.base_url}/reset_encoder_cache"
            response = self.vllm_client.session.post(url)
            if response.status_code != 200:
                raise RuntimeError(
                    f"{url} answered {response.status_code}, so that the server would answer from images as earlier "
                    "weights encoded them; start it with VLLM_SERVER_DEV_MODE=1, or set freeze_vision_tower: true"
                )

    def generate(
        self,
        prompts: list[list[int]],
        images: list[list[Any] | None] | None,
        num_generations: int,
        profiler: ProfilingContext | None = None,
    ) -> tuple[object, ...]:
        """As TRL's, with `prompts` as the trainer has them: image tokens expanded.

        Raises:
            ImageMismatchError: vLLM had other prompts than the trainer; names the sample and both lengths.
        """
        names = self._names = self._names_of(len(prompts))
        asked = prompts
        if self.mode == "colocate":
            images = None if images is None else [own or None for own in images]
            asked = self._collapsed(prompts, images, names)
        else:
            self._names, self._place = gather_object(names)[::num_generations], 0
        answered, *rest = super().generate(asked, images, num_generations, profiler)
        for name, ours, theirs in zip(names, prompts, answered, strict=True):
            if list(theirs) != list(ours):
                raise ImageMismatchError(_difference(name, len(ours), len(theirs), "tokens"))
        return prompts, *rest

    def _collapsed(self, prompts: list[list[int]], images: list[Any] | None, names: list[str]) -> list[list[int]]:
        token = getattr(self.processing_class, "image_token_id", None)
        if token is None:
            return prompts
        for name, ids, own in zip(names, prompts, images or [None] * len(prompts), strict=True):
            lengths = image_runs(ids, token)
            if len(lengths) != len(own or ()):
                raise ImageMismatchError(
                    f"rollout by vLLM: the prompt of sample {name} has {len(lengths)} runs of image tokens and the "
                    f"sample {len(own or ())} images; give each image one place in the prompt"
                )
        return [collapsed(ids, token) for ids in prompts]

    def _place_features(self, features: Any, prompt_ids: list[int]) -> Any:
        """TRL 1.16 puts the server's features where the trainer's image tokens are, also where these are fewer."""
        name = self._names[self._place]
        self._place += 1
        if features is not None:
            theirs = [int(place["length"]) for place in features["mm_placeholders"]["image"]]
            processor: Any = self.processing_class
            ours = image_runs(prompt_ids, processor.image_token_id)
            if theirs != ours:
                raise ImageMismatchError(_difference(name, sum(ours), sum(theirs), "image tokens"))
        return super()._place_features(features, prompt_ids)

    def _names_of(self, n_prompts: int) -> list[str]:
        samples = self._samples()
        if len(samples) == n_prompts:
            return [name for name, _ in samples_of(samples)]
        return [f"{i} of the batch" for i in range(n_prompts)]  # a later turn of some samples


def engine_settings(generation: VLLMGeneration) -> ModelInputs:
    """Arguments of `vllm.LLM` that TRL 1.16 leaves to their defaults.

    The policy's dtype: by default vLLM takes bfloat16 for a checkpoint in float32. The pixel budget, where there is
    one. No videos, for which vLLM would set memory aside.
    """
    settings: dict[str, Any] = {"dtype": compute_dtype(generation)}
    if budget := pixel_budget(generation.processing_class):
        settings |= {"mm_processor_kwargs": budget, "limit_mm_per_prompt": {"video": 0}}
    return settings


def pixel_budget(processor: object) -> dict[str, int]:
    """`min_pixels` and `max_pixels` of a processor as the run has set them; {} where a family has none."""
    size = getattr(getattr(processor, "image_processor", None), "size", None) or {}
    names = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
    return {name: size[edge] for name, edge in names.items()} if all(size.get(e) for e in names.values()) else {}


def images_stay_encoded(model: nn.Module) -> bool:
    """Whether nothing that turns an image into features is trained: neither a tower nor what follows it."""
    trained = (name for name, parameter in base_model(model).named_parameters() if parameter.requires_grad)
    return all(any(part in name for part in _LANGUAGE) for name in trained)


def _difference(name: str, ours: int, theirs: int, unit: str) -> str:
    return (
        f"rollout by vLLM: the prompt of sample {name} has {ours} {unit} in the trainer and {theirs} in vLLM"
        f"{', which differ' if ours == theirs else ''}; the run stops before it learns from answers to another prompt. "
        "Both sides need the same checkpoint, processor, min_pixels and max_pixels (docs/vllm.md)"
    )


def image_runs(ids: Sequence[int], token: int) -> list[int]:
    """Lengths of the runs of the image token.

    >>> image_runs([5, 9, 9, 9, 6, 9], 9)
    [3, 1]
    """
    return [len(list(run)) for value, run in groupby(ids) if value == token]


def collapsed(ids: Sequence[int], token: int) -> list[int]:
    """The prompt with one image token for each run, as vLLM expands it.

    >>> collapsed([5, 9, 9, 9, 6, 9], 9)
    [5, 9, 6, 9]
    """
    return [value for i, value in enumerate(ids) if value != token or i == 0 or ids[i - 1] != token]


_AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}


def compute_dtype(trainer: "OmniGRPOTrainer | VLLMGeneration") -> str:
    """The dtype that the trainer's own pass computes in: the autocast's where there is one, else the weights'."""
    return _AUTOCAST.get(trainer.accelerator.mixed_precision) or _name(trainer.model.dtype)


def note_vllm_dtype(trainer: "OmniGRPOTrainer") -> None:
    """Log both dtypes of a trainer that TRL has made; nothing without vLLM, or where it does not tell its own.

    A colocated engine is made in the policy's. A server has been started in one, by default the checkpoint's; in
    bfloat16 beside a policy in float32, importance ratios are .96 to 1.07 instead of 1.
    """
    if not trainer.use_vllm or not trainer.accelerator.is_main_process:
        return
    engine, policy = _engine_dtype(trainer.vllm_generation), compute_dtype(trainer)
    if engine is None:
        return
    where = "server" if trainer.vllm_mode == "server" else "engine"
    if engine != policy:
        fix = "start it with --dtype" if where == "server" else "have both compute in"
        logger.warning(
            "use_vllm: the %s computes in %s and the policy in %s, so that their log-probabilities differ; %s %s",
            where, engine, policy, fix, policy,
        )  # fmt: skip
        return
    logger.info("use_vllm: the %s computes in %s, as the policy does", where, engine)
    if engine == "float32" and not trainer.args.use_cpu:
        logger.warning(
            "use_vllm: %s and policy compute in float32, at twice the memory of bfloat16; set bf16: true", where
        )


def _engine_dtype(generation: Any) -> str | None:
    llm = getattr(generation, "llm", None)
    if llm is not None:
        return _name(llm.model_config.dtype)
    client = getattr(generation, "vllm_client", None)
    found = None if client is None else client.get_server_info()["model_config"].get("dtype")
    return None if found is None else _name(found)


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Values of `model_type` whose images vLLM 0.31 was seen to answer as transformers does."""


def vllm_obstacle(config: PretrainedConfig) -> str | None:
    """Why images of a model with this configuration cannot go to vLLM; None where they can.

    >>> from transformers import Gemma3Config, Qwen2_5_VLConfig
    >>> vllm_obstacle(Qwen2_5_VLConfig()), vllm_obstacle(Gemma3Config())[:31]
    (None, 'use_vllm: true with images of g')
    """
    model_type = config.model_type
    if model_type == "qwen3_vl" and not config.text_config.rope_parameters.get("mrope_interleaved"):
        # transformers 5.24 interleaves whatever the configuration says, vLLM 0.31 where it says so
        return (
            "use_vllm: true with images: vLLM would place them otherwise than transformers; set use_vllm: false, or "
            "mrope_interleaved: true in rope_parameters of its text configuration, as Qwen's checkpoints have it"
        )
    if model_type in FAMILIES:
        return None
    return (
        f"use_vllm: true with images of {model_type}: vLLM was not seen to answer them as transformers does, "
        f"only those of {', '.join(FAMILIES)}; set use_vllm: false"
    )
