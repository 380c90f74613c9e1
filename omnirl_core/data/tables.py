"""Files of rows: what is read by its ending, the readers of Parquet, CSV and TSV, and folders that `datasets` saved."""

import csv
import json
import os
import sys
from collections.abc import Callable, Container, Iterable, Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from omnirl_core.data.json_reader import MAX_ROW_BYTES, RawRow, StrictDecoder, count_jsonl, read_json, read_jsonl
from omnirl_core.data.record import DataError, image_file, shown

ARROW_BATCH = 256
"""Rows that are in memory at once, their images included."""


def read_parquet(path: str, keep: Container[int] | None = None) -> Iterator[RawRow]:
    """The rows of a Parquet file, numbered from 1; images inside of it become files in the cache of `datasets`."""
    return arrow_rows(_parquet(path, lambda file: file.iter_batches(ARROW_BATCH)), keep)


def count_parquet(path: str) -> int:
    """Rows as its footer says, without reading them."""
    return int(next(_parquet(path, lambda file: [file.metadata.num_rows])))


def _parquet(path: str, read: Callable[[pq.ParquetFile], Iterable[Any]]) -> Iterator[Any]:
    """What `read` gives of the file, one after the other; its faults, and no others, are DataErrors."""
    try:
        with pq.ParquetFile(path) as file:
            yield from read(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet: {str(error).splitlines()[0]}") from error


def open_saved(path: str) -> datasets.Dataset:
    """The data set of a folder of `Dataset.save_to_disk`; DataError where it is none, or one of several splits."""
    try:
        found = datasets.load_from_disk(path)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not readable as a saved data set: {str(error).splitlines()[0]}") from error
    if not isinstance(found, datasets.Dataset):
        splits = ", ".join(os.path.join(path, str(split)) for split in found)
        raise DataError(f"{path}: holds several splits; name one: {splits}")
    return found


def is_saved(path: str) -> bool:
    """Whether `datasets` saved this folder."""
    return any(os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_dict.json"))


def read_csv(path: str, keep: Container[int] | None = None) -> Iterator[RawRow]:
    """The rows of a CSV or TSV file whose first line names the columns; each has the line that it starts on.

    Cells are texts, and null where they are empty. One that starts with `[` or `{` and is JSON becomes its value.
    """
    csv.field_size_limit(min(MAX_ROW_BYTES, sys.maxsize))
    decoder = StrictDecoder()
    with open(path, encoding="utf-8-sig", newline="") as file:  # spreadsheets write the byte order mark
        lines = csv.reader(file, delimiter="\t" if path.endswith(".tsv") else ",", strict=True)
        try:
            names = next(lines, [])
            _check_header(path, names)
            index, line = 0, lines.line_num + 1
            for cells in lines:
                if cells:
                    if keep is None or index in keep:
                        yield _csv_row(names, cells, line, decoder)
                    index += 1
                line = lines.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}:{lines.line_num}: {error}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{lines.line_num + 1}: not UTF-8; save the file as UTF-8") from error


def _check_header(path: str, names: list[str]) -> None:
    if not names or not all(name.strip() for name in names):
        raise DataError(f"{path}:1: the first line must name every column, found {shown(names)}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}:1: column {twice!r} appears twice; rename one")
    if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
        raise DataError(f"{path}:1: one column {shown(names[0])}; separate by commas, or by tabs in a .tsv file")


def _csv_row(names: list[str], cells: list[str], line: int, decoder: StrictDecoder) -> RawRow:
    if len(cells) != len(names):
        return RawRow(line, None, f"{len(cells)} cells for {len(names)} columns; put a cell with commas into quotes")
    values: dict[str, object] = {}
    for name, cell in zip(names, cells, strict=True):
        try:
            values[name], fault = decoder.decode(cell) if cell.startswith(("[", "{")) else (cell or None, None)
        except json.JSONDecodeError:
            values[name], fault = cell, None
        if fault:
            return RawRow(line, None, f"column {name!r}: {fault}")
    return RawRow(line, values)


def open_hub(name: str, config: str | None = None, split: str = "train") -> datasets.Dataset:
    """The data set, downloaded by `datasets` unless it is in its cache."""
    try:
        return datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError) as error:  # unknown name, no network, unknown configuration or split
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{name}: no such file, and not readable as a hub data set (split {split!r}): {reason};"
            " fix the path (.json, .jsonl or .yaml) or the name"
        ) from error


def hub_rows(dataset: datasets.Dataset, keep: Container[int] | None = None) -> Iterator[RawRow]:
    """Its rows, numbered from 1; images inside the data set become files in the cache of `datasets`."""
    # as arrow: images stay encoded
    tables = dataset.with_format("arrow").iter(batch_size=ARROW_BATCH)
    return arrow_rows((batch for table in tables for batch in table.to_batches()), keep)


def arrow_rows(batches: Iterable[pa.RecordBatch], keep: Container[int] | None = None) -> Iterator[RawRow]:
    """The rows of arrow batches, numbered from 1; only those kept become Python objects."""
    decoder = StrictDecoder()
    first = 0
    for batch in batches:
        size = batch.num_rows
        kept = [n for n in range(size) if keep is None or first + n in keep]
        if len(kept) < size:
            batch = batch.take(pa.array(kept, type=pa.int64()))
        for n, row in zip(kept, batch.to_pylist(), strict=True):
            yield _raw_row(decoder, first + n + 1, row)
        first += size


def _raw_row(decoder: StrictDecoder, number: int, row: dict[str, Any]) -> RawRow:
    values = {
        key: [_image_path(image) for image in value] if isinstance(value, list) else _image_path(value)
        for key, value in row.items()
    }
    try:
        text = _ENCODER.encode(values)
    except TypeError as error:  # bytes
        key = next(key for key, value in values.items() if not _is_json(value))
        fix = "save a copy without that column"
        return RawRow(number, None, f"column {key!r} holds what JSON cannot ({error}); {fix}")
    value, fault = decoder.decode(text)  # the same faults as in a file: NaN, surrogates
    return RawRow(number, value, fault)


def _text(value: object) -> str:
    if isinstance(value, date | time | timedelta | Decimal):
        return str(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


_ENCODER = json.JSONEncoder(default=_text, check_circular=False)  # made once: json.dumps makes one a call


def _is_json(value: object) -> bool:
    try:
        _ENCODER.encode(value)
    except TypeError:
        return False
    return True


_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
"""How files of images begin."""


def _image_path(image: Any) -> Any:
    """The path of an image that `datasets` holds as {"bytes", "path"}, or of bare bytes; anything else as it is."""
    if isinstance(image, bytes) and image.startswith(_STARTS):
        return image_file(image)
    if not isinstance(image, dict) or set(image) != {"bytes", "path"}:
        return image
    if image["bytes"] is None:
        return image["path"]
    return image_file(image["bytes"], PurePath(image["path"] or "").suffix)


READERS: dict[str, Callable[[str, Container[int] | None], Iterator[RawRow]]] = {
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
    ".csv": read_csv,
    ".tsv": read_csv,
}
"""Ending -> reader of the rows of a file, all of them or those of the given indices. A new format is a row here."""
COUNTERS: dict[str, Callable[[str], int]] = {".jsonl": count_jsonl, ".parquet": count_parquet}
"""Ending -> what counts the rows without parsing them."""


def tables_in(folder: str) -> list[str]:
    """The data files of a folder, or of the folders in it where it has none itself."""
    for depth in ("[!.]*", "*/[!.]*"):
        paths = [path for path in sorted(Path(folder).glob(depth)) if path.suffix in READERS and path.is_file()]
        if found := [str(path) for path in paths if not path.name.startswith("dataset_info")]:
            return found
    return []


def check_file(place: str) -> None:
    kinds = f"{', '.join(READERS)} or .yaml"
    if not os.path.exists(place):
        raise DataError(f"{place}: no such data file; a data file is {kinds}, a hub name is org/name")
    if not is_saved(place) and not (os.path.isfile(place) and place.endswith(tuple(READERS))):
        kind = "a file of unknown kind" if os.path.isfile(place) else "a folder"
        raise DataError(": ".join([f"{place}: {kind}; give a {kinds} file", *tables_in(place)[:1]]))
