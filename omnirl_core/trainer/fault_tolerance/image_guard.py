"""No pass without its images: the images that samples have, against those that the vision tower has encoded.

A model that is given no pixels answers from the text alone, and raises nothing. So every pass of training, rollout,
evaluation and warm start is counted: the tower has to be given as many images as the samples of the pass have.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from omnirl_core.models import vision_tower

MOST_NAMED = 8


class ImageMismatchError(RuntimeError):
    """A pass was run without the images of its samples, or with others; names the samples."""


@dataclass(frozen=True)
class Mismatch:
    """One pass whose counts differ; picklable, so that ranks can tell each other."""

    where: str
    given: int
    """Images that the pass had to encode."""
    encoded: int
    samples: tuple[str, ...]
    """Of those with images."""
    rank: int = 0

    def __str__(self) -> str:
        named = ", ".join(self.samples[:MOST_NAMED])
        more = f" and {len(self.samples) - MOST_NAMED} more" if len(self.samples) > MOST_NAMED else ""
        return (
            f"{self.where}: the vision tower was given {self.encoded} images where the samples have {self.given} "
            f"(rank {self.rank}; samples {named}{more})"
        )


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
        self._handles = [
            tower.register_forward_pre_hook(self._count, with_kwargs=True) for tower in self._towers
        ]

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
            grid = next(
                (x for x in args[1:] if isinstance(x, Tensor) and x.ndim == 2 and x.shape[1] == 3), None
            )
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


@contextmanager
def images_counted(
    model: nn.Module, n_images: Sequence[int], names: Iterable[Any], where: str
) -> Iterator[None]:
    """Raise ImageMismatchError where the forward passes inside encode other than the samples' `n_images` in all."""
    counter = ImageCounter(model)
    try:
        yield
    finally:
        counter.remove()
    given = sum(n_images)
    if counter.disagrees(given, repeats=True):
        samples = tuple(str(name) for name, n in zip(names, n_images, strict=True) if n)
        raise ImageMismatchError(str(Mismatch(where, given, counter.n_images, samples)))
