"""Every figure on the page of a run, worked out again from its files: of runs resumed, killed, with boxes and so on."""

import html
import json
import re
import shutil
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml

from omnirl_core.shapes import write_dataset
from omnirl_core.yaml_loader import read_config
from omnirl_tools.evaluation.intervals import bootstrap_interval
from omnirl_tools.report import plot_curves, write_completions
from recipes.grpo import main

FORM = ("think_format", "length_band")
TILE = re.compile(
    r'"tile-name">(.*?)</p>\s*<p class="tile-value">(.*?)</p>\s*<p class="tile-note[^>]*>(.*?)</p>', re.DOTALL
)
BOX = [20, 10, 100, 40]  # in the resized image, twice as wide as the original


def raw(folder: Path, *names: str) -> list[dict[str, Any]]:
    """The whole lines of these files, in order; what a kill cut is left out."""
    lines = []
    for name in names:
        for text in (folder / name).read_text().splitlines() if (folder / name).exists() else []:
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
    return lines


def score_of(line: dict[str, Any], weights: dict[str, float], without: tuple[str, ...] = ()) -> float | None:
    """The weighted mean of the rewards that judged; a penalty lowers it and does not count in its scale."""
    judged = {name: value for name, value in line["rewards"].items() if value is not None and name not in without}
    scale = sum(weights[name] for name in judged if weights[name] > 0)
    return sum(weights[name] * value for name, value in judged.items()) / scale if scale else None


def weights_of(folder: Path, line: dict[str, Any]) -> dict[str, float]:
    if "weights" in line:
        return line["weights"]
    config = json.loads((folder / "run.json").read_text())["config"]
    return dict(zip(line["rewards"], config["reward_weights"], strict=True))


def check_page(folder: Path) -> dict[str, Any]:
    """Work out each figure from the files of the folder and hold the page to it; return the page's data."""
    page = write_completions(folder).read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    before, after = raw(folder, "before.jsonl"), raw(folder, "after.jsonl")
    completions = raw(folder, "completions.1.jsonl", "completions.jsonl")
    metrics = raw(folder, "metrics.1.jsonl", "metrics.jsonl")
    tiles = {html.unescape(name): (value, re.sub(r"<[^>]+>", "", note)) for name, value, note in TILE.findall(page)}
    check_changes(page, tiles, before, after)
    check_tiles(tiles, metrics, completions, bool(before and after))
    check_groups(folder, data, completions)
    check_curves(page, data, folder, metrics, completions)
    return data


def check_changes(page: str, tiles: dict, before: list[dict], after: list[dict]) -> None:
    old, new = ({line["row_id"]: line for line in lines} for lines in (before, after))
    both = [key for key in old if key in new]
    rows = dict(re.findall(r'<th scope="row">([\w.]+)</th>(.*?)</tr>', page, re.DOTALL))
    assert bool(rows) == bool(both)
    names = dict.fromkeys(name for line in [*before, *after] for name in line["rewards"])
    for measure in ["score", "accuracy", *names] if both else []:
        pairs = []
        for key in both:
            pair = [value_of(side[key], measure) for side in (old, new)]
            pairs += [pair] if None not in pair else []
        if not pairs:
            assert measure not in rows
            continue
        gains = [b - a for a, b in pairs]
        low, high = bootstrap_interval(gains)
        cells = re.sub(r"<svg.*?</svg>|<[^>]+>|[▲▼]", " ", rows[measure], flags=re.DOTALL).split()
        expected = [
            len(pairs),
            fmean(a for a, _ in pairs),
            fmean(b for _, b in pairs),
            fmean(gains),
            low,
            high,
        ]
        found = [float(cell) for cell in cells if re.fullmatch(r"[+-]?\d+(\.\d+)?", cell)][:6]
        assert found == pytest.approx(expected, abs=6e-4), measure
        assert f"{sum(g > 0 for g in gains)} / {sum(g < 0 for g in gains)}" in " ".join(cells)
        if measure in ("score", "accuracy"):
            value, note = tiles[f"Held-out {measure}, {len(pairs)} rows"]
            assert value == f"{expected[1]:.3f} → {expected[2]:.3f}"
            assert note.split() == [f"{expected[3]:+.3f}", f"({low:+.3f}", "…", f"{high:+.3f})"]


def value_of(line: dict[str, Any], measure: str) -> float | None:
    if measure in ("score", "accuracy"):
        return score_of(line, line["weights"], FORM if measure == "accuracy" else ())
    return line["rewards"].get(measure)


def check_tiles(tiles: dict, metrics: list[dict], completions: list[dict], held_out: bool) -> None:
    steps = sorted({line["step"] for line in metrics})
    assert tiles["Steps"][0] == str(steps[-1])
    assert tiles["Completions written"] == (f"{len(completions):,}", "see Training completions")
    assert any(name.startswith("Held-out score") for name in tiles) == held_out
    if not held_out:
        rewards = [line["reward"] for line in metrics if "reward" in line]
        assert tiles["Training reward"][0] == f"{rewards[0]:.3f} → {rewards[-1]:.3f}"
    seconds, previous = 0.0, None
    for line in metrics:
        begun = line["resumed"]["time"] if "resumed" in line else previous
        phases = [value for name, value in line.items() if name.startswith("time/")]
        seconds += line["time"] - begun if begun is not None else sum(phases) * line["step"]
        previous = line["time"]
    assert tiles["Steps"][1] == f"{seconds / 60:.1f} minutes"


def check_groups(folder: Path, data: dict, completions: list[dict]) -> None:
    lines = defaultdict(list)
    for line in completions:
        lines[line["step"], line["phase"], line["row_id"]].append(line)
    assert len(data["groups"]) == len(lines)
    for group in data["groups"]:
        own = lines[group["step"], group["phase"], group["id"]]
        for answer, line in zip(group["answers"], own, strict=True):
            assert answer["score"] == pytest.approx(score_of(line, weights_of(folder, line)), abs=1e-6)
            assert (answer["rewards"], answer["advantage"]) == (line["rewards"], line["advantage"])
            assert answer["boxes"] == boxes_in_pixels(line)


def boxes_in_pixels(line: dict[str, Any]) -> list[list[float]]:
    """The answered boxes on the original image, where a reward reads them."""
    said = re.search(r"<answer>(\[\d+, \d+, \d+, \d+\])</answer>", line["completion"])
    if said is None or "boxes" not in line:
        return []
    (width, height), (seen_width, seen_height) = line["image_sizes"][0], line["resized_sizes"][0]
    assert line["boxes"]["space"] == "resized"
    x1, y1, x2, y2 = json.loads(said[1])
    across, down = width / seen_width, height / seen_height
    return [[pytest.approx(n, abs=0.06) for n in (x1 * across, y1 * down, x2 * across, y2 * down)]]


def check_curves(page: str, data: dict, folder: Path, metrics: list[dict], completions: list[dict]) -> None:
    titles = [html.unescape(title) for title in re.findall(r"<figcaption><strong>(.*?)</strong>", page)]
    curves = dict(zip(titles, data["curves"], strict=True))
    judged = [
        [weights_of(folder, line)[name] for name, value in line["rewards"].items() if value is not None]
        for line in completions
    ]
    least = min(sum(w for w in weights if w < 0) for weights in judged)
    most = max(sum(w for w in weights if w > 0) for weights in judged)
    names = [name.split("/")[1] for name in metrics[0] if re.fullmatch(r"rewards/\w+/mean", name)]
    kinds = {name: (f"rewards/{name}/mean", f"rewards/{name}/std", 0.0, 1.0) for name in names}
    for title, (mean, deviation, low, high) in {
        **kinds,
        "Reward": ("reward", "reward_std", least, most),
    }.items():
        (series,) = curves[title]["series"]
        lines = [line for line in metrics if isinstance(line.get(mean), float)]
        assert series["points"] == [[line["step"], line[mean]] for line in lines]
        assert series["low"] == pytest.approx([max(low, line[mean] - line[deviation]) for line in lines])
        assert series["high"] == pytest.approx([min(high, line[mean] + line[deviation]) for line in lines])
        assert curves[title]["ends"][2:] == pytest.approx([low, high])
    assert plot_curves(folder).exists()


# -- folders written by hand ------------------------------------------------------------------------------------


def completion(number: int, step: int, names: dict[str, float], image: str, **more: Any) -> dict[str, Any]:
    values = {
        "think_format": float(number > 0),
        "box_iou": number / 8,
        "exact": number / 4,
        "repetition": 0.75,
    }
    said = f"<think>there</think><answer>{BOX}</answer>"
    return {
        "step": step, "phase": "train", "row_id": f"train.json:{number // 2}", "task": "boxes", "images": [image],
        "image_sizes": [[100, 50]], "resized_sizes": [[200, 50]], "problem": "?", "solution": [10, 10, 50, 40],
        "completion": said, "rewards": {name: values[name] for name in names}, "advantage": number - 1.5, **more,
    }  # fmt: skip


def metric(step: int, weights: dict[str, float], time: float | None = None, **more: Any) -> dict[str, Any]:
    parts = {
        f"rewards/{name}/{kind}": value
        for name in weights
        for kind, value in (("mean", 0.3 + step / 50), ("std", 0.45))
    }
    total = sum(weight * (0.3 + step / 50) for weight in weights.values())
    return {
        "step": step, "time": 1000.0 + 30 * step if time is None else time, "reward": total, "reward_std": 0.6, **parts,
        "completions/clipped_ratio": 0.001 * step, "time/rollout": 20.0, "time/train": 9.0, **more,
    }  # fmt: skip


WEIGHTS = {
    "no held-out rows": {"think_format": 0.1, "box_iou": 1.0},
    "one reward": {"exact": 1.0},
    "a negative weight": {"think_format": 0.2, "exact": 1.0, "repetition": -0.5},
    "boxes": {"think_format": 0.1, "box_iou": 1.0},
    "weights of run.json": {"think_format": 0.1, "box_iou": 1.0},
    "resumed": {"think_format": 0.1, "exact": 1.0},
    "killed": {"think_format": 0.1, "exact": 1.0},
}


def write(path: Path, lines: list[dict], torn: str = "") -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)


def held_out(lines: list[dict], weights: dict[str, float], gain: float) -> list[dict]:
    graded = []
    for number, line in enumerate(lines):
        rewards = {name: min(1.0, value + gain * (number % 3)) for name, value in line["rewards"].items()}
        line = line | {
            "row_id": f"test.json:{number}",
            "rewards": rewards,
            "weights": weights,
            "modality": "image",
        }
        graded.append(line | {"score": score_of(line, weights), "clipped": False, "n_tokens": 4})
    return graded


@pytest.fixture(params=WEIGHTS)
def folder(request, tmp_path, image_files) -> Path:
    kind, weights = request.param, WEIGHTS[request.param]
    tells = {"weights": weights} if kind != "weights of run.json" else {}
    reading = {"boxes": {"space": "resized", "solution_space": "pixels", "image_index": 0}}
    tells |= reading if "box_iou" in weights else {}
    lines = [completion(n, step, weights, image_files[0], **tells) for step in range(1, 7) for n in range(4)]
    metrics = [metric(step, weights) for step in range(1, 7)]
    torn = '{"step": 7, "rew' if kind == "killed" else ""
    if kind == "resumed":  # stopped after step 4, gone on days later; the log was full in between
        metrics[4:] = [metric(step, weights, time=9e5 + 30 * step) for step in (5, 6)]
        metrics[4]["resumed"] = {"step": 4, "time": 9e5 + 120.0}
        write(tmp_path / "completions.1.jsonl", lines[:10])
        lines = lines[10:]
    write(tmp_path / "completions.jsonl", lines, torn)
    write(tmp_path / "metrics.jsonl", metrics, torn)
    config = {"reward_weights": list(weights.values())}
    (tmp_path / "run.json").write_text(json.dumps({"config": config}))
    if kind not in ("no held-out rows", "weights of run.json"):
        write(tmp_path / "before.jsonl", held_out(lines[:8], weights, 0.0))
        rest = held_out(lines[:8], weights, 0.107)
        write(tmp_path / "after.jsonl", rest[:5] if kind == "killed" else rest, torn)
    return tmp_path


def test_the_page_says_what_the_files_say(folder):
    check_page(folder)


def test_a_rec_run_without_held_out_rows_shows_its_scores_and_boxes(tmp_path, image_files):
    """The figures by hand: an answer in form and beside the box scores 0.1 / 1.1, not 0.5."""
    weights = WEIGHTS["boxes"]
    reading = {"space": "resized", "solution_space": "pixels", "image_index": 0}
    line = completion(1, 1, weights, image_files[0], weights=weights, boxes=reading)
    line["rewards"] = {"think_format": 1.0, "box_iou": 0.0}
    write(tmp_path / "completions.jsonl", [line])
    page = write_completions(tmp_path).read_text()
    (group,) = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["groups"]
    (answer,) = group["answers"]
    assert answer["score"] == pytest.approx(0.1 / 1.1)
    assert (answer["boxes"], group["boxes"]) == ([[10, 10, 50, 40]], [[10, 10, 50, 40]])


# -- real runs ---------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
REWARDS = {
    "boxes": "- {name: think_format, weight: 0.1}\n- {name: box_iou, settings: {space: resized}}",
    "one": "- {name: exact}",
    "penalty": "- {name: answer_or_overlap}\n- {name: think_format, weight: -0.5}",
}
SHORT = {
    "per_device_train_batch_size": 8, "num_generations": 4, "per_device_eval_batch_size": 8, "logging_steps": 1,
    "max_completion_length": 32, "eval_rows": 4,
}  # fmt: skip


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run a recipe's demo in this process for a few steps, on its data and under these rewards."""
    monkeypatch.chdir(ROOT)

    def run(recipe: str, rewards: str, held_out: bool = True, **more: Any) -> Path:
        data = tmp_path / "data"
        if not data.exists():
            write_dataset(data, recipe, 24, 0)
        (tmp_path / "rewards.yaml").write_text(f"rewards:\n{REWARDS[rewards]}\n")
        settings = read_config(f"recipes/{recipe}/demo.yaml") | SHORT | more
        settings |= {"dataset_name": str(data / "train.json"), "rewards": str(tmp_path / "rewards.yaml")}
        settings |= {"eval_dataset_name": settings["dataset_name"], "output_dir": str(tmp_path / "run")}
        left_out = {"draw_shapes"} if held_out else {"draw_shapes", "eval_dataset_name", "eval_rows"}
        kept = {key: value for key, value in settings.items() if key not in left_out}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(kept))
        main(["--config", str(tmp_path / "run.yaml")])
        return tmp_path / "run"

    return run


def test_a_real_run_without_held_out_rows_of_boxes(start):
    folder = start("rec", "boxes", held_out=False, max_steps=2)
    data = check_page(folder)
    assert len(raw(folder, "completions.jsonl")) == 16
    assert any(answer["boxes"] for group in data["groups"] for answer in group["answers"])


def test_a_real_run_of_one_reward_resumed(start):
    saved = {"save_strategy": "steps", "save_steps": 1}
    check_page(start("text_only", "one", max_steps=1, **saved))
    folder = start("text_only", "one", max_steps=3, resume_from_checkpoint="auto", **saved)
    check_page(folder)
    metrics = raw(folder, "metrics.jsonl")
    assert [line["step"] for line in metrics if "reward" in line] == [1, 2, 3]
    assert [line["resumed"]["step"] for line in metrics if "resumed" in line] == [1]


def test_a_real_run_with_a_penalty_and_what_a_kill_leaves_of_it(start, tmp_path):
    folder = start("image_text", "penalty", max_steps=3)
    check_page(folder)
    lines = raw(folder, "completions.jsonl", "after.jsonl")
    assert any(line["rewards"]["think_format"] for line in lines), "the penalty is at work"
    killed = shutil.copytree(folder, tmp_path / "killed")
    for name in ("metrics.jsonl", "completions.jsonl", "after.jsonl"):  # cut in the middle of the last line
        text = (killed / name).read_bytes()
        (killed / name).write_bytes(text[: -len(text.splitlines()[-1]) // 2])
    check_page(killed)
