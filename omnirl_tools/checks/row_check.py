"""What can be wrong with a row that the data layer accepts: its images, their sizes, the length of its prompt."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from omnirl_core.data import DataError, PromptFormat, Record, image_size, limit_pixels
from omnirl_core.data.images import picture_problem
from omnirl_tools.checks.truncation import looks_cut

if TYPE_CHECKING:
    from omnirl_core.trainer.prompt_length import PromptLength

MIN_SIDE = 28
"""Patch times merge size of Qwen2.5-VL: less is under one image token."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one row; `kind` is a key of `KINDS`."""

    kind: str
    message: str  # starts with file:line


KINDS = {
    "row": "not readable, keys or values wrong, or an image's file is missing",
    "image": "an image that cannot be opened or decoded, or is too large or too slim",
    "size": "an image with a side below --min_side",
    "length": "a prompt with more tokens than max_prompt_length",
    "duplicate": "question and images of a training row are in the evaluation rows too",
}


@dataclass(frozen=True)
class Checked:
    """A row after its check. `key` is equal for rows that may be duplicates; 0 where that was not asked."""

    row_id: str
    images: tuple[str, ...]
    faults: tuple[Fault, ...]
    key: int = 0


@dataclass
class RowCheck:
    """Checks rows one by one. `decode` reads every pixel; without it headers and ends of files are looked at."""

    min_side: int = MIN_SIDE
    max_image_pixels: int | None = None
    """None is the data layer's own limit."""
    decode: bool = False
    keys: bool = False
    prompts: PromptFormat = field(default_factory=PromptFormat)
    length: "PromptLength | None" = None
    max_prompt_length: int | None = None

    def many(self, records: Sequence[Record]) -> list[Checked]:
        """The rows in order; an image that several of them share is looked at once."""
        if self.max_image_pixels is not None:
            limit_pixels(self.max_image_pixels)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what the limit allows is no matter
        seen: dict[str, tuple[int, int] | str] = {}
        return [self._check(record, seen) for record in records]

    def _check(self, record: Record, seen: dict[str, tuple[int, int] | str]) -> Checked:
        faults = []
        sizes = {}
        for path in record.images:
            if path not in seen:
                seen[path] = self._look(path)
            found = seen[path]
            if isinstance(found, str):
                faults.append(Fault("image", f"{record.source}: {found}"))
                continue
            sizes[path] = found
            if min(found) < self.min_side:
                shown = f"image {path!r} is {found[0]} x {found[1]} pixels"
                why = f"a side below {self.min_side} is less than one image token; enlarge it or drop the row"
                faults.append(Fault("size", f"{record.source}: {shown}; {why}"))
        try:
            self.prompts.check(record.task, record.extra.get("options"))
        except ValueError as error:
            return Checked(record.source, record.images, (*faults, Fault("row", f"{record.source}: {error}")))
        if len(sizes) == len(set(record.images)):
            faults += self._length_faults(record, sizes)
        return Checked(record.source, record.images, tuple(faults), _key(record) if self.keys else 0)

    def _look(self, path: str) -> tuple[int, int] | str:
        """The image's size, or what is wrong with it."""
        try:
            problem = picture_problem(path, "pixels" if self.decode or looks_cut(path) else "header")
            return problem or image_size(path)
        except DataError as error:
            return str(error)
        except OSError as error:  # no permission, or gone since
            return f"image {path!r} cannot be read: {error.strerror or error}"

    def _length_faults(self, record: Record, sizes: dict[str, tuple[int, int]]) -> list[Fault]:
        if self.length is None or self.max_prompt_length is None:
            return []
        messages = self.prompts.messages(record.problem, len(record.images), record.task, record.extra.get("options"))
        row: dict[str, Any] = {"prompt": messages, "images": list(record.images), "row_id": record.source}
        self.length.sizes.clear()  # of the row before: memory stays flat
        self.length.sizes.update(sizes)
        fault = self.length.fault(row, self.max_prompt_length)
        return [] if fault is None else [Fault("length", fault)]


def _key(record: Record) -> int:
    """Equal for rows of the same question whose images' files have the same sizes."""
    digest = hashlib.blake2b(" ".join(record.problem.split()).encode(), digest_size=8)
    for path in record.images:
        try:
            digest.update(os.path.getsize(path).to_bytes(8, "little"))
        except OSError:
            digest.update(path.encode())
    return int.from_bytes(digest.digest(), "little")
