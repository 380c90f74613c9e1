"""Types: names shared by every module, the glossary of tensor shapes, and whether a setting takes a value.

Shapes, written as a comment on the line where a tensor changes: `B` prompts in a batch, `G` completions per
prompt (one group), `P` prompt tokens, `C` completion tokens, `V` vocabulary, `N` patches of all images of a batch.
"""

import difflib
import enum
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

Message: TypeAlias = dict[str, Any]
"""One chat turn: `{"role": "user", "content": "..." | [{"type": "text" | "image", ...}, ...]}`."""

Sample: TypeAlias = dict[str, Any]
"""One sample of a data set: its columns by name."""

Line: TypeAlias = dict[str, Any]
"""One line of a JSON Lines file."""

JsonObject: TypeAlias = dict[str, Any]
"""A mapping as JSON and YAML have it: settings, facts of a run, what a page shows."""

Columns: TypeAlias = dict[str, list[Any]]
"""A batch of samples as `datasets` has it: the values of each column."""

ModelInputs: TypeAlias = dict[str, Any]
"""What a processor makes and a model takes, by name: tensors, and lists that follow the samples."""

Settings: TypeAlias = Mapping[str, Any]
"""Settings, columns or facts by name, to be read only."""

Completion: TypeAlias = str | list[Message]
"""What a model answered: plain text, or (conversational data sets) a list of assistant messages."""

Box: TypeAlias = tuple[float, float, float, float]
"""`(x1, y1, x2, y2)`, exclusive end, in pixels of the original image unless a name says otherwise."""


def nearest(name: object, known: Iterable[object], only_close: bool = False) -> str:
    """Tail of an error about an unknown name: the nearest known one, or all of them unless `only_close`.

    >>> nearest("blue", ["bleu", "rouge"]), nearest("x", ["bleu", "rouge"])
    ("; did you mean 'bleu'?", '; known: bleu, rouge')
    """
    names = [str(one) for one in known if one is not None]
    close = difflib.get_close_matches(str(name), names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    if only_close:
        return ""
    return f"; known: {', '.join(names)}" if names else "; it has none"


def counted(n: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "row"), counted(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def nearest_file(path: str) -> str:
    """The file or folder with the most similar name beside the one that is not there; "" where it is."""
    parent = Path(path).parent
    if Path(path).exists():
        return ""
    if not parent.is_dir():
        return f"; there is no folder {parent}"
    names = [str(other) for other in sorted(parent.iterdir())[:1000] if not other.name.startswith(".")]
    return nearest(path, names, only_close=True)


def setting(default: T, help_text: str, choices: list[str] | None = None) -> T:
    """A field of a dataclass of settings, with what `--help` says of it and the only values that it takes."""
    return field(default=default, metadata={"help": help_text} | ({"choices": choices} if choices else {}))


def check_choice(setting: str, value: object, choices: Collection[object]) -> None:
    """ValueError naming the nearest choice when a setting has none of its values."""
    if value not in choices:
        raise ValueError(f"{setting}: {value!r} is not a choice{nearest(value, choices)}")


def value_faults(name: str, value: object, annotation: object) -> list[str]:
    """One message where a parameter with this annotation does not take the value.

    >>> value_faults("threshold", "high", float | None)
    ["threshold: 'high' is not float or null"]
    """
    wanted = alternatives(annotation)
    if not wanted or any(_fits(value, kind) for kind in wanted):
        return []
    choices = choices_of(annotation)
    if choices:
        return [f"{name}: {value!r} is not a choice{nearest(value, choices)}"]
    return [f"{name}: {value!r} is not {' or '.join(_kind_name(kind) for kind in wanted)}"]


def alternatives(annotation: object) -> tuple[object, ...]:
    """Members of a union; () where the annotation says nothing that could be checked."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return typing.get_args(annotation)
    return () if annotation in (None, Any) or isinstance(annotation, str) else (annotation,)


def choices_of(annotation: object) -> list[object]:
    """The values that the literals and enumerations of an annotation name."""
    choices: list[Any] = []
    for kind in alternatives(annotation):
        if typing.get_origin(kind) is typing.Literal:
            choices += typing.get_args(kind)
        elif isinstance(kind, type) and issubclass(kind, enum.Enum):
            choices += [member.value for member in kind]
    return choices


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind)
    kind = typing.get_origin(kind) or kind
    if not isinstance(kind, type):
        return True
    if isinstance(value, bool):  # True is an int to Python, and a slip in a YAML
        return kind is bool
    return isinstance(value, kind) or (kind is float and isinstance(value, int))


def _kind_name(kind: Any) -> str:
    return "null" if kind is type(None) else getattr(kind, "__name__", str(kind))
