"""Images for an HTML file that stands alone: scaled down, encoded once each, within a budget of bytes."""

import base64
import hashlib
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from PIL import Image

from omnirl_core.data.images import open_image
from omnirl_core.data.record import DataError

SIDES = (384, 288, 208, 144, 96)
BYTES_PER_PIXEL = 0.16  # of photographs as WebP at this quality, base64 included; drawings take far less
QUALITY = 80
MOST_COLORS = 1024  # a photograph has more, and is never smaller as PNG


@dataclass(frozen=True)
class EmbeddedImage:
    """One image as the page holds it."""

    key: str
    source: str
    """`data:` URI; empty where `fault` says why there is none."""
    width: int
    """Of the original: boxes are drawn in its pixels."""
    height: int
    fault: str = ""


def embed(rows: Mapping[str, str | None], max_bytes: int) -> dict[str, EmbeddedImage]:
    """Return an image for each path; images with the same bytes share a key.

    `rows` gives for each path the `row_id` of a row that shows it, to be named where it cannot be opened.

    The longer side is the largest of `SIDES` at which all of them are likely to fit in `max_bytes`. Should
    they not, the ones beyond it are named instead of shown, as are files that cannot be opened.
    """
    paths = list(rows)
    share = max_bytes / max(1, len(paths))
    side = next((side for side in SIDES if side * side * 0.75 * BYTES_PER_PIXEL <= share), SIDES[-1])
    held: dict[str, EmbeddedImage] = {}
    found: dict[str, EmbeddedImage] = {}
    left = max_bytes
    with ThreadPoolExecutor() as pool:  # Pillow decodes and encodes outside the interpreter's lock
        for path, image in zip(paths, pool.map(lambda path: _encode(path, rows[path], side), paths), strict=True):
            if image.key not in held:
                if len(image.source) > left:
                    image = replace(image, source="", fault="left out: the page would be too large")
                left -= len(image.source)
                held[image.key] = image
            found[path] = held[image.key]
    return found


def _encode(path: str, row_id: str | None, side: int) -> EmbeddedImage:
    try:
        image = open_image(path, row_id)
    except DataError as error:
        return EmbeddedImage(_key(path.encode("utf-8", "surrogatepass")), "", 0, 0, str(error))
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind, data = _encoded(small)
    source = f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode('ascii')}"
    return EmbeddedImage(_key(data + str(image.size).encode()), source, *image.size)


def _encoded(image: Image.Image) -> tuple[str, bytes]:
    """As WebP, or as PNG where the image is a drawing that is smaller so."""
    forms = [("WEBP", _saved(image, "WEBP", quality=QUALITY, method=4))]
    if image.getcolors(MOST_COLORS):
        forms.append(("PNG", _saved(image, "PNG", optimize=True)))
    return min(forms, key=lambda form: len(form[1]))


def _saved(image: Image.Image, kind: str, **settings: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def _key(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
