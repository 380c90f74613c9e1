"""Writing files that are not there yet: what a folder holds already is never replaced."""

import os
from collections.abc import Mapping
from pathlib import Path


def write_new(folder: str | Path, files: Mapping[str, bytes]) -> None:
    """Write each file below `folder`, in order; one that is there with the same bytes stays as it is.

    Raises:
        FileExistsError: a file is there and holds something else. Nothing is written then.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> write_new(folder, {"a.txt": b"1"}), write_new(folder, {"a.txt": b"1"})
    (None, None)
    >>> write_new(folder, {"b.txt": b"2", "a.txt": b"other"})
    Traceback (most recent call last):
    FileExistsError: ...a.txt is there and holds something else; it is not overwritten: name another folder, ...
    """
    missing = [name for name, content in files.items() if not _is_there(Path(folder, name), content)]
    for name in missing:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        _create(path, files[name])


def _is_there(path: Path, content: bytes) -> bool:
    if not os.path.lexists(path):
        return False
    if path.is_file() and path.read_bytes() == content:
        return True
    raise FileExistsError(
        f"{path} is there and holds something else; it is not overwritten: name another folder, or remove it"
    )


def _create(path: Path, content: bytes) -> None:
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError:  # another process was faster
        _is_there(path, content)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
