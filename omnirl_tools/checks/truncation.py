"""Signs that an image's file was cut short, seen in its last bytes; a few microseconds, nothing is decoded."""

import os

_TAIL = 1 << 12
_ENDS = {
    b"\xff\xd8\xff": b"\xff\xd9",  # JPEG: the end marker cannot occur inside compressed data
    b"\x89PNG\r\n\x1a\n": b"IEND",
}
"""First bytes of a format -> what has to stand among the last ones."""


def looks_cut(path: str) -> bool:
    """Whether the end of a JPEG, PNG, GIF, WebP or BMP file is missing. A hint: decode the file to be sure.

    Trailing bytes after the end are no fault (up to 4 KiB of them); other formats never look cut.
    """
    with open(path, "rb") as file:
        start = file.read(16)
        size = os.fstat(file.fileno()).st_size
        if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
            return size < int.from_bytes(start[4:8], "little") + 8
        if start[:2] == b"BM":
            return size < int.from_bytes(start[2:6], "little")
        if start[:4] == b"GIF8":  # its end marker may occur inside: it has to be the last byte that is not zero
            file.seek(max(0, size - _TAIL))
            return not file.read().rstrip(b"\0").endswith(b";")
        end = next((end for first, end in _ENDS.items() if start.startswith(first)), None)
        if end is None:
            return False
        file.seek(max(0, size - _TAIL))
        return end not in file.read()
