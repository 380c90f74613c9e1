"""No pass without its images: the images that samples have, against those that the vision tower has encoded.

A model that is given no pixels answers from the text alone, and raises nothing. So every pass of training, rollout,
evaluation and warm start is counted: the tower has to be given as many images as the samples of the pass have.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from omnirl_core.models import vision_tower
from omnirl_core.trainer.grpo_config import OFF
from omnirl_core.trainer.prompt_length import prompt_images
from omnirl_core.trainer.shared_prefix.runtime import SharedBatch, SharedPrefix
from omnirl_core.types import Sample

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

MOST_NAMED = 8


def mismatch(where: str, given: int, encoded: int, samples: Sequence[str], rank: int = 0) -> str:
    """What to say of a pass ("rollout") that had `given` images to encode, of these samples, and `encoded` others."""
    named = ", ".join(samples[:MOST_NAMED])
    more = f" and {len(samples) - MOST_NAMED} more" if len(samples) > MOST_NAMED else ""
    return (
        f"{where}: the vision tower was given {encoded} images where the samples have {given} (rank {rank}; samples "
        f"{named}{more})"
    )


class ImageMismatchError(RuntimeError):
    """A pass was run without the images of its samples, or with others; names the samples."""


class ImageCounter:
    """Counts the images that the vision towers of some models encode, by hooks on the towers.

    Exact where the tower is given one line of `grid_thw` an image (Qwen). Other families cut images into tiles or pack
    them; there only none at all is told from some.
    """

    def __init__(self, *models: nn.Module):
        self.n_images = 0
        self.n_uncounted = 0
        """Calls whose number of images cannot be read."""
        self._towers = [tower for tower in map(vision_tower, models) if tower is not None]
        self._handles = [tower.register_forward_pre_hook(self._count, with_kwargs=True) for tower in self._towers]

    @property
    def sees(self) -> bool:
        """Whether there is a tower to count at."""
        return bool(self._towers)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def restart(self) -> None:
        self.n_images = self.n_uncounted = 0

    def disagrees(self, given: int, repeats: bool = False) -> bool:
        """Whether what was encoded since `restart` is not `given` images; `repeats` allows whole multiples."""
        if self.n_uncounted:
            return False
        if repeats and given:
            return self.n_images == 0 or self.n_images % given != 0
        return self.n_images != given

    def _count(self, tower: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if getattr(tower, DUMMY, False):
            return
        grid = kwargs.get("grid_thw")
        if grid is None:
            grid = next((x for x in args[1:] if isinstance(x, Tensor) and x.ndim == 2 and x.shape[1] == 3), None)
        if grid is None:
            self.n_uncounted += 1
        else:
            self.n_images += len(grid)


DUMMY = "_encodes_dummy_image"
"""Attribute of a tower while it runs on the image of an image-free forward (`omnirl_core.trainer.dummy_image`)."""


@contextmanager
def not_counted(tower: nn.Module) -> Iterator[None]:
    """What the tower encodes meanwhile is no image of a sample."""
    setattr(tower, DUMMY, True)
    try:
        yield
    finally:
        setattr(tower, DUMMY, False)


SAMPLES = "images_of_samples"
"""Key of a (name, number of images) pair a sample in what TRL buffers between rollout and training."""


class ImageGuard:
    """The images of each pass of a GRPO run against those of its samples; notes where they differ.

    No rank raises alone: `agree` is a collective that all of them reach.

    Args:
        trainer: OmniGRPOTrainer, once TRL has made it; None counts nothing.
    """

    def __init__(self, trainer: "OmniGRPOTrainer | None"):
        self._trainer: Any = trainer
        models = [] if trainer is None else [trainer.model]
        if trainer is not None and trainer.ref_model is not None:
            models.append(trainer.accelerator.unwrap_model(trainer.ref_model))
        self.counter = ImageCounter(*models)
        self.tools_bring_images = trainer is not None and bool(trainer.tools or trainer.environment_factories)
        """Or environments do, so that a rollout encodes what it is handed."""
        # TRL 1.16 leaves out the images of tools where the token limit has cut one; a plain GRPOConfig allows it
        self.counts_none = trainer is not None and self.tools_bring_images and trainer.settings is OFF
        self.samples: Sequence[tuple[str, int]] = ()
        """Name and number of images of each sample of the passes that follow."""
        self._found: list[str] = []

    def expect(self, samples: Sequence[tuple[str, int]]) -> None:
        """The passes that follow are of these samples."""
        self.samples = () if self.counts_none else samples

    @property
    def counts(self) -> list[int]:
        return [n for _, n in self.samples]

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

    def rollout(
        self, images: Sequence[Sequence[object] | None] | None, by_vllm: bool, batch: SharedBatch | None
    ) -> AbstractContextManager[None]:
        """A rollout that is handed the images of each sample; of a `batch` whose prompts are shared, each once."""
        if not self.counter.sees:
            return nullcontext()
        handed = sum(len(own or ()) for own in images or ())
        given = sum(self.counts if batch is None else batch.first_of_each(self.counts))
        if not by_vllm:
            return self.watched("rollout", handed if self.tools_bring_images else given, repeats=True)
        if handed != sum(self.counts):
            self.note("rollout by vLLM", sum(self.counts), handed)
        return nullcontext()

    def log_probs(
        self, where: str, n_samples: int, batch_size: int | None, shared: SharedPrefix | None
    ) -> AbstractContextManager[None]:
        """A log-probability pass over all of the samples; others are not counted."""
        if len(self.samples) != n_samples:
            return nullcontext()
        prompts = None if shared is None else shared.prompts
        given = images_of_pass(self.counts, prompts, batch_size)
        if shared is not None and prompts is not None and shared.to_verify:
            given += given + sum(self.counts)  # the pass anew and the plain one, to compare
        return self.watched(where, given)

    def note(self, where: str, given: int, encoded: int) -> None:
        names = list(dict.fromkeys(name for name, n in self.samples if n))
        self._found.append(mismatch(where, given, encoded, names, self._trainer.accelerator.process_index))

    def agree(self) -> None:
        """ImageMismatchError on every rank where any has noted a pass."""
        found, self._found = self._found, []
        if self._trainer.accelerator.num_processes > 1:
            n_found = torch.tensor([len(found)], device=self._trainer.accelerator.device)
            if not int(self._trainer.accelerator.gather(n_found).sum()):
                return
            found = gather_object(found)
        if found:
            raise ImageMismatchError(
                "\n".join(found[:5]) + "\nThe run stops before it learns from a policy that does not see "
                "its images; this is a defect of the data, the model or the trainer: please report it"
            )


def samples_of(samples: Sequence[Sample], images: Sequence[Sequence[object]] | None = None) -> list[tuple[str, int]]:
    """Name and number of images of each sample: its own, or `images` where they are known better."""
    if images is None:
        images = [prompt_images({"prompt": "", **sample}) for sample in samples]
    names = [str(sample.get("row_id", f"{i} of the batch")) for i, sample in enumerate(samples)]
    return [(name, len(own)) for name, own in zip(names, images, strict=True)]


def images_of_pass(n_images: Sequence[int], prompts: Sequence[object] | None, batch_size: int | None) -> int:
    """Images that a log-probability pass encodes: all samples', or, in packs, those of each pack's prompts once.

    >>> images_of_pass([2, 2, 2, 1], None, None), images_of_pass([2, 2, 2, 1], ["a", "a", "a", "b"], 2)
    (7, 5)
    """
    if prompts is None:
        return sum(n_images)
    size = batch_size or len(n_images)
    packs = (range(start, min(start + size, len(n_images))) for start in range(0, len(n_images), size))
    return sum(sum({id(prompts[i]): n_images[i] for i in pack}.values()) for pack in packs)


def images_turn_up(trainer: "OmniGRPOTrainer", inputs: Sequence[Sample]) -> bool:
    """Whether a batch of any rank has images, the same on each; no data set may have announced them.

    Raises:
        ValueError: the run cannot show them to its policy.
    """
    has_images = any(n for _, n in samples_of(inputs))
    if trainer.accelerator.num_processes > 1:
        flag = torch.tensor([int(has_images)], device=trainer.accelerator.device)
        has_images = bool(trainer.accelerator.gather(flag).any())
    if has_images:
        _refuse_blind(trainer, inputs)
    return has_images


def _refuse_blind(trainer: "OmniGRPOTrainer", inputs: Sequence[Sample]) -> None:
    names = ", ".join(dict.fromkeys(name for name, n in samples_of(inputs) if n)) or "of another rank"
    if not trainer._is_vlm:
        kind = type(trainer.processing_class).__name__
        raise ValueError(
            f"samples {names:.200} have images, and processing_class is a {kind}, which takes none; pass the processor "
            "of a vision-language model, or leave these samples out"
        )
    from omnirl_core.trainer.vllm import vllm_obstacle  # which needs this module

    obstacle = vllm_obstacle(trainer.model.config) if trainer.use_vllm else None
    if obstacle:
        raise ValueError(f"samples {names:.200} have images. {obstacle}")
