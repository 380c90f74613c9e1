"""The image guard of a GRPO run: each pass of a batch is counted, and all ranks stop together."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from omnirl_core.trainer.fault_tolerance.image_guard import ImageCounter, ImageMismatchError, Mismatch
from omnirl_core.trainer.prompt_length import prompt_images

SAMPLES = "images_of_samples"
"""Key of a (name, number of images) pair a sample in what TRL buffers between rollout and training."""


class ImagePasses:
    """Counts the images of each pass against those of its samples, and notes where they differ.

    No rank raises alone: `settle` is a collective that all of them reach.
    """

    def __init__(self, accelerator: Accelerator, *models: nn.Module):
        self.accelerator = accelerator
        self.counter = ImageCounter(*models)
        self.samples: Sequence[tuple[str, int]] = ()
        """Of the pass at hand."""
        self._found: list[Mismatch] = []

    @contextmanager
    def watched(self, where: str, given: int, repeats: bool = False) -> Iterator[None]:
        """A pass that has to encode `given` images."""
        if not self.counter.sees:
            yield
            return
        self.counter.restart()
        yield
        if self.counter.disagrees(given, repeats):
            self.note(where, given, self.counter.n_images)

    def note(self, where: str, given: int, encoded: int) -> None:
        names = tuple(dict.fromkeys(name for name, n in self.samples if n))
        self._found.append(Mismatch(where, given, encoded, names, self.accelerator.process_index))

    def settle(self) -> None:
        """ImageMismatchError on every rank where any has noted a pass."""
        found, self._found = self._found, []
        if self.accelerator.num_processes > 1:
            n_found = torch.tensor([len(found)], device=self.accelerator.device)
            if not int(self.accelerator.gather(n_found).sum()):
                return
            found = gather_object(found)
        if found:
            raise ImageMismatchError(
                "\n".join(map(str, found[:5]))
                + "\nThe run stops before it learns from a policy that does not see "
                "its images; this is a defect of the data, the model or the trainer: please report it"
            )


def samples_of(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Name and number of images of each sample."""
    return [
        (str(row.get("row_id", f"{i} of the batch")), len(prompt_images({"prompt": "", **row})))
        for i, row in enumerate(rows)
    ]


def images_of_pass(n_images: Sequence[int], prompts: Sequence[Any] | None, batch_size: int | None) -> int:
    """Images that a log-probability pass encodes: all samples', or, in packs, those of each pack's prompts once.

    >>> images_of_pass([2, 2, 2, 1], None, None), images_of_pass([2, 2, 2, 1], ["a", "a", "a", "b"], 2)
    (7, 5)
    """
    if prompts is None:
        return sum(n_images)
    size = batch_size or len(n_images)
    packs = (range(start, min(start + size, len(n_images))) for start in range(0, len(n_images), size))
    return sum(sum({id(prompts[i]): n_images[i] for i in pack}.values()) for pack in packs)


def refuse_blind(trainer: Any, inputs: Sequence[Mapping[str, Any]]) -> None:
    """A ValueError where a batch has images and the run cannot show them to its policy."""
    names = ", ".join(dict.fromkeys(name for name, n in samples_of(inputs) if n)) or "of another rank"
    if not trainer._is_vlm:
        kind = type(trainer.processing_class).__name__
        raise ValueError(
            f"samples {names:.200} have images, and processing_class is a {kind}, which takes none; pass the processor "
            "of a vision-language model, or leave these samples out"
        )
    if trainer.use_vllm and trainer.vllm_mode == "colocate":
        raise ValueError(
            f"samples {names:.200} have images, which vllm_mode: colocate garbles; use vllm_mode: server, or "
            "use_vllm: false"
        )
