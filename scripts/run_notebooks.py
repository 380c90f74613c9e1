"""Run the tutorial notebooks from top to bottom and keep their outputs, without what one machine alone would say.

    python scripts/run_notebooks.py                              # all of them
    python scripts/run_notebooks.py notebooks/02_rewards.ipynb   # this one

Running twice changes nothing but what a notebook measures by the clock. The figure of the cell that is tagged
`thumbnail` is also kept small, for the index.
"""

import argparse
import base64
import io
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SECONDS_PER_CELL = 1200  # a watchdog; on a free machine no notebook needs 150
THUMBNAIL = 480, 320  # most pixels, across and down


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every notebook")
    for path in parser.parse_args(argv).notebooks or sorted(NOTEBOOKS.glob("*.ipynb")):
        started = time.monotonic()
        run(path)
        print(f"{path.name}: {time.monotonic() - started:.0f} s", file=sys.stderr)


def run(path: Path) -> None:
    """Execute the notebook in its own folder and write it back; a cell that fails leaves the file as it was."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        kernel_name="python3",
        resources={"metadata": {"path": path.parent}},
    )
    client.execute()
    nbformat.write(tidy(notebook), path)
    for cell in notebook.cells:
        if "thumbnail" in cell.metadata.get("tags", []):
            write_thumbnail(cell, path.parent / "thumbnails" / f"{path.stem}.png")


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Drop times, versions and kernels, number the cells, and join the pieces in which a stream arrived."""
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = NotebookNode({"tags": cell.metadata.tags} if "tags" in cell.metadata else {})
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    return notebook


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs without bars, which only a running kernel moves, and one stream where it sent several in a row."""
    found: list[NotebookNode] = []
    for output in outputs:
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
            continue
        last = found[-1] if found else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            found.append(output)
    return found


def write_thumbnail(cell: NotebookNode, path: Path) -> None:
    """The first figure that the cell shows, scaled down."""
    data = next(output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {}))
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    image.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    path.parent.mkdir(exist_ok=True)
    image.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
