"""Which columns of a data set are its questions, answers, images and options, from names and values."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omnirl_core.data.columns import ColumnNames, named_columns
from omnirl_core.data.record import ALIASES, PLACEHOLDER, image_folder

QUESTIONS = (*ALIASES["problem"], "ques", "user", "human", "message")
ANSWERS = (*ALIASES["solution"], "ans", "correct_answer", "correct", "assistant", "gpt", "reply", "class", "category")
CONTEXTS = ("context", "passage", "input")
"""Texts that a question is about, and belongs after."""
IDS = re.compile(r"(.*_)?(id|uid|uuid)|idx|index", re.I)
CAPTIONS = ("caption", "captions", "description", "sentence", "sentences")
IMAGE_NAMES = re.compile(
    r"(^|_)(images?|img|photos?|pics?|pictur\w+|file_?name|file|path)(_?\d+|_path|_file|_name)?$", re.I
)
IMAGE_FILE = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|ppm|jp2|avif|tga|ico)$", re.I)
ENCODED = re.compile(r"data:image/|iVBORw0KGgo|/9j/|UklGR|R0lGOD")
OPTIONS = ("options", "choices", "candidates")
LETTERED = re.compile(
    r"(?:(?:option|choice|answer|opt)[_ ]?)?\(?([A-Ja-j])\)?$|(?:option|choice|opt)[_ ]?([0-9])$", re.I
)
DESCRIBE = "Describe the image."

Row = Mapping[str, Any]


class UnreadableColumns(ValueError):
    """The columns cannot be told apart; the message says what to give."""


@dataclass
class Columns:
    """The mapping of a data set to our names, `{}` where it has them; what was guessed is in `unclear`."""

    names: dict[str, str | list[str] | Mapping[str, object]] = field(default_factory=dict)
    unclear: list[str] = field(default_factory=list)
    lettered: list[str] = field(default_factory=list)
    """Columns that hold one option each, in order."""

    @property
    def mapping(self) -> ColumnNames:
        """Without what the data names as we do."""
        return {ours: theirs for ours, theirs in self.names.items() if ours != theirs}


def find_columns(rows: Sequence[Row], given: ColumnNames | None = None) -> Columns:
    """From the first rows of a data set, as they are read; what `given` maps stays as it is.

    Raises:
        UnreadableColumns: questions or answers were not found.

    >>> find_columns([{"Question": "How many?", "reply": "3", "photo": "a/1.jpg"}]).mapping
    {'image': 'photo', 'problem': 'Question', 'solution': 'reply'}
    """
    found = Columns(dict(given or {}))
    taken = _taken(found)
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in taken))
    chats = [key for key in keys if any(_is_chat(row.get(key)) for row in rows)]
    if chats and "problem" not in found.names:
        _of_chat(found, rows, chats[0])
    images = [key for key in keys if _has_images(key, rows)]
    rest = [key for key in keys if key not in images and key not in chats]
    _images(found, images)
    found.lettered = _lettered(rest, rows)
    rest = [key for key in rest if key not in found.lettered]
    if "conversations" in chats and "problem" not in found.names:
        return found
    _questions(found, rows, rest, bool(images))
    _options(found, rows, rest)
    _answers(found, rows, rest)
    return found


def _questions(found: Columns, rows: Sequence[Row], rest: list[str], has_images: bool) -> None:
    if "problem" in found.names:
        return
    name = _named(rest, ("problem", *QUESTIONS))
    texts = [key for key in rest if any(isinstance(row.get(key), str) for row in rows)]
    if name is None:
        asking = [key for key in texts if _share(rows, key, lambda value: "?" in str(value)) > 0.5]
        name = asking[0] if len(asking) == 1 else None
        if name:
            found.unclear.append(f"column {name!r} was taken for the questions, since most of it has a question mark")
    captions = _named(rest, CAPTIONS)
    if name is None and captions and has_images:
        found.names |= {"problem": {"text": DESCRIBE}, "solution": captions}
        found.unclear.append(
            f"there are no questions; each image is asked {DESCRIBE!r}, with {captions!r} for an answer"
        )
        return
    if name is None:
        raise UnreadableColumns(
            f"no column of questions among {', '.join(rest) or 'none'}; name them: "
            "--columns '{problem: COLUMN, solution: COLUMN}'"
        )
    context = next((key for key in texts if key.lower() in CONTEXTS and key != name), None)
    found.names["problem"] = {"text": f"{{{context}}}\n{{{name}}}"} if context else name


def _answers(found: Columns, rows: Sequence[Row], rest: list[str]) -> None:
    taken = _taken(found)
    if "solution" in found.names:
        return
    left = [key for key in rest if key not in taken and not IDS.fullmatch(key)]
    name = _named(left, ("answer", "solution", *ANSWERS))  # beside an answer, the solution is the way to it
    if name is None and (name := _named(left, CAPTIONS)) is None:
        filled = [key for key in left if _share(rows, key, lambda value: value not in (None, "")) > 0.5]
        if len(filled) != 1:
            raise UnreadableColumns(
                f"no column of answers among {', '.join(left) or 'none'} beside the questions "
                f"({found.names.get('problem')!r}); "
                "name it: --columns '{problem: COLUMN, solution: COLUMN}'. Rewards compare answers with a reference"
            )
        name = filled[0]
        found.unclear.append(f"column {name!r} was taken for the answers: no other is left")
    found.names["solution"] = name
    _index(found, rows, name)
    if "problem" in found.names and "solution" in left and name != "solution":
        found.names["explanation"] = "solution"


def _index(found: Columns, rows: Sequence[Row], name: str) -> None:
    """An answer that is the number of an option becomes its letter."""
    options = [_as_list(_at(row, found.names.get("options"))) for row in rows]
    counts = [len(one) for one in options if one] or ([len(found.lettered)] if found.lettered else [])
    values = [row.get(name) for row in rows if row.get(name) not in (None, "")]
    is_index = values and all(str(value).strip().isdecimal() for value in values)
    if not counts or not is_index:
        return
    texts = {str(option).strip() for one in options for option in one}
    if all(str(value).strip() in texts for value in values):
        return  # the options are numbers, and the answer is one of them
    numbers = [int(str(value)) for value in values]
    first = 0 if 0 in numbers else 1
    if max(numbers) - first >= max(counts):
        found.unclear.append(f"column {name!r} has numbers beyond the {max(counts)} options; they are kept as numbers")
        return
    if first == 1 and max(numbers) < max(counts):
        found.unclear.append(f"column {name!r} counts options from 1, it seems: no 0 was met in {len(values)} rows")
    found.names["solution"] = {"column": name, "index_from": first}


def _options(found: Columns, rows: Sequence[Row], rest: list[str]) -> None:
    name = _named(rest, OPTIONS)
    if name is not None and any(_as_list(row.get(name)) for row in rows):
        found.names["options"] = name


def _images(found: Columns, names: list[str]) -> None:
    if not found.names.keys().isdisjoint(("image", "images")):
        return
    if len(names) > 1:
        found.names["images"] = names
    elif names and names[0] not in ("image", "images"):
        found.names["image"] = names[0]


def _taken(found: Columns) -> set[str]:
    """The columns that the mapping names, those that it leads into included."""
    names = {name for theirs in found.names.values() for name in named_columns(theirs)}
    return names | {name.split(".")[0] for name in names}


def _named(keys: Iterable[str], names: Sequence[str]) -> str | None:
    lower = {key.lower().strip().replace(" ", "_"): key for key in keys}
    return next((lower[name] for name in names if name in lower), None)


def _share(rows: Sequence[Row], key: str, is_so: Any) -> float:
    return sum(bool(is_so(row.get(key))) for row in rows) / len(rows)


def _lettered(keys: list[str], rows: Sequence[Row]) -> list[str]:
    """Columns `A`, `B`, ... or `option_1`, `option_2`, ... of one option each."""
    found = [key for key in keys if LETTERED.fullmatch(key) and any(row.get(key) is not None for row in rows)]
    return sorted(found) if len(found) > 1 else []


def _at(row: Row, name: Any) -> Any:
    return row.get(name) if isinstance(name, str) else None


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []


def _has_images(key: str, rows: Sequence[Row]) -> bool:
    values = [one for row in rows for one in _flat(row.get(key))]
    texts = [value for value in values if isinstance(value, str) and value]
    if not texts or len(texts) < len([value for value in values if value not in (None, "")]):
        return False
    cache = str(image_folder())
    shown = [bool(IMAGE_FILE.search(text) or ENCODED.match(text) or text.startswith(cache)) for text in texts]
    return sum(shown) > 0.5 * len(texts) and (
        all(" " not in text or os.sep in text for text in texts) or bool(IMAGE_NAMES.search(key))
    )


def _flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# -- chats: a list of turns, each {"role", "content"} or {"from", "value"} ----------------------------------------


def _is_chat(value: Any) -> bool:
    turns = value if isinstance(value, list) and value else [None]
    return all(isinstance(turn, Mapping) and _speaker(turn) is not None for turn in turns)


def _speaker(turn: Mapping[str, Any]) -> str | None:
    """`user`, `assistant` or `system`."""
    names = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
    if "content" not in turn and "value" not in turn:
        return None
    said = turn.get("role", turn.get("from"))
    return names.get(str(said), str(said)) if said is not None else None


def _of_chat(found: Columns, rows: Sequence[Row], key: str) -> None:
    """The one question and answer of each chat, by their place, which all rows share."""
    shapes = {tuple(map(str, map(_speaker, row[key]))) for row in rows if _is_chat(row.get(key))}
    places = {shape: (shape.count("user"), shape.count("assistant")) for shape in shapes}
    if len(shapes) > 1 or set(places.values()) - {(1, 1), (1, 0)}:
        shown = "; ".join(", ".join(shape) for shape in sorted(shapes)[:3])
        raise UnreadableColumns(
            f"column {key!r} holds chats of several forms ({shown}); keep one question and one answer each"
        )
    [shape] = shapes
    chats = [row[key] for row in rows if _is_chat(row.get(key))]
    is_native = key == "conversations" and shape == ("user", "assistant") and chats[0][0].get("from") == "human"
    if is_native and chats[0][1].get("from") == "gpt":
        return  # read as it is
    found.names["problem"] = _said(found, key, shape.index("user"), chats)
    if "assistant" in shape:
        found.names.setdefault("solution", _said(found, key, shape.index("assistant"), chats))
    if "system" in shape:
        found.unclear.append(f"the system turns of {key!r} are left out; set system_prompt where they matter")
    found.names["chat"] = key  # off the rows: they have what they need of it


def _said(found: Columns, key: str, index: int, chats: Sequence[Sequence[Row]]) -> str | Mapping[str, object]:
    """What a turn says, as a path to its text or a text of several blocks; its images go to `found`."""
    said = "content" if "content" in chats[0][index] else "value"
    path = f"{key}.{index}.{said}"
    forms = {tuple(map(_block, _flat(chat[index].get(said)))) for chat in chats}
    if len(forms) > 1 or None in (form := min(forms, key=len)):
        raise UnreadableColumns(
            f"column {key!r}: turn {index + 1} has blocks of several forms, or none of text and images; write one "
            "form: images, then a text"
        )
    if form == ("",):
        return path
    images = [f"{path}.{place}.{block}" for place, block in enumerate(form) if block not in ("text", "image?")]
    if images:
        found.names["images" if len(images) > 1 else "image"] = images if len(images) > 1 else images[0]
    texts = [f"{path}.{place}.text" for place, block in enumerate(form) if block == "text"]
    if len(texts) == 1 and form[-1] == "text":
        return texts[0]
    blocks = [f"{{{path}.{place}.text}}" if block == "text" else PLACEHOLDER for place, block in enumerate(form)]
    return {"text": "".join(blocks)}


def _block(block: object) -> str | None:
    """Where a block holds its text ("" where it is one) or its image (`image?` where that is a column's)."""
    if isinstance(block, str):
        return ""
    if not isinstance(block, Mapping):
        return None
    if isinstance(block.get("text"), str) and block["text"]:
        return "text"
    url = block.get("image_url")
    if isinstance(url, Mapping) and isinstance(url.get("url"), str):
        return "image_url.url"
    held = (name for name in ("image", "image_url", "path", "url") if isinstance(block.get(name), str))
    return next(held, "image?" if block.get("type") == "image" else None)
