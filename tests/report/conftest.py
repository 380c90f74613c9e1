"""A run's folder, written by hand: two tasks, images, boxes, one log line a step, torn ends as a kill leaves."""

import json
from pathlib import Path
from typing import Any

import pytest

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> <!-- ]]> & \" ' \u202e \u2028 \x00 \ud83d"


def held_out(number: int, image_files: list[str], completion: str, score: float) -> dict[str, Any]:
    is_box = number % 2 == 0
    images = [image_files[number % len(image_files)]] if is_box else []
    line = {
        "row_id": f"test.json:{number}",
        "task": "boxes" if is_box else "words",
        "modality": "image" if is_box else "text",
        "images": images,
        "image_sizes": [[100, 50]] * len(images),
        "resized_sizes": [[200, 50]] * len(images),
        "problem": f"problem {number}",
        "solution": [10, 10, 50, 40] if is_box else "yes",
        "completion": completion,
        "clipped": False,
        "n_tokens": 5,
        "rewards": {
            "think_format": 1.0,
            "box_iou": score if is_box else None,
            "exact": None if is_box else score,
        },
        "weights": {"think_format": 0.5, "box_iou": 1.0, "exact": 1.0},
        "score": (0.5 + score) / 1.5,
    }
    reading = {"space": "resized", "solution_space": "pixels", "image_index": 0}
    return line | ({"boxes": reading} if is_box else {})


def metric_line(step: int) -> dict[str, Any]:
    return {
        "step": step, "time": 1000.0 + step, "reward": step / 40, "reward_std": 0.2, "kl": 0.0, "grad_norm": 1.0,
        "rewards/exact/mean": step / 40 if step % 2 else None, "rewards/exact/std": 0.1, "frac_reward_zero_std": 0.1,
        "completions/mean_length": 20.0, "completions/min_length": 10.0, "completions/max_length": 30.0,
        "completions/clipped_ratio": 0.05, "entropy": float("nan"), "time/rollout": 1.0, "time/score": 0.1,
    }  # fmt: skip


def write(path: Path, lines: list[dict], torn: str = "") -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)


@pytest.fixture
def run_folder(tmp_path: Path, image_files: list[str]) -> Path:
    folder = tmp_path / "a run & <its> folder"
    folder.mkdir()
    box = "<think>there</think><answer>[20, 10, 100, 40]</answer>"  # in the resized space: twice as wide
    write(folder / "before.jsonl", [held_out(k, image_files, HOSTILE, 0.25) for k in range(8)])
    write(folder / "after.jsonl", [held_out(k, image_files, box, 0.75) for k in range(8)])
    write(folder / "metrics.jsonl", [metric_line(step) for step in range(1, 31)], torn='{"step": 31, "rew')
    lines = []
    for step in range(1, 11):
        for number in range(4):
            line = held_out(number // 2, image_files, f"{box} {step}", number / 4)
            for name in ("boxes", "score", "weights", "clipped", "n_tokens", "modality"):
                line.pop(name, None)
            line |= {"step": step, "phase": "train", "prompt": "?", "row_id": f"train.json:{number // 2}"}
            lines.append(line | {"advantage": number - 1.5})
    write(folder / "completions.jsonl", lines, torn='{"step": 11, "phase": "tra')
    facts = {
        "config": {"model_name_or_path": "<b>tiny</b>", "hub_token": "hf_secret"},
        "versions": {"trl": "1.16"},
    }
    (folder / "run.json").write_text(json.dumps(facts))
    return folder
