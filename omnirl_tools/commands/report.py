"""Figures of a run, from the files in its folder: curves.png, and completions.html, which needs no network.

RUN is the output_dir of a run that is over, still going, or was killed; or the folder of an evaluation, with its
predictions.jsonl.
"""

import argparse
from pathlib import Path

from omnirl_core.boxes import SPACES
from omnirl_core.types import nearest_file
from omnirl_tools.commands import CannotRun
from omnirl_tools.commands.compare import graded_lines
from omnirl_tools.evaluation.lines import read_lines

OF_A_RUN = ("metrics.jsonl", "completions.jsonl", "before.jsonl", "after.jsonl")
OF_AN_EVALUATION = "predictions.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a run's output_dir, or an evaluation's folder")
    parser.add_argument("--out", metavar="FOLDER", help="where to write (default: RUN)")
    parser.add_argument(
        "--completions", type=int, default=2000, metavar="N", help="training completions on the page (2000)"
    )
    parser.add_argument("--rows", type=int, default=500, metavar="N", help="held-out rows on the page (500)")
    parser.add_argument(
        "--box_space",
        choices=SPACES,
        help="space of the answered boxes, where the run's files do not tell it",
    )


def run(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.run_folder)
    if not folder.is_dir():
        what = "a file" if folder.exists() else "no such folder"
        hint = nearest_file(arguments.run_folder)
        raise CannotRun(f"{folder}: {what}; give a run's output_dir, from the folder it was started in{hint}")
    out = Path(arguments.out) if arguments.out else folder
    has_run = any((folder / name).is_file() for name in OF_A_RUN)
    if not has_run and not (folder / OF_AN_EVALUATION).is_file():
        inside = next((path.parent for path in sorted(folder.glob(f"*/{OF_A_RUN[0]}"))), None)
        hint = f": {inside}" if inside else ""
        wanted = ", ".join([*OF_A_RUN, OF_AN_EVALUATION])
        raise CannotRun(f"{folder}: has none of {wanted}; give a run's output_dir{hint}")
    for name in ("before.jsonl", "after.jsonl", OF_AN_EVALUATION):
        if read_lines(folder / name):
            graded_lines(folder / name)
    from omnirl_tools.report import (
        plot_curves,
        write_completions,
        write_evaluation,
    )  # matplotlib takes a second

    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise CannotRun(f"--out {out}: a file is there, or on the way; name a folder") from error
    page = out / "completions.html"
    if has_run:
        made = [plot_curves(folder, out / "curves.png")]
        made.append(
            write_completions(
                folder,
                page,
                most_completions=arguments.completions,
                most_rows=arguments.rows,
                box_space=arguments.box_space,
            )
        )
    else:
        made = [write_evaluation(folder, page)]
    print("Look at")
    for path in made:
        print(f"  {path}")
    return 0
