"""The folder that `omnirl init` writes: its files, its README, and the demo on drawn shapes. No torch is imported."""

import os
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from omnirl_tools.commands import CannotRun
from omnirl_tools.recipes import FOLDER as RECIPES


@dataclass
class Written:
    """The files by name, and what to say of them."""

    files: dict[str, str]
    seen: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)
    """Images by name -> the files that they are copies of."""


def check_folder(folder: str) -> None:
    """CannotRun where the folder is a file, or holds anything."""
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise CannotRun(f"{folder} is a file; name a new folder")
    if os.path.isdir(folder) and any(os.scandir(folder)):
        raise CannotRun(f"{folder} is not empty, and nothing is overwritten; name a new folder")


def write(folder: str, written: Written) -> None:
    """All files, and links to images where the file system has them."""
    for name, text in written.files.items():
        _place(folder, name).write_text(text, encoding="utf-8")
    for name, source in written.images.items():
        path = _place(folder, name)
        try:
            os.link(source, path)
        except OSError:  # another file system
            shutil.copyfile(source, path)


def _place(folder: str, name: str) -> Path:
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


# -- the drawn world's demo --------------------------------------------------------------------------------------


def demo(folder: str) -> Written:
    """recipes/mixed/demo.yaml with its own paths, shortened: it trains on a CPU."""
    text = (RECIPES / "mixed" / "demo.yaml").read_text(encoding="utf-8")
    paths = {
        "recipes/mixed/rewards.yaml": f"{folder}/rewards.yaml", "data/shapes_mixed/": f"{folder}/data/",
        "outputs/mixed_demo": f"{folder}/run",
        "accelerate launch --config_file accelerate_configs/cpu.yaml recipes/grpo.py --config recipes/mixed/demo.yaml":
            f"omnirl train {folder}/config.yaml",
        "train: 4000, test: 280": "train: 2000, test: 140",
        "max_steps: 150  # about two minutes on two cores": "max_steps: 100  # recipes/mixed/demo.yaml makes 150",
    }  # fmt: skip
    for old, new in paths.items():
        assert old in text, old
        text = text.replace(old, new)
    written = Written({"config.yaml": text, "rewards.yaml": (RECIPES / "mixed" / "rewards.yaml").read_text("utf-8")})
    written.seen = ["seven tasks about drawn shapes, on no, one and several images; the first run draws them"]
    written.commands = commands(folder, None)
    written.files["README.md"] = readme(folder, "Drawn shapes, the tiny policy, a CPU", written)
    return written


# -- its README and commands ------------------------------------------------------------------------------------------


def commands(folder: str, taught: str | None) -> list[str]:
    """What to run, in order; `taught` is what the run starts from after a warm start, where one is advised."""
    folder = shlex.quote(folder)
    start = f" --model_name_or_path {shlex.quote(taught)}" if taught else ""
    warm = [f"omnirl sft {folder}/sft.yaml"] if taught else []
    return [
        f"omnirl check-data {folder}/config.yaml", f"omnirl check-rewards {folder}/config.yaml", *warm,
        f"omnirl train {folder}/config.yaml{start}",
        f"omnirl evaluate {folder}/config.yaml --model_name_or_path {folder}/run", f"omnirl report {folder}/run",
    ]  # fmt: skip


WHAT = {
    "check-data": "every sample and image is read; it ends with the counts",
    "check-rewards": "the references earn full marks, and cheap answers do not",
    "sft": "a warm start: the loss falls, the form is learned; it ends where half of the training samples are right",
    "train": "a table of held-out samples before and after; where an interval lies above 0, it has learned",
    "evaluate": "the trained model's held-out answers, judged by rewards.yaml",
    "report": "curves.png, and completions.html with images and answers; also while the run goes",
}


def readme(folder: str, title: str, written: Written) -> str:
    """What was seen, the commands in order, and what was not told."""
    steps = [
        f"{number}. `{command}`\n   {WHAT[command.split()[1]]}." for number, command in enumerate(written.commands, 1)
    ]
    unclear = (
        ["", "## What the data did not tell", "", *(f"- {text}" for text in written.unclear)]
        if written.unclear
        else []
    )
    start = "From any folder:" if os.path.isabs(folder) else f"In the folder that holds `{folder}`; paths start there:"
    about = (
        "Written by `omnirl init`. Each value in the YAMLs has its reason beside it; any of them can be overridden on "
        "the command line: `--max_steps 20`."
    )
    seen = [f"- {text}" for text in written.seen]
    lines = [f"# {title}", "", about, "", *seen, "", "## Commands, in order", "", start, "", *steps, *unclear, ""]
    return "\n".join(lines)
