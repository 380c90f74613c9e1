"""Images that stand inside the data, as bytes or base64: each becomes a file in the cache of `datasets`."""

import base64
import hashlib
import os
import re
import tempfile
from pathlib import Path


def image_folder() -> Path:
    """Where they are written, by their content."""
    import datasets  # takes a second; few files have such images

    return Path(datasets.config.HF_DATASETS_CACHE) / "omnirl_images"


def image_file(content: bytes, suffix: str = "") -> str:
    """The path of a file in the cache with this content, written where it is missing."""
    folder = image_folder()
    name = hashlib.sha256(content).hexdigest()[:40] + suffix
    file = folder / name[:2] / name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        os.replace(unfinished, file)  # several processes may write the same image
    return str(file)


_ENCODED = re.compile(r"data:image/[\w.+-]+;base64,|(?=iVBORw0KGgo|/9j/|UklGR|R0lGOD)")
"""How an image in base64 starts: as a data URL, or as the first bytes of PNG, JPEG, WebP and GIF."""


def decoded_image(text: str) -> str | None:
    """The path of an image that is written in base64; None for any other text."""
    start = _ENCODED.match(text)
    if start is None or len(text) < 64:
        return None
    try:
        return image_file(base64.b64decode(text[start.end() :], validate=True))
    except ValueError:
        return None
