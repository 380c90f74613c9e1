"""The rows of a run, the same on every process: what one of them finds bad, all leave out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from omnirl_core.config import DataArguments
from omnirl_core.data import DataError, find_bad_rows, limit_pixels, load_dataset
from omnirl_core.data.images import Rules


def read_rows(data: DataArguments, name: str, seed: int, report: Path) -> Dataset:
    """The rows of the file `name`; with `on_bad_sample: skip` every bad one is named in the file `report`."""
    rules: Rules = {
        "on_bad_sample": data.on_bad_sample, "check_images": data.check_images,
        "allow_outside_image_root": data.allow_outside_image_root,
    }  # fmt: skip
    if data.max_image_pixels is not None:
        limit_pixels(data.max_image_pixels)
    if data.on_bad_sample == "skip":
        columns: Any = data.columns  # a mapping since __post_init__
        allows_outside = data.allow_outside_image_root
        rules["bad_rows"] = bad = agreed_bad_rows(name, data.image_root, seed, allows_outside, columns)
        if PartialState().is_main_process:
            write_bad_rows(report, bad)
    return load_dataset(
        name,
        data.image_root,
        templates=data.templates,  # type: ignore[arg-type]  # a mapping since __post_init__
        system_prompt=data.system_prompt,
        columns=data.columns,  # type: ignore[arg-type]
        seed=seed,
        **rules,
    )


def agreed_bad_rows(
    name: str,
    image_root: str | None,
    seed: int = 0,
    allow_outside_image_root: bool = False,
    columns: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Every bad row and why, the same on all processes, each of which looks at the images of its share of rows.

    A process that cannot read the data raises on all of them: none waits for it.
    """
    state = PartialState()
    fault, own = None, {}
    try:
        share = (state.process_index, state.num_processes)
        where: Rules = {"allow_outside_image_root": allow_outside_image_root}
        own = find_bad_rows(name, image_root, columns=columns, seed=seed, share=share, **where)
    except DataError as error:
        fault = str(error)
    found = gather_object([(own, fault)])
    for _, fault in found:
        if fault is not None:
            raise DataError(fault)
    return {row_id: message for bad, _ in found for row_id, message in bad.items()}


def write_bad_rows(report: Path, bad_rows: Mapping[str, str]) -> None:
    """One line a bad row; where there is none, no report of an earlier run stays."""
    if not bad_rows:
        report.unlink(missing_ok=True)
        return
    report.parent.mkdir(parents=True, exist_ok=True)
    lines = [message.replace("\n", " ") for message in bad_rows.values()]
    report.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
