"""What the report of a long run weighs, and how fast a browser opens it.

A run of 1,000 steps with 8,000 completions of about 1,500 characters, 500 photographs, 400 held-out rows: the page
shows 2,000 of the completions and all held-out rows. Must hold: under 25 MB, and open in under 3 s.

    python benchmarks/report_page.py [--folder /where/to/write/the/run]
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

STEPS, GROUP, PER_STEP, ROWS, PHOTOGRAPHS = 1000, 4, 8, 400, 500
MAX_MB, MAX_SECONDS = 25, 3.0
WEIGHTS = {"think_format": 0.5, "box_iou": 1.0, "exact": 1.0}
SENTENCE = "the picture shows a dog left of red car near trees so answer is probably that one because it looks"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to write the run (default: a temporary one)")
    args = parser.parse_args(argv)
    if args.folder:
        return measure(args.folder)
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder))


def measure(folder: Path) -> int:
    """Write the run and its page, open it five times, and print what that cost."""
    from omnirl_tools.report import write_completions

    write_run(folder)
    begun = time.process_time()
    page = write_completions(folder)
    written = time.process_time() - begun
    megabytes = page.stat().st_size / 1e6
    seconds = [open_in_browser(page) for _ in range(5)]
    middle = statistics.median(seconds)
    held = megabytes < MAX_MB and middle < MAX_SECONDS
    print(f"page: {megabytes:.1f} MB, written in {written:.1f} s of CPU")
    print(f"opened in {middle:.2f} s, median of five fresh starts ({min(seconds):.2f} to {max(seconds):.2f} s)")
    print(f"must be under {MAX_MB} MB and {MAX_SECONDS:.0f} s: {'holds' if held else 'does not hold'}")
    return int(not held)


def open_in_browser(page: Path) -> float:
    """Seconds from asking for the page to the first completions standing in it, in a browser that has just started."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_browser(), args=CHROMIUM_FLAGS)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        begun = time.perf_counter()
        tab.goto(page.as_uri(), wait_until="load", timeout=120_000)
        tab.locator("#training .answer-card").first.wait_for(timeout=120_000)
        seconds = time.perf_counter() - begun
        browser.close()
    return seconds


def find_browser() -> str | None:
    """A Chromium of this machine; None where there is none, and playwright looks for one of its own."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for name in names if (found := shutil.which(name))), None)


def write_run(folder: Path, photographs: int = PHOTOGRAPHS) -> None:
    """Write the files of a run as a trainer leaves them."""
    chance = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    photos = list(_photographs(folder / "pictures", photographs))
    _write(folder / "metrics.jsonl", (_metrics(step, chance) for step in range(1, STEPS + 1)))
    _write(folder / "completions.jsonl", _completions(photos, chance))
    for name, skill in (("before", 0.2), ("after", 0.8)):
        rows = (_row(number, photos, "test.json") for number in range(ROWS))
        _write(folder / f"{name}.jsonl", ({**row, **_answer(row, skill, chance)} for row in rows))
    facts = {
        "started": "2026-01-01T12:00:00+00:00",
        "config": {"model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct", "learning_rate": 1e-6, "beta": 0.04},
        "versions": {"torch": "2.14.1", "trl": "1.16.0"},
    }
    (folder / "run.json").write_text(json.dumps(facts), encoding="utf-8")


def _photographs(folder: Path, n: int) -> Iterator[str]:
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(0)
    for number in range(n):
        coarse = noise.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        path = folder / f"{number:04}.jpg"
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=85)
        yield str(path)


def _row(number: int, photos: list[str], file: str) -> dict[str, Any]:
    """Every second row asks for a box, one in four is text-only, one in four has two images."""
    images = [[photos[number % len(photos)]], [], [photos[number % len(photos)]], photos[:2]][number % 4]
    is_box = number % 2 == 0
    row = {
        "row_id": f"data/{file}:{number}",
        "task": "boxes" if is_box else "text" if not images else "compare",
        "modality": ("text", "image", "multi-image")[len(images)],
        "images": images,
        "image_sizes": [[640, 480]] * len(images),
        "resized_sizes": [[644, 476]] * len(images),
        "problem": f"Where is thing {number}?" if is_box else f"Which of them is number {number}?",
        "solution": [100, 80, 380, 300] if is_box else "the second",
    }
    reading = {"space": "resized", "solution_space": "pixels", "image_index": 0}
    return row | ({"boxes": reading} if is_box else {})


def _answer(row: dict[str, Any], skill: float, chance: random.Random) -> dict[str, Any]:
    right = chance.random() < skill
    shift = chance.randint(0, 20) if right else chance.randint(60, 200)
    said = f"[{100 + shift}, {80 + shift}, {382 + shift}, {298 + shift}]" if row["task"] == "boxes" else "the second"
    text = " ".join(chance.choices(SENTENCE.split(), k=300))
    value = max(0.0, 1 - shift / 200) if row["task"] == "boxes" else float(right)
    rewards = {"think_format": 1.0, "box_iou": None, "exact": None}
    rewards["box_iou" if row["task"] == "boxes" else "exact"] = value
    return {
        "completion": f"<think>{text}</think><answer>{said}</answer>",
        "rewards": rewards,
        "weights": WEIGHTS,
        "score": (0.5 + value) / 1.5,
        "clipped": chance.random() < 0.03,
        "n_tokens": 330,
    }


def _completions(photos: list[str], chance: random.Random) -> Iterator[dict[str, Any]]:
    for step in range(1, STEPS + 1):
        for _ in range(PER_STEP // GROUP):
            row = _row(chance.randrange(4000), photos, "train.json")
            for place in range(GROUP):
                answer = _answer(row, 0.2 + 0.6 * step / STEPS, chance)
                for name in ("weights", "score"):
                    answer.pop(name)
                yield {
                    "step": step,
                    "phase": "train",
                    "prompt": row["problem"],
                    **row,
                    **answer,
                    "advantage": place - 1.5,
                }


def _metrics(step: int, chance: random.Random) -> dict[str, Any]:
    share = 0.2 + 0.6 * step / STEPS
    noisy = {name: share + chance.gauss(0, 0.05) for name in WEIGHTS}
    rewards = {f"rewards/{name}/mean": value for name, value in noisy.items()}
    rewards |= {f"rewards/{name}/std": 0.2 for name in WEIGHTS}
    return {
        "step": step, "time": 1e9 + 20.0 * step, "loss": chance.gauss(0, 0.01), "reward": sum(noisy.values()),
        "reward_std": 0.3, "frac_reward_zero_std": 0.2 * share, "kl": 0.1 * share, "grad_norm": 1 + chance.random(),
        "entropy": 1 - share / 2, "learning_rate": 1e-6, "completions/mean_length": 300 * share,
        "completions/min_length": 40.0, "completions/max_length": 512.0, "completions/clipped_ratio": 0.1 * share,
        "time/rollout": 9 + chance.random(), "time/score": 0.4, "time/prepare": 2.1, "time/train": 8 + chance.random(),
        **rewards,
    }  # fmt: skip


def _write(path: Path, lines: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
