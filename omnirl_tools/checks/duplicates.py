"""Training rows that are in the evaluation rows too: same question, same images by content."""

import hashlib
from dataclasses import dataclass, field

from omnirl_tools.checks.row_check import Checked, Fault


@dataclass
class EvaluationRows:
    """The evaluation rows by key. Files are read only for rows whose question and file sizes agree already."""

    _rows: dict[int, list[Checked]] = field(default_factory=dict)
    _contents: dict[str, tuple[bytes, ...]] = field(default_factory=dict)  # by row of the evaluation set

    def add(self, row: Checked) -> None:
        self._rows.setdefault(row.key, []).append(row)

    def duplicate(self, row: Checked) -> Fault | None:
        """What to say of a training row that is among them."""
        candidates = self._rows.get(row.key)
        if not candidates:
            return None
        contents = None
        for other in candidates:
            if row.images != other.images:
                contents = contents or _contents(row.images)
                if other.row_id not in self._contents:
                    self._contents[other.row_id] = _contents(other.images)
                if contents != self._contents[other.row_id]:
                    continue
            what = "question and images" if row.images else "question"
            return Fault("duplicate", f"{row.row_id}: same {what} as {other.row_id}; drop one of the two")
        return None


def _contents(paths: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(_digest(path) for path in paths)


def _digest(path: str) -> bytes:
    """An image is named by the digest of its file, a file that cannot be read by its path."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError:
        return path.encode()
