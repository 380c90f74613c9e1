"""Images from disk: RGB, upright, opened only when needed; and the rows whose images are checked before training."""

import os
import struct
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TypedDict

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from omnirl_core.data.record import DataError, Record
from omnirl_core.types import check_choice

_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
_EXIF_ERRORS = (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error)
"""What Pillow raises for unreadable EXIF, which counts as upright."""
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, struct.error, zlib.error)
"""What Pillow's decoders raise on damaged files (test_images.py damages some in every format)."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "ICO", "DIB")
"""What is read, by content and not by the file's name. Pillow knows more, of which EPS starts Ghostscript."""

MAX_ASPECT_RATIO = 200
"""Qwen's processors refuse an image with one side more than 200 times the other."""


def open_image(path: str | os.PathLike[str], row_id: str | None = None) -> Image.Image:
    """The image as RGB, upright: EXIF orientation applied, transparency on white, 16 bits scaled to 8.

    Animations and many-page files give their first frame. A file that cannot be decoded, or has more pixels than
    `limit_pixels` allows, is a DataError that names `row_id` (`file:line`); there is no stand-in image.
    """
    with _opened(path, row_id) as image:
        image.load()
        with suppress(*_EXIF_ERRORS):
            ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image)


def image_size(path: str | os.PathLike[str], row_id: str | None = None) -> tuple[int, int]:
    """(width, height) of what `open_image` gives, from the file's header: about a thousand times faster."""
    with _opened(path, row_id) as image:
        if image.format == "PNG" and _late_metadata(path):
            image.load()
        width, height = image.size
        # Pillow gives the upright size of a TIFF already, and turns its pixels when it loads them
        sideways = image.format != "TIFF" and _is_sideways(image)
    return (height, width) if sideways else (width, height)


def limit_pixels(most: int) -> None:
    """Let images of this process have up to so many pixels in their files; Pillow's limit is 178,956,970.

    The limit is Pillow's own, which refuses above twice MAX_IMAGE_PIXELS, and warns above that.
    """
    Image.MAX_IMAGE_PIXELS = (most + 1) // 2


@cache
def _readable_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # an older Pillow has no AVIF


class ImageFiles:
    """Whether an image file exists and where it really is, for millions of paths: large folders are listed once.

    >>> ImageFiles()("/nowhere/a.png")
    False
    """

    def __init__(self, lookups_before_listing: int = 64):
        self._lookups_before_listing = lookups_before_listing
        self._lookups: Counter[str] = Counter()
        self._names: dict[str, dict[str, bool]] = {}
        self._real_folders: dict[str, str] = {}

    def __call__(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        names = self._names.get(folder)
        if names is None:
            self._lookups[folder] += 1
            if self._lookups[folder] > self._lookups_before_listing:
                names = self._names[folder] = _file_names(folder or "/")
        # a miss asks the file system itself: names may differ from the listing in case or Unicode form
        return (names is not None and name in names) or os.path.isfile(path)

    def outside(self, path: str, roots: Sequence[str]) -> str | None:
        """Where an existing file really is, links and `..` followed, if that is in none of the (real) folders."""
        folder, _, name = path.rpartition("/")
        is_link = self._names.get(folder, {}).get(name, True)
        if is_link:
            real = os.path.realpath(path)
        else:
            if folder not in self._real_folders:
                self._real_folders[folder] = os.path.realpath(folder or "/")
            real = f"{self._real_folders[folder].rstrip('/')}/{name}"
        inside = any(real.startswith(root.rstrip("/") + "/") for root in roots)
        return None if inside else real


def _file_names(folder: str) -> dict[str, bool]:
    """The files of a folder, and whether each is a link."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_symlink() for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # ValueError: a null character in the name
        return {}


@contextmanager
def _opened(path: str | os.PathLike[str], row_id: str | None) -> Iterator[Image.Image]:
    image_name = f"{row_id}: image {os.fspath(path)!r}" if row_id else f"image {os.fspath(path)!r}"
    replace = "replace it or drop the row"
    try:
        with Image.open(path, formats=_readable_formats()) as image:
            if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):  # of those: 16 bits
                raise ValueError("32-bit pixels have no known range; save it with 8 bits")
            yield image
    except FileNotFoundError:
        raise DataError(f"{image_name} not found; set image_root or fix the path") from None
    except UnidentifiedImageError:
        size = os.path.getsize(path)
        raise DataError(f"{image_name} is no image of a format that is read ({size:,} bytes); {replace}") from None
    except Image.DecompressionBombError as error:
        fix = "shrink it, or set max_image_pixels higher if you trust it"
        raise DataError(f"{image_name}: {str(error).rstrip('.')}; {fix}") from None
    except (PermissionError, IsADirectoryError) as error:
        raise DataError(f"{image_name} cannot be read: {error.strerror}; fix it or drop the row") from None
    except _DECODER_ERRORS as error:
        raise DataError(f"{image_name} cannot be decoded: {error or type(error).__name__}; {replace}") from error


def _is_sideways(image: Image.Image) -> bool:
    """By its EXIF, as far as the file has been read."""
    try:
        # not image.getexif(): for a PNG that decodes all pixels
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation) in _SIDEWAYS
    except _EXIF_ERRORS:
        return False


def _rgb(image: Image.Image) -> Image.Image:
    """RGB from any mode; plain `convert("RGB")` clips 16 bits to white and shows what transparency hides."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint32)  # (H, W)
        image = Image.fromarray(((values.clip(0, 65535) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _late_metadata(path: str | os.PathLike[str]) -> bool:
    """Whether a PNG has metadata after its pixels, where some tools write EXIF; reads chunk headers only."""
    with open(path, "rb") as file:
        file.seek(8)
        pixels_seen = False
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            if pixels_seen and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            pixels_seen = pixels_seen or kind == b"IDAT"
            file.seek(length + 4, os.SEEK_CUR)  # its data and checksum
    return False


ON_BAD_SAMPLE = ("error", "skip")
LEVELS = ("exists", "header", "pixels")
"""That the file is there; that it is an image of a size that models take; that every pixel can be decoded."""

_ROWS_AHEAD = 256
"""Rows a thread that wait for their images, so that they do not pile up in memory."""


class Rules(TypedDict, total=False):
    """The fields of RowRules as keyword arguments."""

    on_bad_sample: str
    check_images: str
    allow_outside_image_root: bool
    bad_rows: Mapping[str, str] | None


@dataclass(frozen=True)
class RowRules:
    """How strict reading is.

    `on_bad_sample`: `error` refuses the data, `skip` leaves bad rows out. `check_images`: `exists`, `header` or
    `pixels`; `skip` always looks at all pixels, since an image that turned out bad during training could not be
    left out without changing what every process draws after it. `allow_outside_image_root`: images may lie
    anywhere. `bad_rows`: what `find_bad_rows` found, on all processes together; exactly these rows are then left
    out, and no image is looked at again.
    """

    on_bad_sample: str = "error"
    check_images: str = "exists"
    allow_outside_image_root: bool = False
    bad_rows: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        check_choice("on_bad_sample", self.on_bad_sample, ON_BAD_SAMPLE)
        check_choice("check_images", self.check_images, LEVELS)

    def apply(self, rows: Iterable[Record | DataError]) -> Iterator[Record | DataError]:
        """The rows, each bad one as a DataError."""
        if self.bad_rows is None:
            yield from with_checked_images(rows, "pixels" if self.on_bad_sample == "skip" else self.check_images)
            return
        for row in rows:
            row_id = row.source if isinstance(row, Record) else row.row_id
            if row_id in self.bad_rows:
                yield DataError(self.bad_rows[row_id], row_id)
            elif isinstance(row, DataError):  # another process, or a moment ago, found it good
                raise DataError(f"{row}; the check before found no fault: did the data change?", row_id)
            else:
                yield row


def picture_problem(path: str, level: str = "pixels") -> str | None:
    """What is wrong with an image that exists, or None; an image that passes `pixels` opens in training too."""
    try:
        width, height = image_size(path)
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            return (
                f"image {path!r} is {width} x {height} pixels; processors refuse one side above {MAX_ASPECT_RATIO} "
                "times the other; crop it or drop the row"
            )
        if level == "pixels":
            open_image(path)
    except DataError as error:
        return str(error)
    return None


def with_checked_images(
    rows: Iterable[Record | DataError], level: str, threads: int | None = None
) -> Iterator[Record | DataError]:
    """The rows in their order, those with a bad image as a DataError that names row and file.

    Each file is looked at once. Pillow decodes without holding Python's lock, so threads use all cores; what is
    remembered of a file is a few bytes.
    """
    if level == "exists":
        yield from rows
        return
    n_threads = threads or min(32, cores())
    problems: dict[str, Future | str | None] = {}
    waiting: deque[Record | DataError] = deque()
    broken: DataError | None = None
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for row in rows:
                for path in row.images if isinstance(row, Record) else ():
                    if path not in problems:
                        problems[path] = pool.submit(picture_problem, path, level)
                waiting.append(row)
                if len(waiting) > _ROWS_AHEAD * n_threads:
                    yield _judged(waiting.popleft(), problems)
        except DataError as error:  # the rows break off; those before it come first
            broken = error
        for row in waiting:
            yield _judged(row, problems)
    if broken is not None:
        raise broken


def _judged(row: Record | DataError, problems: dict[str, Future | str | None]) -> Record | DataError:
    """The row, or the DataError of its first bad image."""
    for path in row.images if isinstance(row, Record) else ():
        problem = problems[path]
        if isinstance(problem, Future):
            problem = problems[path] = problem.result()
        if problem is not None:
            return DataError(f"{row.source}: {problem}", row.source)  # type: ignore[union-attr]
    return row


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
