"""Look at data, model and GPU, and write a folder that trains: config, rewards, warm start and the commands in order.

  omnirl init demo
  omnirl init mine --data photos.csv --model Qwen/Qwen2.5-VL-3B-Instruct --gpu_memory 24

The data is any that docs/data.md lists, or a folder with one table; its columns are found by names and values, or named
by --columns. Held-out samples are set apart. Without --data and --model it is the demo on drawn shapes, which trains on
a CPU. Nothing is overwritten, no weight is read, and what could not be told is said.
"""

import argparse

from omnirl_core.data.columns import ColumnNames, checked_columns
from omnirl_core.yaml_loader import read_mapping
from omnirl_tools.commands import CannotRun
from omnirl_tools.init.folder import check_folder, demo, write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="a new or empty folder")
    parser.add_argument("--data", metavar="DATA", help="file, folder with one, saved data set, mixture, or org/name")
    parser.add_argument("--model", metavar="MODEL", help="folder or hub id (default: Qwen/Qwen2.5-VL-3B-Instruct)")
    parser.add_argument(
        "--gpu_memory", type=float, metavar="GIB", help="of the GPU to train on (default: this machine's)"
    )
    parser.add_argument(
        "--image_root", help="folder that image paths are relative to (default: found beside the data)"
    )
    parser.add_argument("--columns", help="our names of the data's columns: '{problem: question, solution: answer}'")


def run(arguments: argparse.Namespace) -> int:
    folder = arguments.folder.rstrip("/") or arguments.folder
    check_folder(folder)
    if arguments.data is None:
        given = [
            name for name in ("model", "gpu_memory", "image_root", "columns") if getattr(arguments, name) is not None
        ]
        if given:
            raise CannotRun(f"--{given[0]} wants --data; without both, the demo on drawn shapes is written")
        written = demo(folder)
    else:
        from omnirl_tools.init.model import DEFAULT, read_model  # with them comes torch, which takes seconds
        from omnirl_tools.init.project import project

        model = read_model(arguments.model or DEFAULT)
        columns = _columns(arguments.columns)
        written = project(folder, arguments.data, model, arguments.image_root, columns, arguments.gpu_memory)
    write(folder, written)
    print("\n".join(written.seen))
    if written.unclear:
        print("\nNot clear from the data; look at it:\n" + "\n".join(f"  {text}" for text in written.unclear))
    print(
        f"\nWrote {folder}: {', '.join(written.files)}\n\nNext\n" + "\n".join(f"  {one}" for one in written.commands)
    )
    return 0


def _columns(text: str | None) -> ColumnNames | None:
    try:
        return checked_columns(read_mapping(text)) if text else None
    except ValueError as error:
        raise CannotRun(f"--columns: {error}") from error
