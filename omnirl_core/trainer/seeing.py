"""A trainer that runs no pass without the images of its samples: counted on every path, and all ranks stop together."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from omnirl_core.trainer.grpo_config import OmniGRPOConfig
from omnirl_core.trainer.image_passes import SAMPLES, ImagePasses, images_of_pass, refuse_blind, samples_of
from omnirl_core.trainer.multimodal import Row
from omnirl_core.trainer.watched import WatchedTrainer


class SeeingTrainer(WatchedTrainer):
    """`OmniGRPOTrainer`'s layer that counts images"""

    accelerator: Any
    environment_factories: Any
    is_deepspeed_enabled: bool
    ref_model: Any
    tools: Any
    use_vllm: bool
    _anchor: Any
    _is_mixed: bool
    _is_vlm: bool
    _passes: ImagePasses | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        reference = [] if self.ref_model is None else [self.accelerator.unwrap_model(self.ref_model)]
        self._passes = ImagePasses(self.accelerator, self.model, *reference)

    def _meet_images(self, inputs: list[Row]) -> None:
        """Prepare for images that no data set has announced (`evaluate` on another one), on all ranks or on none."""
        if self._is_mixed:
            return
        has_images = any(n for _, n in samples_of(inputs))
        if self.accelerator.num_processes > 1:
            flag = torch.tensor([int(has_images)], device=self.accelerator.device)
            has_images = bool(self.accelerator.gather(flag).any())
        if has_images:
            refuse_blind(self, inputs)
            self._is_mixed = True
            self._anchor = self._add_anchors()

    def _expect_images(self, samples: Sequence[tuple[str, int]]) -> None:
        if self._passes is None:
            return
        # TRL 1.16 leaves out the images of tools where the token limit has cut one; a plain GRPOConfig allows it
        drops = bool(self.tools or self.environment_factories) and not isinstance(self.args, OmniGRPOConfig)
        self._passes.samples = () if drops else samples

    def _rollout_watched(self, images: Any) -> AbstractContextManager[None]:
        if self._passes is None:
            return nullcontext()
        handed = sum(len(pictures or ()) for pictures in images or ())
        counts = [n for _, n in self._passes.samples]
        if self.tools or self.environment_factories:
            given = handed
        elif self._shares_rollout and self._shared_rows is not None:
            given = sum(self._shared_rows.first_of_each(counts))
        else:
            given = sum(counts)
        if not self.use_vllm:
            return self._passes.watched("rollout", given, repeats=True)
        if handed != sum(counts):
            self._passes.note("rollout by vLLM", sum(counts), handed)
        return nullcontext()

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
        """Counts the images of the pass."""
        plain = partial(
            super()._get_per_token_logps_and_entropies,
            model,
            input_ids,
            attention_mask,
            logits_to_keep,
            batch_size=batch_size,
            compute_entropy=compute_entropy,
            compute_aux_loss=compute_aux_loss,
            **fields,
        )
        passes = self._passes
        if passes is None or len(passes.samples) != len(input_ids):
            return plain()
        prompts = self._prompts
        counts = [n for _, n in passes.samples]
        given = images_of_pass(counts, prompts, batch_size)
        if prompts is not None and self._to_verify:
            given += given + sum(counts)  # the pass anew and the plain one, to compare
        where = "reference's log-probabilities" if model is self.ref_model else "log-probabilities"
        with passes.watched(where, given):
            return plain()

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """With DeepSpeed, whose backward pass also takes the step, and in evaluation, ranks agree here."""
        self._expect_images(inputs.get(SAMPLES, ()))
        loss = super()._compute_loss(model, inputs)
        if self._passes is not None and (self.is_deepspeed_enabled or not model.training):
            self._passes.settle()
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The last place before the step at which all ranks meet."""
        if self._passes is not None and not self.is_deepspeed_enabled:
            self._passes.settle()
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    def _add_anchors(self) -> Any:
        """Of `OmniGRPOTrainer`."""
        raise NotImplementedError
