"""What `omnirl init` makes of data in three other layouts: does the config that it writes lift held-out accuracy?

    python scripts/init_trial.py --out outputs/init_trial            # all three, one after the other
    python scripts/init_trial.py --out outputs/init_trial --only messages --seed 3

Crops of the photographs that scikit-image and scikit-learn bring, and drawings, each data set in a layout of others:
a CSV with `question,answer,image`, JSONL with `messages`, Parquet with the bytes of images and `options`. Each is run
through `omnirl init`, `omnirl sft` and `omnirl train` with the tiny policy, unedited; init was not tuned to them. It
ends with the table of benchmarks/RESULTS.md: accuracy on held-out samples, and the paired interval of each change.
"""

import argparse
import csv
import io
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from omnirl_tools.evaluation.compare import Change, compare
from omnirl_tools.evaluation.lines import read_lines

N = 800
"""Samples of each data set."""
HEAD = (
    "| layout | held out | before | after `sft` | after `train` | both | 95 % interval | `train` alone | 95 % interval"
    " |\n|---|---|---|---|---|---|---|---|---|"
)


def photographs(names: list[str]) -> dict[str, Image.Image]:
    """By name, as the packages bring them."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    found = {}
    for name in names:
        array = load_sample_image(f"{name}.jpg") if name in ("china", "flower") else getattr(data, name)()
        found[name] = Image.fromarray(np.asarray(array)).convert("RGB")
    return found


def crop(photograph: Image.Image, rng: random.Random) -> Image.Image:
    """A square part, at least a third as wide as the photograph, of 120 to 240 pixels."""
    width, height = photograph.size
    side = rng.randint(min(width, height) // 3, min(width, height))
    x, y = rng.randint(0, width - side), rng.randint(0, height - side)
    size = rng.randint(120, 240)
    return photograph.crop((x, y, x + side, y + side)).resize((size, size))


def table(folder: Path, seed: int) -> Path:
    """Photographs only: `question,answer,image`, paths below `images/`."""
    rng = random.Random(f"table {seed}")
    shown = photographs(["astronaut", "coins", "flower", "moon"])
    (folder / "images").mkdir(parents=True)
    with open(folder / "annotations.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer", "image"])
        for number in range(N):
            name = rng.choice(sorted(shown))
            crop(shown[name], rng).save(folder / "images" / f"img_{number}.jpg")
            asked = rng.choice(["What does this photo show?", "Which subject was photographed?"])
            writer.writerow([asked, name, f"img_{number}.jpg"])
    return folder


def messages(folder: Path, seed: int) -> Path:
    """Drawings only: chats of one turn each, and a column `images`."""
    rng = random.Random(f"messages {seed}")
    (folder / "media").mkdir(parents=True)
    colors = {"red": "#d00000", "green": "#008000", "blue": "#0000d0", "yellow": "#ffd800"}
    lines = []
    for number in range(N):
        bands = rng.sample(sorted(colors), 3)
        image = Image.new("RGB", (rng.randint(120, 200), rng.randint(90, 150)))
        pen = ImageDraw.Draw(image)
        for k, color in enumerate(bands):
            pen.rectangle([0, k * image.height // 3, image.width, (k + 1) * image.height // 3], fill=colors[color])
        image.save(folder / "media" / f"{number:05d}.png")
        place = rng.randrange(3)
        asked = f"What color is the {('top', 'middle', 'bottom')[place]} band of the flag?"
        turns = [{"role": "user", "content": f"<image>{asked}"}, {"role": "assistant", "content": bands[place]}]
        lines.append({"messages": turns, "images": [f"media/{number:05d}.png"]})
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "data.jsonl"


def options(folder: Path, seed: int) -> Path:
    """Photographs and drawings with options: the bytes of each image, and the index of the answer."""
    rng = random.Random(f"options {seed}")
    folder.mkdir(parents=True)
    shown = photographs(["china", "coffee", "rocket"])
    rows = []
    for _ in range(N):
        if rng.random() < 0.5:
            name = rng.choice(sorted(shown))
            image, asked, texts = crop(shown[name], rng), "Choose what the photo shows.", sorted(shown)
            index = texts.index(name)
        else:
            index = rng.randrange(3)
            image = Image.new("RGB", (160, 120), "white")
            pen = ImageDraw.Draw(image)
            size = rng.randint(28, 44)
            for k in range(index + 1):
                x, y = 4 + 50 * k + rng.randint(0, 8), rng.randint(8, 68)
                pen.ellipse([x, y, x + size, y + size], outline="black", width=4)
            asked, texts = "Choose how many rings are drawn.", ["one", "two", "three"]
        png = io.BytesIO()
        image.save(png, "PNG")
        rows.append({"query": asked, "choices": texts, "label": index, "picture_bytes": png.getvalue()})
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-0.parquet")
    return folder / "part-0.parquet"


LAYOUTS: dict[str, Callable[[Path, int], Path]] = {"table": table, "messages": messages, "options": options}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--only", choices=LAYOUTS, help="one of the three")
    parser.add_argument("--seed", type=int, default=0, help="of the data sets (default %(default)s)")
    arguments = parser.parse_args(argv)
    rows = []
    for name in [arguments.only] if arguments.only else LAYOUTS:
        data, project = LAYOUTS[name](arguments.out / f"{name}_data", arguments.seed), arguments.out / name
        run("init", project, "--data", data, "--model", "tiny_policy")
        run("sft", project / "sft.yaml")
        run("train", project / "config.yaml", "--model_name_or_path", project / "warm_start")
        rows.append(row(name, project))
    print("\n".join(["", HEAD, *rows]))
    return 0


def run(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "omnirl_tools.cli", *map(str, words)], check=True)


def row(name: str, project: Path) -> str:
    """The line of the table: accuracy before, after the warm start, after GRPO, and the changes' intervals."""
    both = accuracy(project / "warm_start" / "before.jsonl", project / "run" / "after.jsonl")
    alone = accuracy(project / "run" / "before.jsonl", project / "run" / "after.jsonl")
    shown = [f"{change.difference:+.3f} | {change.low:+.3f} .. {change.high:+.3f}" for change in (both, alone)]
    figures = f"{both.before:.3f} | {alone.before:.3f} | {alone.after:.3f}"
    return f"| {name} | {both.n} | {figures} | {' | '.join(shown)} |"


def accuracy(before: Path, after: Path) -> Change:
    changes = compare(read_lines(before), read_lines(after))
    return next(one for one in changes if (one.measure, one.kind) == ("accuracy", "all"))


if __name__ == "__main__":
    raise SystemExit(main())
