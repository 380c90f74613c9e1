"""Rows of a data set on the Hugging Face hub, in the form that rows of a file have."""

import hashlib
import json
import os
import tempfile
from collections.abc import Container, Iterator
from pathlib import Path, PurePath
from typing import Any

import datasets

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
    decoder = StrictDecoder()
    index = 0
    for batch in dataset.with_format("arrow").iter(batch_size=256):  # as arrow: images stay encoded
        for row in batch.to_pylist():
            if keep is None or index in keep:
                yield _raw_row(decoder, index + 1, row)
            index += 1


def image_folder() -> Path:
    """Where images inside of hub data sets are written, by their content."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "omnirl_images"


def _raw_row(decoder: StrictDecoder, number: int, row: dict[str, Any]) -> RawRow:
    for key in ("image", "images"):
        if isinstance(row.get(key), list):
            row[key] = [_image_path(image) for image in row[key]]
        elif key in row:
            row[key] = _image_path(row[key])
    texts = []
    for key, value in row.items():
        try:
            texts.append(f"{json.dumps(key)}:{json.dumps(value)}")
        except TypeError as error:  # dates, bytes
            fix = "save a copy without that column"
            return RawRow(number, None, f"column {key!r} holds what JSON cannot ({error}); {fix}")
    value, fault = decoder.decode("{" + ",".join(texts) + "}")  # the same faults as in a file: NaN, surrogates
    return RawRow(number, value, fault)


def _image_path(image: Any) -> Any:
    """The path of an image that `datasets` holds as {"bytes", "path"}; anything else as it is."""
    if not isinstance(image, dict) or set(image) != {"bytes", "path"}:
        return image
    if image["bytes"] is None:
        return image["path"]
    folder = image_folder()
    name = hashlib.sha256(image["bytes"]).hexdigest()[:40] + PurePath(image["path"] or "").suffix
    file = folder / name[:2] / name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "wb") as out:
            out.write(image["bytes"])
        os.replace(unfinished, file)  # several processes may write the same image
    return str(file)
