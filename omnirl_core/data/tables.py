"""Rows of tables: Parquet, CSV and TSV files, and folders that `datasets` saved."""

import csv
import json
import os
import sys
from collections.abc import Container, Iterator

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from omnirl_core.data.hub import arrow_rows, hub_rows
from omnirl_core.data.json_reader import MAX_ROW_BYTES, RawRow, StrictDecoder
from omnirl_core.data.record import DataError, shown

ARROW_BATCH = 256
"""Rows that are in memory at once, their images included."""


def read_parquet(path: str, keep: Container[int] | None = None) -> Iterator[RawRow]:
    """The rows of a Parquet file, numbered from 1; images inside of it become files in the cache of `datasets`."""
    try:
        with pq.ParquetFile(path) as file:
            yield from arrow_rows(file.iter_batches(ARROW_BATCH), keep)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet: {str(error).splitlines()[0]}") from error


def count_parquet(path: str) -> int:
    """Rows as its footer says, without reading them."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet: {str(error).splitlines()[0]}") from error


def read_saved(path: str, keep: Container[int] | None = None) -> Iterator[RawRow]:
    """The rows of a folder of `Dataset.save_to_disk`; DataError where it is none, or one of several splits."""
    try:
        found = datasets.load_from_disk(path)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not readable as a saved data set: {str(error).splitlines()[0]}") from error
    if not isinstance(found, datasets.Dataset):
        splits = ", ".join(os.path.join(path, str(split)) for split in found)
        raise DataError(f"{path}: holds several splits; name one: {splits}")
    yield from hub_rows(found, keep)


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
            values[name], fault = _cell(cell, decoder)
        except json.JSONDecodeError:
            values[name], fault = cell, None
        if fault:
            return RawRow(line, None, f"column {name!r}: {fault}")
    return RawRow(line, values)


def _cell(cell: str, decoder: StrictDecoder) -> tuple[object, str | None]:
    if cell.startswith(("[", "{")):
        return decoder.decode(cell)
    return cell or None, None
