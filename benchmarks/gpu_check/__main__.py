"""Measures on one GPU what the tests can only check on a CPU; scripts/gpu_check.sh starts it.

    python benchmarks/gpu_check [--preset 3b] [--minutes 10] [--parts steps ...] [--out benchmarks/gpu]

A randomly initialised Qwen2.5-VL-3B in bf16, nothing fetched. Each part runs in a process of its own with a limit of
seconds; what it has measured is kept in `<out>/<card>.json` item by item, so a second call goes on with what is
missing, and failed or unfinished parts are tried again. `<card>.md` is the table. `--preset tiny` does all of it with
a tiny policy, on a CPU too.
"""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from presets import PRESETS
from tables import markdown

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}
"""Environment of every part: nothing is fetched, and fragments of the allocator do not end a run."""

PARTS = {
    "environment": "environment:environment",
    "attention": "attention:attention",
    "agreement": "agreement:agreement",
    "gradients": "gradients:gradients",
    "steps": "steps:steps",
    "tuning": "tuning:tuning",
    "anchor": "anchor:anchor",
    "colocate": "colocate:colocate",
    "demo": "demo:demo",
}
"""Module and function of each part, in the order of their running."""
RETRIED = ("failed", "wrong")


def run_part(name: str, preset: str, lines: Path) -> None:
    """In the part's own process: each item becomes a line of the file as soon as it is measured."""
    done = {json.loads(line)["item"] for line in lines.read_text(encoding="utf-8").splitlines()}
    module, function = PARTS[name].split(":")
    with lines.open("a", encoding="utf-8") as file:
        for item, measure in getattr(importlib.import_module(module), function)(PRESETS[preset]):
            if item in done:
                continue
            file.write(json.dumps({"item": item, "found": attempt(measure)}) + "\n")
            file.flush()


def attempt(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured, with its seconds, or why it failed: the other items of the part go on."""
    start = time.monotonic()
    try:
        found = measure()
    except Exception as error:  # noqa: BLE001  told in the table
        traceback.print_exc()
        found = {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:500]}
    return {**found, "item_s": round(time.monotonic() - start, 1)}


def measure_part(name: str, preset: str, part: dict[str, Any], limit_s: float, in_process: bool) -> None:
    """Runs a part and adds its items, status and seconds to `part`."""
    items = part.setdefault("items", {})
    kept = {key: item for key, item in items.items() if item["status"] not in RETRIED}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "lines.jsonl")
        made = (json.dumps({"item": key, "found": item}) + "\n" for key, item in kept.items())
        lines.write_text("".join(made), encoding="utf-8")
        part["status"] = "done"
        if in_process:
            run_part(name, preset, lines)
        else:
            part["status"] = _in_process_of_its_own(name, preset, lines, limit_s)
        for line in lines.read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            items[found["item"]] = found["found"]
    if part["status"] == "done" and any(item["status"] in RETRIED for item in items.values()):
        part["status"] = "not all right"
    part["seconds"] = round(part.get("seconds", 0.0) + time.monotonic() - start, 1)


def _in_process_of_its_own(name: str, preset: str, lines: Path, limit_s: float) -> str:
    command = [
        sys.executable, str(Path(__file__).parent), "--part", name, "--preset", preset, "--lines", str(lines)
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit_s, env=_environment()
        )
    except subprocess.TimeoutExpired as expired:
        print((expired.stdout or b"").decode(errors="replace")[-1500:], flush=True)
        return f"stopped after {limit_s:.0f} s"
    if done.returncode:
        output = done.stdout.decode(errors="replace")
        print(output[-3000:], flush=True)
        return f"failed: {output.strip().splitlines()[-1][:300]}" if output.strip() else "failed"
    return "done"


def _environment() -> dict[str, str]:
    """This process's, the package importable where it is not installed, as many threads as there are cores."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    return {**os.environ, **SETTINGS, "PYTHONPATH": paths, "OMP_NUM_THREADS": threads}


def card_name(device: str) -> str:
    """A file name: `nvidia-h100-80gb-hbm3`."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def check(preset: str, parts: list[str], minutes: float, out: Path, in_process: bool) -> dict[str, Any]:
    """Runs what is missing until it is there or the minutes are over; returns what is known now."""
    ends = time.monotonic() + 60 * minutes
    environment: dict[str, Any] = {}
    measure_part("environment", preset, environment, 120, in_process)
    if environment["status"] != "done":
        raise SystemExit(f"the environment cannot be read: {environment['status']}")
    machine = environment["items"]["machine"]
    path = out / f"{card_name(machine['device'])}{'' if preset == '3b' else f'-{preset}'}.json"
    known: dict[str, Any] = {"preset": preset, "machine": machine, "parts": {}}
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8")) | {"machine": machine}
    for name in parts:
        part = known["parts"].setdefault(name, {})
        if part.get("status") == "done" or name == "environment":
            continue
        left = ends - time.monotonic()
        if left < 20 and not in_process:
            part.setdefault("status", "not started: no time was left")
            continue
        limit = PRESETS[preset].limits_s.get(name, 120)
        measure_part(name, preset, part, min(limit, left), in_process)
        print(f"{name}: {part['status']}, {len(part['items'])} items, {part['seconds']} s", flush=True)
        _write(path, known)
    _write(path, known)
    return known


def _write(path: Path, known: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(known), encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="3b")
    parser.add_argument("--minutes", type=float, default=10, help="for all parts of this call together")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "gpu", help="folder")
    parser.add_argument("--in-process", action="store_true", help="no process and no limit for each part")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--lines", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.part:
        run_part(arguments.part, arguments.preset, arguments.lines)
        return 0
    known = check(arguments.preset, arguments.parts, arguments.minutes, arguments.out, arguments.in_process)
    unfinished = [name for name in arguments.parts if known["parts"].get(name, {}).get("status") != "done"]
    missing = [name for name in unfinished if name != "environment"]
    print("all parts are measured" if not missing else f"not finished: {', '.join(missing)}; call again")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
