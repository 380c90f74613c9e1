"""The file that a check writes its faults to, one a line; a file of anything else is never replaced."""

import re
from pathlib import Path
from types import TracebackType

_LINE = re.compile(r"\S.*:\d+: |\S+: -: ")
"""How a line of a report begins: the row, as file:line."""


class ReportFile:
    """Written where there are faults to write, or where it was asked for by name.

    Args:
        path: None for no file.
        asked: whether the user named it, so that it is written without faults too.

    Raises:
        FileExistsError: `path` is there and is not the report of an earlier check.
    """

    def __init__(self, path: Path | None, asked: bool = False) -> None:
        self.path = path
        self.lines: list[str] = []
        if path is not None and path.exists() and not _is_report(path):
            raise FileExistsError(f"{path} is there and no report of a check; name another file with --report")
        self._asked = asked

    def write(self, line: str) -> None:
        if self.path is None:
            return
        self.lines.append(line)
        if len(self.lines) >= 1000:
            self._flush()

    def _flush(self) -> None:
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(self.lines)
        self.lines.clear()

    def __enter__(self) -> "ReportFile":
        if self.path is not None:
            self.path.unlink(missing_ok=True)  # of an earlier check
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.path is not None and (self.lines or (self._asked and not self.path.exists())):
            self._flush()


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, encoding="utf-8", errors="replace") as file:
        first = file.readline()
    return not first or bool(_LINE.match(first))
