"""One row of a data file, checked: `Record`, and `DataError` for everything that can be wrong with it."""

import base64
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnirl_core.types import Settings

PLACEHOLDER = "<image>"
"""Stands in a problem's text where an image belongs."""

SHOWN = 10
"""Problems that are named; the rest are counted."""

RESERVED = frozenset(
    {"prompt", "prompts", "completion", "completions", "completion_ids", "image_sizes", "resized_sizes"}
    | {"row_id", "tools", "environments", "trainer_state", "log_extra", "log_metric"}
)
"""Columns that the data set, the trainer or TRL's reward call fill; a file may not bring its own."""

ALIASES = {
    "problem": ("question", "prompt", "query", "instruction", "input", "text", "q"),
    "solution": ("answer", "answers", "label", "target", "output", "response", "ground_truth", "gt", "completion"),
}
"""Names that public data sets have for ours; an error offers the mapping, and nothing is guessed."""


class DataError(ValueError):
    """The data cannot be used; the message names file and line, the value, and the fix.

    `row_id` (`file:line`) where one row is the reason, and is known.
    """

    def __init__(self, message: str, row_id: str = "") -> None:
        super().__init__(message)
        self.row_id = row_id


@dataclass
class Problems:
    """Collects problems: the first ten by name, then a count.

    >>> problems = Problems()
    >>> for line in range(12): problems.add(f"a.jsonl:{line}: no 'problem'")
    >>> print(str(problems).splitlines()[0], "|", str(problems).splitlines()[-1])
    a.jsonl:0: no 'problem' | ... and 2 more
    """

    shown: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, problem: str) -> None:
        self.count += 1
        if self.count <= SHOWN:
            self.shown.append(problem)

    def __str__(self) -> str:
        more = [f"... and {self.count - SHOWN} more"] if self.count > SHOWN else []
        return "\n".join(self.shown + more)


@dataclass(frozen=True, slots=True)
class Record:
    """One checked row. `images` are absolute paths; `extra` holds all other keys.

    `source` is `file:line`, and `file:line#3` for the third row of one line.

    >>> Record("What colour is it?", "red", images=("/data/1.png",), source="train.jsonl:1").task is None
    True
    """

    problem: str
    solution: object  # str | number | bool | list | dict | None, exactly as in the file
    images: tuple[str, ...] = ()
    task: str | None = None
    source: str = ""
    extra: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class RowContext:
    """What a row inherits from the file that it stands in."""

    root: str  # absolute; relative image paths start here
    shown_root: str  # as the user wrote it, for messages
    exists: Callable[[str], bool]
    task: str | None = None
    outside: Callable[[str], str | None] = lambda path: None
    """Where a file really is, if that is not under the root nor allowed."""


def modality(row: Record | Settings) -> str:
    """`"text"`, `"image"` or `"multi-image"`, by the number of images of a Record or of a data-set row.

    >>> modality({"images": ["a.png", "b.png"]}), modality({"images": None}), modality(Record("Hi", "Hello"))
    ('multi-image', 'text', 'text')
    """
    if isinstance(row, Record):
        n_images = len(row.images)
    else:  # TRL's own rows may have the single column `image`
        n_images = len(row.get("images") or ()) or int(row.get("image") is not None)
    return ("text", "image")[n_images] if n_images < 2 else "multi-image"


def record_from_row(row: object, source: str, context: RowContext) -> Record:
    """The Record of one parsed row, in the original's or in VLM-R1's format; DataError says what is wrong.

    >>> context = RowContext(root="/data", shown_root="data", exists=lambda path: True)
    >>> record_from_row({"problem": "Which?", "solution": 3, "image": "a.png"}, "x.json:2", context).images
    ('/data/a.png',)
    """
    if not isinstance(row, dict):
        raise DataError(f"{source}: expected an object with 'problem' and 'solution', found {shown(row)}")
    try:
        rest = dict(row)
        problem, solution = _conversation(rest) if "conversations" in rest else _question(rest)
        images = _images(rest, context)
        _check_placeholders(problem, len(images))
        task = _task(rest, context.task)
        if not RESERVED.isdisjoint(rest):
            taken = sorted(RESERVED.intersection(rest))
            raise DataError(f"key {taken[0]!r} is a name that training fills; rename it")
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    return Record(problem, solution, images, task, source, rest)


def shown(value: object, limit: int = 80) -> str:
    """A value for a message, cut when long.

    >>> shown([1, 2]), shown("x" * 1000, limit=8)
    ('[1, 2]', "'xxxx...")
    """
    text = repr(value if not isinstance(value, str) else value[:limit])
    return text if len(text) <= limit else text[: limit - 3] + "..."


def offered_columns(keys: Settings) -> str:
    """The mapping that a row's keys suggest, as YAML to paste; "" where none does.

    >>> offered_columns({"question": "?", "answer": "!"})
    'columns: {problem: question, solution: answer}'
    """
    lower = {key.lower(): key for key in keys}
    found = {}
    for ours, names in ALIASES.items():
        theirs = ours if ours in keys else next((lower[name] for name in names if name in lower), None)
        if theirs is None:
            return ""
        if theirs != ours:
            found[ours] = theirs
    return f"columns: {{{', '.join(f'{ours}: {_yaml(theirs)}' for ours, theirs in found.items())}}}"


def _yaml(name: str) -> str:
    return name if name.replace("_", "").isalnum() else json.dumps(name)


def _question(rest: dict[str, Any]) -> tuple[str, Any]:
    """Problem and solution of a row in the original's format, which REC annotations share."""
    if "problem" not in rest or "solution" not in rest:
        missing = "solution" if "problem" in rest else "problem"
        keys = ", ".join(rest) or "none"
        fix = "; write null where no reward needs it" if missing == "solution" else ""
        suggested = offered_columns(rest)
        advice = f"rename it, or map it: {suggested}" if suggested else f"add it, or map it with `columns`{fix}"
        raise DataError(f"no {missing!r} among its keys ({keys[:120]}); {advice}")
    return _text(rest.pop("problem"), "problem"), rest.pop("solution")


def _conversation(rest: dict[str, Any]) -> tuple[str, Any]:
    """Problem and solution of a row in VLM-R1's format: one human turn, one gpt turn with any value."""
    turns = rest.pop("conversations")
    for key in ("problem", "solution"):
        if key in rest:
            raise DataError(f"both 'conversations' and {key!r}; keep one")
    readable = isinstance(turns, list) and all(isinstance(turn, dict) and "value" in turn for turn in turns)
    speakers = [turn.get("from") for turn in turns] if readable else None
    if speakers != ["human", "gpt"]:
        found = f"turns from {speakers}" if readable else shown(turns)
        raise DataError(f"'conversations' must be one human turn and one gpt turn with 'value', found {found}")
    return _text(turns[0]["value"], "the human turn"), turns[1]["value"]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value or value.isspace():
        raise DataError(f"{name} must be a text that is not empty, found {shown(value)}")
    return value


def _images(rest: dict[str, Any], context: RowContext) -> tuple[str, ...]:
    """Absolute paths of a row's images: `image` or `images`, absent, empty, a path or a list of paths."""
    if "image" in rest and "images" in rest:
        raise DataError("both 'image' and 'images'; keep one")
    key = "images" if "images" in rest else "image"
    value = rest.pop(key, None)
    if value is None or value == "":
        return ()
    paths = value if isinstance(value, list) else [value]
    return tuple([_image(path, key, context) for path in paths])


def _image(path: Any, key: str, context: RowContext) -> str:
    if not isinstance(path, str) or not path:
        raise DataError(f"{key!r} must be a path or a list of paths, found {shown(path)}")
    if (decoded := decoded_image(path)) is not None:
        return decoded
    absolute = path if path.startswith("/") else f"{context.root}/{path}"
    if context.exists(absolute):
        if (place := context.outside(absolute)) is None:
            return absolute
        fix = "set image_root to a folder that holds it, or allow_outside_image_root: true"
        raise DataError(
            f"image {shown(path, 300)} lies outside of image_root {context.shown_root}, at {shown(place, 300)}; {fix}"
        )
    if path.startswith(("http://", "https://", "data:")):
        raise DataError(f"image {shown(path)} is not a file; save it as one, nothing is fetched")
    if os.path.islink(absolute):
        raise DataError(f"image {shown(path, 300)} is a link that leads nowhere or in a circle; mend the link")
    where = "" if path.startswith("/") else f" under {context.shown_root}"
    raise DataError(f"image {shown(path, 300)} not found{where}; set image_root or fix the path")


def _check_placeholders(problem: str, n_images: int) -> None:
    n_placeholders = problem.count(PLACEHOLDER)
    if n_placeholders not in (0, n_images):
        raise DataError(
            f"the text has {n_placeholders} {PLACEHOLDER} for {n_images} image{'s' * (n_images != 1)}:"
            f" {shown(problem)}; write one for each image, or none (the images then come first)"
        )


def _task(rest: dict[str, Any], inherited: str | None) -> str | None:
    """A row's own `task`, else VLM-R1's `accu_reward_method` (which stays in extra), else its file's."""
    key = next((key for key in ("task", "accu_reward_method") if rest.get(key) is not None), None)
    task = inherited if key is None else rest[key]
    if key is not None and (not isinstance(task, str) or not task):
        raise DataError(f"{key!r} must be a name, found {shown(task)}")
    rest.pop("task", None)
    return task


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
