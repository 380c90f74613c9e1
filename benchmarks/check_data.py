"""What checking a large data set costs: rows a second, peak memory, and whether every corrupted row is named.

100,000 rows, each with an image of its own (JPEG, 640 x 480), 1,000 of them corrupted in ten ways, beside 1,000
evaluation rows. The check is `omnirl check-data` on a recipe with max_prompt_length, in a fresh process; the start
(importing TRL, loading the processor) is not in the rate. Must hold: at least 1,000 rows a second on two cores,
memory that does not grow with the rows, and every corrupted row named, and no other.

    python benchmarks/check_data.py [--rows 100000] [--decode] [--folder /a/scratch/folder]
"""

import argparse
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

_TOKEN_SIDE = 16  # of the tiny policy
_FILES_PER_FOLDER = 10_000
_QUESTION = "What is the {} object from the left, and how many of its kind are there?"

Row = dict[str, object]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--decode", action="store_true", help="every pixel, not headers only")
    parser.add_argument("--folder", type=Path, help="where to write rows and images (default: a temporary one)")
    arguments = parser.parse_args(argv)
    if arguments.folder:
        return _measure_all(arguments.folder, arguments.rows, arguments.decode)
    with tempfile.TemporaryDirectory() as folder:
        return _measure_all(Path(folder), arguments.rows, arguments.decode)


def _measure_all(folder: Path, n_rows: int, decode: bool) -> int:
    print(f"{'rows':>9} {'workers':>8} {'seconds':>8} {'rows/s':>8} {'CPU s':>7} {'peak MiB':>9}  named")
    held = True
    for size in (n_rows // 10, n_rows):
        data = folder / str(size)
        bad = write_rows(data, size, n_bad=size // 100)
        for workers in (1, 2) if size == n_rows else (2,):
            seconds, cpu, peak, named = _measure(data, workers, decode)
            right = named == bad
            held = held and right
            hits = named.items() & bad.items()
            found = f"{len(hits):,} of {len(bad):,}, {len(named) - len(hits)} others"
            print(
                f"{size:>9,} {workers:>8} {seconds:>8.1f} {size / seconds:>8,.0f} {cpu:>7.1f} {peak:>9,.0f}  {found}"
            )
    return int(not held)


def _measure(data: Path, workers: int, decode: bool) -> tuple[float, float, float, dict[str, str]]:
    """(seconds over the rows, CPU seconds, peak MiB of all processes, the rows that the report names)."""
    report = data / f"report_{workers}.txt"
    command = [sys.executable, "-c", _TIMED, str(data / "recipe.yaml"), "--workers", str(workers)]
    command += ["--report", str(report), *(["--decode"] if decode else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak: list[float] = [0.0]
    watch = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
    watch.start()
    out, _ = process.communicate(timeout=3600)
    watch.join()
    seconds, cpu = map(float, re.search(r"^timed ([\d.]+) ([\d.]+)$", out, re.MULTILINE).groups())
    return seconds, cpu, peak[0], named_rows(report)


_TIMED = """
import os, sys, time
import omnirl_tools.commands.check_data as command
from omnirl_tools.cli import main
check = command.check_data
def timed(*args, **kwargs):
    start, before = time.perf_counter(), sum(os.times()[:4])
    found = check(*args, **kwargs)
    print(f"timed {time.perf_counter() - start:.3f} {sum(os.times()[:4]) - before:.3f}")
    return found
command.check_data = timed
main(["check-data", *sys.argv[1:]])
"""


def _watch(pid: int, peak: list[float]) -> None:
    """The largest sum of proportional memory (PSS: shared pages counted once) of the process and its children."""
    while Path(f"/proc/{pid}").exists():
        total = 0.0
        for one in [pid, *_children(pid)]:
            try:
                text = Path(f"/proc/{one}/smaps_rollup").read_text()
            except OSError:
                continue
            total += sum(int(kib) for kib in re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE)) / 1024
        if not total:
            return
        peak[0] = max(peak[0], total)
        time.sleep(0.5)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


# --- rows and images, good and corrupted; the suite uses them too ---


def write_rows(folder: Path, n_rows: int, n_bad: int, size: tuple[int, int] = (640, 480)) -> dict[str, str]:
    """Write train.jsonl, test.jsonl, recipe.yaml and one image a row; returns what must be found:
    `file:line` -> kind of fault.

    Corruptions follow each other in the order of `CORRUPTIONS`, at random places of train.jsonl.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = [_jpeg(seed, size) for seed in range(20)]
    n_eval = max(2, n_rows // 100)
    test = [_row(folder, "test", i, images[i % 20]) for i in range(n_eval)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
    places = sorted(random.Random(0).sample(range(n_rows), n_bad))
    corrupt = dict(zip(places, [CORRUPTIONS[i % len(KINDS)] for i in range(n_bad)], strict=True))
    with open(folder / "train.jsonl", "w") as file:
        for i in range(n_rows):
            row = _row(folder, "train", i, images[i % 20])
            line = corrupt[i](row, folder, test[i % n_eval]) if i in corrupt else json.dumps(row)
            file.write(line + "\n")
    (folder / "recipe.yaml").write_text(
        f"output_dir: {folder}/run\ndataset_name: {folder}/train.jsonl\neval_dataset_name: {folder}/test.jsonl\n"
        f"rewards: recipes/mixed/rewards.yaml\nmodel_name_or_path: tiny_policy\nmax_pixels: {size[0] * size[1]}\n"
        f"templates: {{default: plain}}\nmax_prompt_length: {size[0] * size[1] // _TOKEN_SIDE**2 + 200}\n"
    )
    return {f"{folder}/train.jsonl:{place + 1}": KINDS[i % len(KINDS)] for i, place in enumerate(places)}


def _jpeg(seed: int, size: tuple[int, int]) -> bytes:
    random_pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(random_pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _row(folder: Path, split: str, i: int, image: bytes) -> Row:
    place = folder / "img" / split / str(i // _FILES_PER_FOLDER)
    if i % _FILES_PER_FOLDER == 0:
        place.mkdir(parents=True, exist_ok=True)
    path = place / f"{i}.jpg"
    path.write_bytes(image)
    return {
        "problem": _QUESTION.format(f"{split} {i}"),
        "solution": i,
        "image": str(path.relative_to(folder)),
    }


def _rewrite(change: Callable[[bytes], bytes]) -> Callable[[Row, Path, Row], str]:
    """A corruption of the image's file."""

    def corrupt(row: Row, folder: Path, _: Row) -> str:
        path = folder / str(row["image"])
        path.write_bytes(change(path.read_bytes()))
        return json.dumps(row)

    return corrupt


def _saved(size: tuple[int, int]) -> Callable[[bytes], bytes]:
    def save(_: bytes) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size, "gray").save(buffer, "PNG")
        return buffer.getvalue()

    return save


def _huge_header(_: bytes) -> bytes:
    """A PNG whose header says 20,000 x 20,000."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _no_solution(row: Row, folder: Path, _: Row) -> str:
    return json.dumps({"problem": row["problem"], "image": row["image"]})


def _missing(row: Row, folder: Path, _: Row) -> str:
    os.remove(folder / str(row["image"]))
    return json.dumps(row)


def _copied(row: Row, folder: Path, test: Row) -> str:
    """The question of an evaluation row, and a copy of its image."""
    (folder / str(row["image"])).write_bytes((folder / str(test["image"])).read_bytes())
    return json.dumps({**row, "problem": test["problem"]})


CORRUPTIONS: list[Callable[[Row, Path, Row], str]] = [
    lambda row, folder, test: json.dumps(row)[:-9],  # the line is cut
    _no_solution,
    lambda row, folder, test: json.dumps({**row, "problem": "<image><image> which?"}),
    _missing,
    _rewrite(lambda jpeg: jpeg[: len(jpeg) // 2]),  # the image is cut
    _rewrite(lambda jpeg: b"<html>404 not found</html>"),
    _rewrite(_saved((5, 40))),  # too small
    _rewrite(_huge_header),  # too large
    lambda row, folder, test: json.dumps({**row, "problem": f"{row['problem']} " * 40}),  # too long
    _copied,
]

KINDS = ("row", "row", "row", "row", "image", "image", "size", "image", "length", "duplicate")
"""What the check calls each of `CORRUPTIONS`."""


def named_rows(report: Path) -> dict[str, str]:
    """The rows that a report names: `file:line` -> kind of fault."""
    return dict(re.findall(r"^(\S+?:\d+(?:#\d+)?): .* \[(\w+)\]$", report.read_text(), re.MULTILINE))


if __name__ == "__main__":
    sys.exit(main())
