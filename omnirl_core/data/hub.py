"""Rows of a data set on the Hugging Face hub, in the form that rows of a file have."""

import json
from collections.abc import Container, Iterable, Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any

import datasets
import pyarrow as pa

from omnirl_core.data.embedded import image_file
from omnirl_core.data.json_reader import RawRow, StrictDecoder
from omnirl_core.data.record import DataError


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
    tables = dataset.with_format("arrow").iter(batch_size=256)
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
    texts = []
    for key, value in row.items():
        value = [_image_path(image) for image in value] if isinstance(value, list) else _image_path(value)
        try:
            texts.append(f"{json.dumps(key)}:{json.dumps(value, default=_text)}")
        except TypeError as error:  # bytes
            fix = "save a copy without that column"
            return RawRow(number, None, f"column {key!r} holds what JSON cannot ({error}); {fix}")
    value, fault = decoder.decode("{" + ",".join(texts) + "}")  # the same faults as in a file: NaN, surrogates
    return RawRow(number, value, fault)


def _text(value: object) -> str:
    if isinstance(value, date | time | timedelta | Decimal):
        return str(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _image_path(image: Any) -> Any:
    """The path of an image that `datasets` holds as {"bytes", "path"}; anything else as it is."""
    if not isinstance(image, dict) or set(image) != {"bytes", "path"}:
        return image
    if image["bytes"] is None:
        return image["path"]
    return image_file(image["bytes"], PurePath(image["path"] or "").suffix)
