"""Draw docs/pictures/data_flow.png: what a sample passes through from its file to a report, and in which modules.

python scripts/draw_data_flow.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from omnirl_tools.report.figures import INK, PAPER, QUIET

OUT = Path(__file__).parents[1] / "docs" / "pictures" / "data_flow.png"
FILL = {"data": "#dbe8f6", "trainer": "#e9e2f5", "rewards": "#dcefe3", "tools": "#f7e9d7"}
BOXES = {
    # name: (x, y, group, title, what it does, module below omnirl_core, or omnirl_tools)
    "file": (0, 2, "data", "data file", "JSON, JSONL, mixture, hub", "data/sources.py"),
    "sample": (1, 2, "data", "sample", "prompt and image paths", "data/dataset.py"),
    "batch": (2, 2, "trainer", "batch", "images opened once a prompt", "trainer/preparation.py"),
    "rollout": (3, 2, "trainer", "rollout", "G completions a prompt", "trainer/shared_prefix/"),
    "rewards": (3, 1, "rewards", "rewards", "a float in [0, 1] or None", "rewards/"),
    "advantages": (2, 1, "trainer", "advantages", "TRL's, constant groups 0", "trainer/grpo_trainer.py"),
    "loss": (1, 1, "trainer", "loss", "packed, or plain", "trainer/multimodal.py"),
    "checkpoint": (0, 1, "trainer", "checkpoint", "complete, or not there", "trainer/fault_tolerance/"),
    "logs": (0, 0, "trainer", "logs", "metrics, completions", "trainer/callbacks.py"),
    "report": (1, 0, "tools", "report", "curves.png, completions.html", "omnirl_tools/report/"),
    "evaluation": (2, 0, "tools", "evaluation", "held-out samples, intervals", "omnirl_tools/evaluation/"),
    "checks": (3, 0, "tools", "checks", "data, rewards, machine", "omnirl_tools/checks/"),
}
ARROWS = [
    ("file", "sample"), ("sample", "batch"), ("batch", "rollout"), ("rollout", "rewards"),
    ("rewards", "advantages"), ("advantages", "loss"), ("loss", "checkpoint"), ("loss", "logs"),
    ("logs", "report"), ("evaluation", "report"),
]  # fmt: skip
WIDTH, HEIGHT, STEP_X, STEP_Y = 2.5, 1.0, 3.3, 1.75


def corner(name: str) -> tuple[float, float]:
    x, y = BOXES[name][:2]
    return x * STEP_X, y * STEP_Y


def draw_box(axes: Axes, name: str) -> None:
    """A box with its name, what happens there, and the module."""
    left, bottom = corner(name)
    _, _, group, title, what, module = BOXES[name]
    axes.add_patch(plt.Rectangle((left, bottom), WIDTH, HEIGHT, facecolor=FILL[group], edgecolor="none"))
    middle = left + WIDTH / 2
    axes.text(middle, bottom + 0.72, title, ha="center", va="center", fontsize=11, weight="bold", color=INK)
    axes.text(middle, bottom + 0.44, what, ha="center", va="center", fontsize=7.6, color=INK)
    axes.text(middle, bottom + 0.18, module, ha="center", va="center", fontsize=7, family="monospace", color=QUIET)


def draw_arrow(axes: Axes, start: str, end: str) -> None:
    """From the nearer side of one box to that of the other."""
    (x0, y0), (x1, y1) = corner(start), corner(end)
    if y0 == y1:
        tail, head = (x0 + WIDTH * (x1 > x0), y0 + HEIGHT / 2), (x1 + WIDTH * (x1 < x0), y1 + HEIGHT / 2)
    else:
        tail, head = (x0 + WIDTH / 2, y0 + HEIGHT * (y1 > y0)), (x1 + WIDTH / 2, y1 + HEIGHT * (y1 < y0))
    axes.annotate("", head, tail, arrowprops={"arrowstyle": "-|>", "color": QUIET, "lw": 1.4})


def main() -> None:
    figure, axes = plt.subplots(figsize=(11, 4.4), facecolor=PAPER)
    for name in BOXES:
        draw_box(axes, name)
    for start, end in ARROWS:
        draw_arrow(axes, start, end)
    axes.set(xlim=(-0.1, 3 * STEP_X + WIDTH + 0.1), ylim=(-0.1, 2 * STEP_Y + HEIGHT + 0.1), aspect="equal")
    axes.axis("off")
    figure.savefig(OUT, dpi=150, bbox_inches="tight", pad_inches=0.1)


if __name__ == "__main__":
    main()
