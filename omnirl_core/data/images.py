"""Images from disk: RGB, upright, opened only when needed; whether they exist, without opening them."""

import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
from PIL import Image, UnidentifiedImageError

from omnirl_core.data.record import DataError

_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # these swap width and height
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    RuntimeError,
    struct.error,
    zlib.error,
)
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
        rgb = _rgb(image)
        orientation = _orientation(image)
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def image_size(path: str | os.PathLike[str], row_id: str | None = None) -> tuple[int, int]:
    """(width, height) of what `open_image` gives, from the file's header: about a thousand times faster."""
    with _opened(path, row_id) as image:
        if image.format == "PNG" and _late_metadata(path):
            image.load()
        width, height = image.size
        # Pillow gives the upright size of a TIFF already, and turns its pixels when it loads them
        sideways = image.format != "TIFF" and _orientation(image) in _SIDEWAYS
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


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, as far as the file has been read; unreadable EXIF counts as upright."""
    try:
        # not image.getexif(): for a PNG that decodes all pixels
        orientation = Image.Image.getexif(image).get(_ORIENTATION)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _rgb(image: Image.Image) -> Image.Image:
    """RGB from any mode; plain `convert("RGB")` clips 16 bits to white and shows what transparency hides."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)  # (H, W)
        image = Image.fromarray(((values.clip(0, 65535) + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no known range; save it with 8 bits")
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
