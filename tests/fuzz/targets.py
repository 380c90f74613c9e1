"""What is fuzzed: each target takes bytes, reads them as the code does, and raises where a promise is broken.

An error that the code promises (`DataError`, `YamlFault`, ...) is an answer; any other exception is a finding.
"""

import contextlib
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omnirl_core.boxes import iou, parse_boxes, parse_labelled_boxes
from omnirl_core.data.dataset import PromptFormat
from omnirl_core.data.json_reader import StrictDecoder, read_json, read_jsonl
from omnirl_core.data.record import DataError, RowContext, record_from_row
from omnirl_core.data.sources import Sampling, find_sources
from omnirl_core.rewards.load import RewardsError, load_rewards
from omnirl_core.text import answer_text, find_tags, parse_response, reference_texts, strip_tags
from omnirl_core.yaml_loader import ConfigError, YamlFault, parse_yaml, read_config

_TEMPORARY = tempfile.TemporaryDirectory(prefix="omnirl_fuzz_")
_FOLDER = Path(_TEMPORARY.name)
_PROMPTS = PromptFormat({"default": "plain"})
_ANYWHERE = RowContext("/data", "data", exists=lambda path: True)


def tags(data: bytes) -> None:
    """A response has an answer whenever it is well formed, and both are parts of the text."""
    text = data.decode("utf-8", "replace")
    response = parse_response(text)
    assert response.well_formed == (response.reason == "")
    assert answer_text(text) == response.answer
    for part in (response.think, response.answer):
        assert part is None or part in text
    if response.well_formed:
        assert response.answer is not None
    found = find_tags(text)
    assert [tag.start for tag in found] == sorted(tag.start for tag in found)
    strip_tags(text)
    assert reference_texts(text) in (None, [strip_tags(text)])


def boxes(data: bytes) -> None:
    """Boxes are finite and sorted, the same from text and from what JSON makes of it where that is one list."""
    text = data.decode("utf-8", "replace")
    found = parse_boxes(text)
    assert found == [labelled.box for labelled in parse_labelled_boxes(text)]
    for box in found:
        assert all(math.isfinite(number) and abs(number) <= 1e9 for number in box)
        assert box[0] <= box[2]
        assert box[1] <= box[3]
        assert 0 <= iou(box, box) <= 1
    with contextlib.suppress(ValueError, RecursionError):
        parse_boxes(json.loads(text))


def json_value(data: bytes) -> None:
    """What the strict decoder takes without a fault, json.loads takes too, and makes the same of it."""
    text = data.decode("utf-8", "replace")
    try:
        value, fault = StrictDecoder().decode(text)
    except json.JSONDecodeError:
        return
    if fault is None:
        assert repr(json.loads(text)) == repr(value)
        json.dumps(value, allow_nan=False)


def jsonl(data: bytes) -> None:
    """A row a line, each with a value or a fault; a file as a whole may be refused."""
    file = _write("rows.jsonl", data)
    with contextlib.suppress(DataError):
        rows = list(read_jsonl(file))
        assert len(rows) == sum(not line.isspace() for line in data.split(b"\n") if line)
        assert all(row.fault is None or row.value is None or isinstance(row.fault, str) for row in rows)


def json_list(data: bytes) -> None:
    """The same rows whatever the size of the pieces that the file is read in, and those that json.loads finds."""
    file = _write("rows.json", data)
    read = [_rows(file, chunk) for chunk in (1, 7, 1 << 20)]
    assert read[0] == read[1] == read[2]
    if isinstance(read[0], list) and all(row.fault is None for row in read[0]):
        assert repr([row.value for row in read[0]]) == repr(json.loads(data))


def yaml_text(data: bytes) -> None:
    """Data of plain kinds, or a fault with its line."""
    with contextlib.suppress(YamlFault):
        text = parse_yaml(data.decode("utf-8", "replace"))
        assert all(line > 0 for line, _ in text.given_twice)


def record(data: bytes) -> None:
    """A record from any JSON value, whose prompt has one part an image; or a DataError that begins with its place."""
    try:
        value, _ = StrictDecoder().decode(data.decode("utf-8", "replace"))
    except json.JSONDecodeError:
        return
    rows = [value, {"problem": "Q", "solution": value}, {"problem": "<image>", "solution": 1, "image": value}]
    for row in [*rows, {"conversations": value}, {"problem": value, "solution": value, "task": value}]:
        _record(row)


def rewards(data: bytes) -> None:
    """Rewards, or all faults with their lines."""
    _reads(load_rewards, "rewards.yaml", data, RewardsError, "rewards.yaml:")


def mixture(data: bytes) -> None:
    """Sources, or a DataError; nothing outside of a data file is opened, no hub is asked."""
    text = data.decode("utf-8", "replace")
    if "hub" not in text:
        _reads(find_sources, "mix.yaml", data, DataError, "mix.yaml")
    with contextlib.suppress(ValueError):
        sampling = Sampling.parse(text)
        assert 0 <= sampling.size(10) <= 10
        assert len(sampling.indices(10, "0")) == sampling.size(10)


def config(data: bytes) -> None:
    """A mapping, or faults that name the file."""
    _reads(read_config, "run.yaml", data, ConfigError, "run.yaml")


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (tags, boxes, json_value, jsonl, json_list, yaml_text, record, rewards, mixture, config)
}


def _write(name: str, data: bytes) -> str:
    file = _FOLDER / name
    file.write_bytes(data)
    return str(file)


def _rows(file: str, chunk_chars: int) -> Any:
    try:
        return list(read_json(file, chunk_chars=chunk_chars))
    except DataError:
        return "refused"  # of several faults, the size of the pieces decides which is met first


def _record(row: Any) -> None:
    try:
        made = record_from_row(row, "x.json:1", _ANYWHERE)
    except DataError as error:
        said = str(error)
    else:
        prompt = _PROMPTS.messages(made.problem, len(made.images), made.task)
        assert sum(block["type"] == "image" for block in prompt[-1]["content"]) == len(made.images)
        return
    assert said.startswith("x.json:1: ")


def _reads(read: Callable[[str], Any], name: str, data: bytes, refusal: type[Exception], mark: str) -> None:
    file, said = _write(name, data), None
    try:
        read(file)
    except refusal as error:
        said = str(error)
    assert said is None or mark in said
