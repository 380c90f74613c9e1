"""TRL's GRPOTrainer with every prompt encoded once a group: in the rollout, in scoring and in training."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

from omnirl_core.models import base_model
from omnirl_core.trainer.multimodal import counted_by_row
from omnirl_core.trainer.shared_prefix.packing import Prompt, encode_prompts, pack, packed_log_probs
from omnirl_core.trainer.shared_prefix.prompts import SharedRows, picture_tensors
from omnirl_core.trainer.shared_prefix.rollout import shared_prefill
from omnirl_core.trainer.shared_prefix.support import rollout_obstacle, training_obstacle

logger = logging.getLogger(__name__)

PROMPTS = "shared_prompts"
"""Key of the prompts, one object a group, in what TRL buffers between rollout and training."""


class SharedPrefixTrainer(GRPOTrainer):
    """`OmniGRPOTrainer`'s layer above TRL; with `shared_prefix: off`, or in plain GRPOConfig, it does nothing.

    TRL sees rows whose pictures are placeholders; each distinct prompt is a `Prompt`, processed once, that travels
    with its rows. tests/trainer/test_shared_prefix_seams.py holds the signatures of what is overridden.
    """

    args: Any
    model: Any
    _buffered_inputs: Any
    num_generations: int
    # what a trainer has that was made without __init__, as some tests of TRL make theirs
    _shares = _shares_rollout = _to_verify = False
    _reference: Any = None
    _shared_rows: SharedRows | None = None
    _prompts: list[Prompt] | None = None
    """Of the rows in the pass at hand."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._shares, self._shares_rollout = self._choose_paths()
        self._to_verify = self._shares and self.args.verify_shared_prefix

    def _choose_paths(self) -> tuple[bool, bool]:
        """Whether prefixes are shared in the log-probability passes, and in the rollout; says so once."""
        setting = getattr(self.args, "shared_prefix", "off")
        if setting == "off":
            return False, False
        obstacle = training_obstacle(self)
        if obstacle is not None:
            if setting == "on":
                raise ValueError(f"shared_prefix: on, but {obstacle}; set shared_prefix: auto or off")
            logger.info("shared_prefix: every completion runs its own prompt, because %s", obstacle)
            return False, False
        rollout = rollout_obstacle(self)
        where = "rollout and log-probabilities" if rollout is None else f"log-probabilities; {rollout}"
        family = getattr(base_model(self.model).config, "model_type", "")
        logger.info("shared_prefix: prompts of a group run once (%s), %s is verified", where, family)
        return True, rollout is None

    # -- one generation batch -----------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[Any]) -> dict[str, Any]:
        """Hides the pictures from TRL, and adds each row's prompt to what it buffers."""
        if not self._shares:
            return super()._generate_and_score_completions(inputs)
        self._shared_rows = SharedRows(inputs)
        try:
            output = super()._generate_and_score_completions(self._shared_rows.placeholder_rows)
            output[PROMPTS] = self._shared_rows.of_rows(self._shared_rows.encoded)
        finally:
            self._shared_rows = self._prompts = None
        return output

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, Any]:
        """Each distinct prompt once. Fields of pictures are for all rows; the rollout takes them from the prompts."""
        shared = self._shared_rows
        if shared is None:
            return super()._tokenize_prompts(prompts)
        token_ids, images, fields = super()._tokenize_prompts(shared.distinct_prompts)
        images = images or [None] * len(token_ids)
        n_images = [len(pictures or ()) for pictures in images]
        backbone, device = self._backbone(self.model), self.accelerator.device
        shared.encoded, shared.fields = encode_prompts(backbone, token_ids, fields, n_images, device), fields
        self._prompts = shared.of_rows(shared.encoded)
        grids = [
            prompt.images["image_grid_thw"] for prompt in self._prompts if "image_grid_thw" in prompt.images
        ]
        return (
            shared.of_rows(token_ids),
            shared.of_rows(images) if any(n_images) else None,
            {"image_grid_thw": torch.cat(grids)} if grids else {},
        )

    def _generate_single_turn(
        self,
        prompt_ids: Any,
        images: Any,
        multimodal_fields: Any,
        num_generations: int,
        has_tool_images: bool = False,
    ) -> Any:
        """One prefill for each distinct prompt; vLLM does the same by its own prefix cache."""
        shared = self._shared_rows
        if shared is None:
            return super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images=has_tool_images
            )
        if not self._shares_rollout:
            fields = {} if self.use_vllm else shared.row_fields()
            return super()._generate_single_turn(prompt_ids, images, fields, num_generations)
        with shared_prefill(self.model, shared.prompt_of_row):
            return super()._generate_single_turn(prompt_ids, images, shared.fields, num_generations)

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """Without the pictures at the end: TRL would process them again, and gather them across ranks."""
        *before, images, tool_images = super()._generate(prompts)
        return *before, (images if self._shared_rows is None else None), tool_images

    def _calculate_rewards(
        self, inputs: list[Any], prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        """Rewards see rows and prompts with their pictures."""
        if self._shared_rows is not None:
            inputs, prompts = list(self._shared_rows.rows), self._shared_rows.prompts
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    # -- micro-batches ------------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Puts the rows of a prompt side by side again after TRL has shuffled them; see `regrouped`."""
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        buffered = self._buffered_inputs
        if buffered is None or buffered is before or PROMPTS not in buffered[0]:
            return inputs
        self._buffered_inputs = regrouped(buffered)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Tells the pass below which prompts its rows have."""
        self._prompts = inputs.get(PROMPTS)
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._prompts = None

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
        """Packs where the rows' prompts are known."""
        prompts = self._prompts
        if prompts is None:
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
                **counted_by_row(fields),
            )
        completions = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:]
        values, entropies = self._packed_pass(model, prompts, *completions, batch_size)
        if self._to_verify:
            self._to_verify = False
            self._verify(model, prompts, input_ids, attention_mask, logits_to_keep, batch_size)
        return values, entropies if compute_entropy else None, None

    def _packed_pass(
        self,
        model: Any,
        prompts: Sequence[Prompt],
        completion_ids: Tensor,
        completion_mask: Tensor,
        batch_size: int | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities and entropies, (B, C), of packs of at most `batch_size` completions.

        A group that is larger is split over packs, each with the prompt. So no forward has more tokens than the largest
        of TRL's, `batch_size` rows of the longest prompt and the longest completion.
        """
        n_rows = len(completion_ids)
        chunk = batch_size or n_rows
        found = []
        for start in range(0, n_rows, chunk):
            rows = slice(start, start + chunk)
            packed = pack(prompts[rows], completion_ids[rows], completion_mask[rows])
            with self.accelerator.autocast():
                found.append(packed_log_probs(model, self._backbone(model), packed))
        entropies = [entropy for _, entropy in found if entropy is not None]
        return torch.cat([values for values, _ in found]), torch.cat(entropies) if entropies else None

    def _backbone(self, model: Any) -> Any:
        """Of the policy, which `self.model` holds unwrapped, or of the reference model.

        Accelerate's `unwrap_model` walks through all modules, which takes as long as a decoding step.
        """
        if self.ref_model is None or model is not self.ref_model:
            return base_model(self.model).base_model
        if self._reference is None:
            self._reference = base_model(self.accelerator.unwrap_model(model)).base_model
        return self._reference

    # -- the plain path, to compare with ------------------------------------------------------------------------

    def _verify(
        self,
        model: Any,
        prompts: Sequence[Prompt],
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None,
    ) -> None:
        """`verify_shared_prefix`: a ValueError on all ranks where the first pass of a run differs from the plain one.

        Both passes are run anew without dropout, LoRA's included, whose draws no two passes share.
        """
        fields = plain_fields(prompts, input_ids.shape[1], logits_to_keep)
        completions = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:]
        with torch.no_grad(), without_dropout(model):
            shared, _ = self._packed_pass(model, prompts, *completions, batch_size)
            plain, _, _ = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size=batch_size, **fields
            )
        scored = completions[1].bool()
        own = (plain - shared)[scored].abs().mean() if scored.any() else shared.new_zeros(())
        difference = self.accelerator.gather(own.float().reshape(1)).max().item()  # NaN if a rank's is
        is_half = self.args.bf16 or self.args.fp16 or self.model.dtype != torch.float32
        limit = 0.1 if is_half else 1e-4
        if not difference <= limit:
            raise ValueError(
                f"shared_prefix: log-probabilities are {difference:.2g} from the plain path's in the mean, above "
                f"{limit:g}; set shared_prefix: off, and please report the model"
            )
        logger.info("shared_prefix: log-probabilities equal the plain path's within %.1e", difference)


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """The model as it is in evaluation."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def plain_fields(prompts: Sequence[Prompt], n_tokens: int, n_completion_tokens: int) -> dict[str, Any]:
    """The pictures of rows as TRL's own pass takes them."""
    if not any(prompt.images for prompt in prompts):
        return {}
    types = torch.zeros(len(prompts), n_tokens, dtype=torch.long, device=prompts[0].token_ids.device)
    end = n_tokens - n_completion_tokens
    for row, prompt in enumerate(prompts):
        if prompt.token_types is not None:
            types[row, end - len(prompt) : end] = prompt.token_types
    n_images = [prompt.n_images for prompt in prompts]
    return {**picture_tensors(prompts), "num_images": n_images, "mm_token_type_ids": types}


def regrouped(batches: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The micro-batches of a generation batch with the rows of each prompt side by side.

    TRL has shuffled the rows; here the groups follow in the order of their first rows, which is then as random.
    It is the same objective. A step that covers the whole generation batch sums over all of its rows, and a sum
    knows no order. Where a generation batch serves several steps, each of its rows is as likely as before to be
    in any of them, groups being of one size, so each step's gradient has the same expectation; only which rows
    keep company has changed, from any to those of a group, whose advantages add up to zero. (A loss that divides by
    the tokens of its micro-batch, `bnpo`, depends on company with TRL's shuffle as well.) Random numbers are
    drawn as before.
    """
    prompts = [prompt for batch in batches for prompt in batch[PROMPTS]]
    rows_of: dict[Prompt, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows_of.setdefault(prompt, []).append(row)
    order = [row for rows in rows_of.values() for row in rows]
    sizes = [len(batch[PROMPTS]) for batch in batches]
    result: list[dict[str, Any]] = [{} for _ in batches]
    for key in batches[0]:
        parts = _reordered([batch[key] for batch in batches], order, sizes)
        for batch, part in zip(result, parts, strict=True):
            batch[key] = part
    return result


def _reordered(values: list[Any], order: list[int], sizes: list[int]) -> list[Any]:
    """One key of all micro-batches: tensors and lists with a value a row, anything else as it is."""
    if isinstance(values[0], list):
        joined = [value for part in values for value in part]
        ordered = iter([joined[row] for row in order])
        return [[next(ordered) for _ in range(size)] for size in sizes]
    if isinstance(values[0], Tensor) and values[0].ndim:
        return list(torch.cat(values)[torch.tensor(order, device=values[0].device)].split(sizes))
    return values
