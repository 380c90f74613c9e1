"""What starting on a large data set costs: seconds and peak memory, 1,000,000 rows against 1,000.

Each start is a fresh process: import, load_dataset, then two shuffled batches through two loader workers, by the
sampler that TRL uses. A quarter of the rows is text, a quarter has one of 1,000 shared images, a quarter an image
of its own, a quarter both. Parquet has the same rows, its images as paths and its solutions as text, since a column
has one type. Must hold for each format: under 30 s and 1.5 GiB more than the small start.

    python benchmarks/data_loading.py [--rows 1000000] [--formats .jsonl .json .parquet] [--folder /a/scratch/folder]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FORMATS = [".jsonl", ".json", ".parquet"]
MAX_SECONDS, MAX_GIB = 30, 1.5
SMALL = 1_000
_LINKS_PER_FILE = 50_000  # ext4 allows 65,000
_FILES_PER_FOLDER = 10_000
_ROWS_PER_GROUP = 10_000  # of a Parquet file
_QUESTION = "What is the {} object to the left of the {}th one, and how many of its kind are there in the picture?"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--folder", type=Path, help="where to write the rows and images (default: a temporary one)")
    parser.add_argument("--start", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.start:
        print(json.dumps(_start(args.start)))
        return 0
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
        return _compare(args.folder, args.rows, args.formats)
    with tempfile.TemporaryDirectory() as folder:
        return _compare(Path(folder), args.rows, args.formats)


def _compare(folder: Path, n_rows: int, formats: list[str]) -> int:
    _write_images(folder, n_rows)
    print(f"{'format':8} {'rows':>9} {'file':>9} {'start':>8} {'CPU':>8} {'load':>8} {'peak':>10}")
    held = True
    for suffix in formats:
        small, large = (_measure(folder / f"{n}{suffix}", n) for n in (SMALL, n_rows))
        seconds, cpu, gib = (large[name] - small[name] for name in ("start_s", "cpu_s", "peak_gib"))
        held = held and seconds < MAX_SECONDS and gib < MAX_GIB
        print(f"{suffix:8} the large start costs {seconds:.1f} s ({cpu:.1f} s of CPU) and {gib:.2f} GiB more")
    print(
        f"must be under {MAX_SECONDS} s and {MAX_GIB} GiB on a quiet machine: {'holds' if held else 'does not hold'}"
    )
    return 0 if held else 1


def _measure(file: Path, n_rows: int) -> dict[str, float]:
    """One start in a fresh process: seconds, CPU seconds with its workers', seconds of load_dataset, peak GiB."""
    _write_rows(file, n_rows)
    command = [sys.executable, __file__, "--start", str(file)]
    began, cpu_began = time.monotonic(), _children_cpu_s()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    report = json.loads(done.stdout.splitlines()[-1])
    report |= {"start_s": time.monotonic() - began, "cpu_s": _children_cpu_s() - cpu_began}
    times = " ".join(f"{report[name]:6.1f} s" for name in ("start_s", "cpu_s", "load_s"))
    mib = file.stat().st_size / 2**20
    print(f"{file.suffix:8} {n_rows:9,} {mib:5.0f} MiB {times} {report['peak_gib']:6.2f} GiB", flush=True)
    return report


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _start(path: str) -> dict[str, float]:
    from torch.utils.data import DataLoader
    from trl.trainer.utils import RepeatSampler

    from omnirl_core.data import load_dataset, open_image

    began = time.monotonic()
    rows = load_dataset(path)
    load_s = time.monotonic() - began
    sampler = RepeatSampler(rows, mini_repeat_count=8, batch_size=4, repeat_count=1, shuffle=True, seed=0)
    batches = iter(DataLoader(rows, batch_size=32, sampler=sampler, num_workers=2, collate_fn=list))
    for _ in range(2):
        for row in next(batches):
            for image in row["images"]:
                open_image(image, row["row_id"])
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    return {"load_s": load_s, "peak_gib": peak_kib / 2**20}


def _write_images(folder: Path, n_rows: int) -> None:
    """1,000 shared images, and one for every second row: hard links, so that a million files fit on a disk."""
    from PIL import Image

    original = folder / "original.jpg"
    Image.effect_mandelbrot((224, 160), (-2, -1, 1, 1), 30).convert("RGB").save(original)
    names = [f"shared/{i}.jpg" for i in range(1_000)] + [_own_image(i) for i in range(n_rows) if i % 4 >= 2]
    for i, name in enumerate(names):
        file = folder / name
        if i < 1_000 or (i - 1_000) % (_FILES_PER_FOLDER // 2) == 0 or not file.parent.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
        if i % _LINKS_PER_FILE == 0:
            source = folder / f"original-{i}.jpg"
            source.write_bytes(original.read_bytes())
        if not file.exists():
            os.link(source, file)


def _own_image(row: int) -> str:
    return f"own/{row // _FILES_PER_FOLDER}/picture_{row:07}.jpg"


def _write_rows(file: Path, n_rows: int) -> None:
    if file.suffix == ".parquet":
        _write_parquet(file, n_rows)
        return
    with file.open("w") as out:
        for i in range(n_rows):
            row = _row(i)
            if file.suffix == ".jsonl":
                out.write(json.dumps(row) + "\n")
            else:
                out.write(("[" if i == 0 else ",\n ") + json.dumps(row, indent=1) + ("]" if i == n_rows - 1 else ""))


def _write_parquet(file: Path, n_rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    schema = pa.schema([("problem", text), ("solution", text), ("task", text), ("images", pa.list_(text))])
    with pq.ParquetWriter(file, schema) as out:
        for first in range(0, n_rows, _ROWS_PER_GROUP):
            rows = [_row(i) for i in range(first, min(first + _ROWS_PER_GROUP, n_rows))]
            for row in rows:
                image, solution = row.pop("image", []), row["solution"]
                row["images"] = [image] if isinstance(image, str) else image
                row["solution"] = solution if solution is None else str(solution)
            out.write_table(pa.Table.from_pylist(rows, schema))


def _row(i: int) -> dict[str, Any]:
    row = {"problem": _QUESTION.format(i % 977, i), "solution": _solution(i), "task": ("color", "boxes")[i % 2]}
    images = [f"shared/{i * 7919 % 1_000}.jpg"] * (i % 4 in (1, 3)) + [_own_image(i)] * (i % 4 >= 2)
    if images:
        row["image"] = images if i % 8 >= 4 or len(images) > 1 else images[0]
    return row


def _solution(i: int) -> Any:
    return [f"The answer is {i}.", i, [i * 0.25, 1.5, i + 10.0, 99.125], None][i % 4]


if __name__ == "__main__":
    sys.exit(main())
