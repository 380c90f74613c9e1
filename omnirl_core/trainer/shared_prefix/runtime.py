"""Every prompt encoded once a group, in the rollout, in scoring and in training: what a run holds for it."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl.data_utils import prepare_multimodal_messages

from omnirl_core.models import base_model, counts_of_rows, image_rows
from omnirl_core.trainer.multimodal import convert_blocks, images_of
from omnirl_core.trainer.shared_prefix.packing import Prompt, encode_prompts, pack, packed_log_probs, rows_by_prompt
from omnirl_core.trainer.shared_prefix.rollout import shared_prefill
from omnirl_core.trainer.shared_prefix.support import rollout_obstacle, take_packs, training_obstacle
from omnirl_core.types import Message, ModelInputs, Sample, Settings

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

T = TypeVar("T")

logger = logging.getLogger(__name__)

PROMPTS = "shared_prompts"
"""Key of the prompts, one object a group, in what TRL buffers between rollout and training."""


@dataclass
class SharedBatch:
    """Samples of a rank, each distinct prompt with its images once.

    TRL 1.16 carries images in every sample: it copies, processes (twice), gathers and stores them G times. So it is
    shown `placeholder_samples`, and the images wait here until the model needs them.
    """

    samples: Sequence[Sample]
    prompts: list[str | list[Message]] = field(init=False)
    """Of each sample, with the images in their blocks, as TRL gives them to rewards."""
    prompt_of_sample: list[int] = field(init=False)
    """Numbers of the distinct prompts, in the order of their first samples."""
    encoded: list[Prompt] = field(default_factory=list)
    """The distinct prompts, once they are tokenized."""
    fields: Settings = field(default_factory=dict)
    """What the processor gave for them besides token ids."""

    def __post_init__(self) -> None:
        with_images = ((sample["prompt"], images_of(sample)) for sample in self.samples)
        self.prompts = [prepare_multimodal_messages(p, images=own) if own else p for p, own in with_images]
        is_new = (not _is_same(prompt, before) for before, prompt in pairwise(self.prompts))
        self.prompt_of_sample = list(accumulate(is_new, initial=0))

    @property
    def placeholder_samples(self) -> list[Sample]:
        """The samples without images; in their prompts, one object a group, blocks that say where images go."""
        hidden = [
            {key: value for key, value in sample.items() if key not in ("image", "images")} for sample in self.samples
        ]
        distinct = [p if isinstance(p, str) else convert_blocks(p, _placeholder) for p in self.distinct_prompts]
        return [sample | {"prompt": p} for sample, p in zip(hidden, self.of_samples(distinct), strict=True)]

    @property
    def distinct_prompts(self) -> list[str | list[Message]]:
        return self.first_of_each(self.prompts)

    def first_of_each(self, values: Sequence[T]) -> list[T]:
        """Values of samples, of the first sample of each distinct prompt."""
        first = [self.prompt_of_sample.index(i) for i in range(self.prompt_of_sample[-1] + 1)]
        return [values[sample] for sample in first]

    def of_samples(self, values: Sequence[T]) -> list[T]:
        """Values of the distinct prompts, for every sample."""
        return [values[i] for i in self.prompt_of_sample]

    def sample_fields(self) -> ModelInputs:
        """`fields` as the processor would give them for all samples."""
        prompts = self.of_samples(self.encoded)
        fields: dict[str, Any] = {**image_rows([prompt.images for prompt in prompts])}
        name = prompts[0].types_name
        if self.fields.get(name) is not None:
            fields[name] = self.of_samples(self.fields[name])
        return fields


def _placeholder(block: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "image"} if block.get("type") == "image" else block


def _is_same(prompt: Any, other: Any) -> bool:
    """Words and images: images opened once are one object, others are compared by every pixel."""
    try:
        return bool(prompt == other)
    except (ValueError, RuntimeError):  # arrays and tensors compare item by item
        return False


class SharedPrefix:
    """The shared prompts of a run: each is a `Prompt`, processed once, that travels with its samples.

    Args:
        trainer: OmniGRPOTrainer; with `verify_shared_prefix` the first pass is compared with TRL's own.
        in_rollout: the rollout shares prompts too, not only the log-probability passes.
    """

    def __init__(self, trainer: "OmniGRPOTrainer", in_rollout: bool):
        self._trainer, self._policy = trainer, trainer.model  # unwrapped, as it is now
        self.in_rollout = in_rollout
        self.to_verify = trainer.settings.verify_shared_prefix
        self._reference_backbone: Any = None
        self.batch: SharedBatch | None = None
        """Of the generation batch at hand."""
        self.prompts: list[Prompt] | None = None
        """Of the samples in the pass at hand."""

    @contextmanager
    def generation_batch(self, samples: Sequence[Sample]) -> Iterator[SharedBatch]:
        """A batch whose images are hidden from TRL while it lasts."""
        self.batch = SharedBatch(samples)
        try:
            yield self.batch
        finally:
            self.batch = self.prompts = None

    @contextmanager
    def pass_of(self, prompts: list[Prompt] | None) -> Iterator[None]:
        """A forward pass over samples with these prompts."""
        self.prompts = prompts
        try:
            yield
        finally:
            self.prompts = None

    def expand(
        self, tokenized: tuple[list[list[int]], Sequence[Sequence[object] | None] | None, ModelInputs]
    ) -> tuple[list[list[int]], list[Sequence[object] | None] | None, ModelInputs]:
        """The batch's distinct prompts, as tokenized, for all samples.

        Fields of images are for all samples; the rollout takes them from the prompts.
        """
        assert self.batch is not None
        token_ids, images, fields = tokenized
        batch, images = self.batch, images or [None] * len(token_ids)
        n_images = [len(own or ()) for own in images]
        backbone, device = self.backbone(self._policy), self._trainer.accelerator.device
        batch.encoded = encode_prompts(backbone, token_ids, fields, n_images, device)
        batch.fields = fields
        self.prompts = batch.of_samples(batch.encoded)
        grids = [prompt.images["image_grid_thw"] for prompt in self.prompts if "image_grid_thw" in prompt.images]
        return (
            batch.of_samples(token_ids),
            batch.of_samples(images) if any(n_images) else None,
            {"image_grid_thw": torch.cat(grids)} if grids else {},
        )

    def prefill(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """While it lasts, `model.generate` runs each distinct prompt of the batch once."""
        assert self.batch is not None
        return shared_prefill(model, self.batch.prompt_of_sample)

    def log_probs(
        self, model: nn.Module, completion_ids: Tensor, completion_mask: Tensor, batch_size: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities and entropies, (B, C), of packs of at most `batch_size` completions.

        A group that is larger is split over packs, each with the prompt. So no forward has more tokens than the largest
        of TRL's, `batch_size` samples of the longest prompt and the longest completion.
        """
        assert self.prompts is not None
        backbone, n_samples = self.backbone(model), len(completion_ids)
        chunk = batch_size or n_samples
        found = []
        for start in range(0, n_samples, chunk):
            part = slice(start, start + chunk)
            packed = pack(self.prompts[part], completion_ids[part], completion_mask[part])
            with self._trainer.accelerator.autocast():
                found.append(packed_log_probs(model, backbone, packed))
        entropies = [entropy for _, entropy in found if entropy is not None]
        return torch.cat([values for values, _ in found]), torch.cat(entropies) if entropies else None

    def verify(
        self,
        model: nn.Module,
        plain: Callable[..., tuple[Tensor, object, object]],
        input_ids: Tensor,
        completion_mask: Tensor,
        batch_size: int | None,
    ) -> None:
        """ValueError on all ranks where the pass at hand differs from TRL's own, `plain`.

        Both passes are run anew without dropout, LoRA's included, whose draws no two passes share.
        """
        assert self.prompts is not None
        self.to_verify = False
        n_tokens = completion_mask.shape[1]
        fields = plain_fields(self.prompts, input_ids.shape[1], n_tokens)
        with torch.no_grad(), without_dropout(model):
            completion_ids = input_ids[:, -n_tokens:]
            shared, _ = self.log_probs(model, completion_ids, completion_mask, batch_size)
            expected, _, _ = plain(**fields)
        scored = completion_mask.bool()
        own = (expected - shared)[scored].abs().mean() if scored.any() else shared.new_zeros(())
        difference = self._trainer.accelerator.gather(own.float().reshape(1)).max().item()  # NaN if a rank's is
        args = self._trainer.args
        is_half = args.bf16 or args.fp16 or self._policy.dtype != torch.float32
        limit = 0.1 if is_half else 1e-4
        if not difference <= limit:
            raise ValueError(
                f"shared_prefix: log-probabilities are {difference:.2g} from the plain path's in the mean, above "
                f"{limit:g}; set shared_prefix: off, and please report the model"
            )
        logger.info("shared_prefix: log-probabilities equal the plain path's within %.1e", difference)

    def backbone(self, model: Any) -> Any:
        """What `packed_log_probs` takes beside a model.

        Accelerate's `unwrap_model` walks through all modules, which takes as long as a decoding step."""
        if self._trainer.ref_model is None or model is not self._trainer.ref_model:
            return base_model(self._policy).base_model
        if self._reference_backbone is None:
            self._reference_backbone = base_model(self._trainer.accelerator.unwrap_model(model)).base_model
        return self._reference_backbone


def shared_prefix_of(trainer: "OmniGRPOTrainer") -> SharedPrefix | None:
    """None where `shared_prefix` is off, or `auto` and the run is not one that was verified; says so once.

    Raises:
        ValueError: `shared_prefix: on`, and the run cannot.
    """
    settings = trainer.settings
    if settings.shared_prefix == "off":
        return None
    obstacle = training_obstacle(trainer)
    if obstacle is not None:
        if settings.shared_prefix == "on":
            raise ValueError(f"shared_prefix: on, but {obstacle}; set shared_prefix: auto or off")
        _say_fallback(trainer, "rollout and log-probabilities fall", obstacle)
        return None
    rollout = rollout_obstacle(trainer)
    if rollout is not None and not (trainer.use_vllm or trainer.use_transformers_continuous_batching):
        _say_fallback(trainer, "the rollout falls", rollout)
    where = "rollout and log-probabilities" if rollout is None else f"log-probabilities; {rollout}"
    config: Any = base_model(trainer.model).config
    take_packs(config.get_text_config()._attn_implementation)
    logger.info("shared_prefix: prompts of a group run once (%s), %s is verified", where, config.model_type)
    return SharedPrefix(trainer, rollout is None)


def _say_fallback(trainer: "OmniGRPOTrainer", what: str, obstacle: str) -> None:
    if trainer.accelerator.is_main_process:
        logger.warning("shared_prefix: %s back to one prompt for each completion, because %s", what, obstacle)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """The model as it is in evaluation."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def plain_fields(prompts: Sequence[Prompt], n_tokens: int, n_completion_tokens: int) -> ModelInputs:
    """The images of samples as TRL's own pass takes them."""
    if not any(prompt.images for prompt in prompts):
        return {}
    types = torch.zeros(len(prompts), n_tokens, dtype=torch.long, device=prompts[0].token_ids.device)
    end = n_tokens - n_completion_tokens
    for row, prompt in enumerate(prompts):
        if prompt.token_types is not None:
            types[row, end - len(prompt) : end] = prompt.token_types
    images, n_images = [prompt.images for prompt in prompts], [prompt.n_images for prompt in prompts]
    fields: dict[str, Any] = {**image_rows(images), **counts_of_rows(images, n_images)}
    if prompts[0].token_types is not None:
        fields[prompts[0].types_name] = types
    return fields


def regrouped(batches: Sequence[Settings]) -> list[ModelInputs]:
    """The micro-batches of a generation batch with the samples of each prompt side by side.

    TRL has shuffled the samples; the groups follow in the order of their first samples, which is as random. It is the
    same objective: a step that covers the whole generation batch sums over all samples in any order. Where a
    generation batch serves several steps, each sample is as likely as before to be in any of them, groups being of
    one size, so each step's gradient has the same expectation. (A loss that divides by the tokens of its
    micro-batch, `bnpo`, depends on which samples share it, as with TRL's shuffle.) Random numbers are drawn as before.
    """
    prompts = [prompt for batch in batches for prompt in batch[PROMPTS]]
    order = [row for rows in rows_by_prompt(prompts).values() for row in rows]
    sizes = [len(batch[PROMPTS]) for batch in batches]
    result: list[dict[str, Any]] = [{} for _ in batches]
    for key in batches[0]:
        parts = _reordered([batch[key] for batch in batches], order, sizes)
        for batch, part in zip(result, parts, strict=True):
            batch[key] = part
    return result


def _reordered(values: list[Any], order: list[int], sizes: list[int]) -> list[Any]:
    """One key of all micro-batches: tensors and lists with a value a sample, anything else as it is."""
    if isinstance(values[0], list):
        joined = [value for part in values for value in part]
        ordered = iter([joined[row] for row in order])
        return [[next(ordered) for _ in range(size)] for size in sizes]
    if isinstance(values[0], Tensor) and values[0].ndim:
        return list(torch.cat(values)[torch.tensor(order, device=values[0].device)].split(sizes))
    return values
