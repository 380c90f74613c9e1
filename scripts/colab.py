"""Make the notebooks open in Colab: a badge in the first cell, and a cell that installs the repository there.

    python scripts/colab.py OWNER/NAME --branch main     # the repository on GitHub that has the notebooks

Run it in the copy that is published, once it has an address. Elsewhere than on Colab the cell does nothing. Running
it again, with the same address or another, replaces what it wrote.
"""

import argparse
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
ADDRESS = "(https://colab.research.google.com/github/{repository}/blob/{branch}/notebooks/{name}.ipynb)"
ID = "on-colab"
INSTALL = """\
# on Colab: fetch the repository, install it, and work in its notebooks; elsewhere nothing happens
import sys

if "google.colab" in sys.modules:
    !git clone -q --depth 1 --branch {branch} https://github.com/{repository} /content/omnirl
    !pip install -q -e '/content/omnirl[math,bitsandbytes,notebooks]'
    %cd -q /content/omnirl/notebooks"""


def with_colab(notebook: NotebookNode, name: str, repository: str, branch: str) -> NotebookNode:
    """The notebook with badge and first cell; what an earlier call wrote is replaced.

    Args:
        notebook: of format 4.
        name: its file's, without ending.
        repository: `owner/name` on GitHub.
        branch: a branch or tag of it.
    """
    cells = [cell for cell in notebook.cells if cell.get("id") != ID]
    bare = re.sub(r"\n\n" + re.escape(BADGE) + ".*", "", cells[0].source)
    title, _, rest = bare.partition("\n")
    address = ADDRESS.format(repository=repository, branch=branch, name=name)
    cells[0].source = f"{title}\n\n{BADGE}{address}\n{rest}"
    install = nbformat.v4.new_code_cell(INSTALL.format(repository=repository, branch=branch), id=ID)
    notebook.cells = [cells[0], install, *cells[1:]]
    return notebook


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", metavar="OWNER/NAME")
    parser.add_argument("--branch", default="main", help="a branch or a tag (default %(default)s)")
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, help="their folder")
    arguments = parser.parse_args(argv)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", arguments.repository):
        parser.error(f"{arguments.repository!r} is no OWNER/NAME")
    for path in sorted(arguments.notebooks.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        nbformat.write(with_colab(notebook, path.stem, arguments.repository, arguments.branch), path)


if __name__ == "__main__":
    main()
