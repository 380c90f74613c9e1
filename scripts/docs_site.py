"""Hook of mkdocs: gathers the pages of the site, with the folders of the repository, so that their links hold.

README.md becomes the first page. Notebooks keep the outputs that are stored in them. What a page links to and is no
page (a YAML, a script) is copied beside it. One page of the API is made for each package of API.
"""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from griffe import Extension, Object

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "recipes", "notebooks", "accelerate_configs", "benchmarks")
LOOSE = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "NOTICE", "CITATION.cff")
API = {
    "Trainer": ("omnirl_core.trainer", ["OmniGRPOTrainer", "OmniGRPOConfig"]),
    "Rewards": ("omnirl_core.rewards", ["load_rewards", "describe_rewards", "Reward", "RewardsError"]),
    "Data": ("omnirl_core.data", ["load_dataset", "load_records", "open_image", "Record", "DataError"]),
    "Boxes": ("omnirl_core.boxes", ["parse_boxes"]),
    "Drawn world": ("omnirl_core.shapes", ["write_dataset", "tiny_policy", "tiny_reader"]),
}
"""Page -> its module and the public names that it shows."""
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)([^)]*)\)")


class FencedDoctests(Extension):  # type: ignore[misc]  # griffe's base is untyped without its extra
    """Puts the doctests of docstrings into blocks of code: Markdown would read `[0.5, 1.0]` as a link."""

    def on_object(self, *, obj: Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(docstring: str) -> str:
    """The docstring with its doctests between fences.

    >>> fenced("Add.\\n\\n>>> 1 + 1\\n2").splitlines()
    ['Add.', '', '```pycon', '>>> 1 + 1', '2', '```']
    """
    blocks = re.split(r"\n[ \t]*\n", docstring)
    return "\n\n".join(f"```pycon\n{block}\n```" if block.lstrip().startswith(">>>") else block for block in blocks)


def on_config(config: Any) -> Any:
    """Gather the pages into a new folder, and make it mkdocs' `docs_dir`."""
    folder = Path(tempfile.mkdtemp(prefix="omnirl_site_"))
    gather(folder)
    config["docs_dir"] = str(folder)
    named = set(_named(config["nav"]))
    config["nav"] = [_listed(entry, folder, named) for entry in config["nav"]]
    return config


def on_post_build(config: Any) -> None:
    shutil.rmtree(config["docs_dir"])


def gather(folder: Path) -> None:
    """Copy pages and what they link to into `folder`, and write the pages of the API."""
    for page in _pages():
        text = page.read_text(encoding="utf-8")
        target = folder / page.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = _relinked(text, page, folder) if page.suffix == ".md" else _notebook(text, page, folder)
        target.write_text(text, encoding="utf-8")
    (folder / "README.md").rename(folder / "index.md")
    (folder / "site.css").write_text((ROOT / "docs" / "site.css").read_text())
    (folder / "api").mkdir()
    for title, names in _api().items():
        shown = "\n".join(f"::: {name}\n" for name in names)
        (folder / "api" / f"{title.lower().replace(' ', '_')}.md").write_text(f"# {title}\n\n{shown}")


def _pages() -> list[Path]:
    """The pages that git has, or would have: no run's outputs."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "README.md", *LOOSE, *FOLDERS]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in names if name.endswith((".md", ".ipynb")) and (ROOT / name).exists()]


def _notebook(text: str, page: Path, folder: Path) -> str:
    """The notebook, whose links lead to the pages as they are built: mkdocs leaves them as they are."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            source = _relinked("".join(cell["source"]), page, folder)
            cell["source"] = re.sub(r"\]\((?!https?:)([^)#\s]+)\.(?:md|ipynb)(?=[)#])", r"](\1.html", source).replace(
                "README.html", "index.html"
            )
    return json.dumps(notebook)


def _relinked(text: str, page: Path, folder: Path) -> str:
    return _LINK.sub(lambda link: _linked(link, page, folder), text)


def _linked(link: re.Match[str], page: Path, folder: Path) -> str:
    """The link as the site has it: a folder leads to its README, and a file that is no page is copied."""
    name, rest = link.groups()
    target = (page.parent / name).resolve()
    if target.is_dir():
        readme = target / "README.md"
        return f"]({name.rstrip('/')}/README.md{rest})" if readme.exists() else f"]({name}{rest})"
    if target == ROOT / "README.md":
        return f"]({name.removesuffix('README.md')}index.md{rest})"
    if target.is_file() and target.suffix not in (".md", ".ipynb"):
        copy = folder / target.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(target, copy)
    return link.group()


def _named(nav: Any) -> Iterator[str]:
    """The pages that the navigation names."""
    if isinstance(nav, str):
        yield nav
    for entry in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _named(entry)


def _listed(entry: Any, folder: Path, named: set[str]) -> Any:
    """An entry of the navigation; a folder stands for its pages that are named nowhere else, the README first."""
    if not isinstance(entry, dict):
        return entry
    ((title, value),) = entry.items()
    if not isinstance(value, str) or value.endswith(".md"):
        return entry
    pages = [*(folder / value).glob("*.md"), *(folder / value).glob("*/README.md"), *(folder / value).glob("*.ipynb")]
    names = {str(page.relative_to(folder)) for page in pages} - named
    return {title: sorted(names, key=lambda name: (name != f"{value}/README.md", name))}


def _api() -> dict[str, list[str]]:
    """Page of the API -> the dotted names that it shows: API's, and every scorer of the registry."""
    from omnirl_core.rewards.registry import SCORERS

    scorers = [place.replace(":", ".") for place in SCORERS.values()]
    return {
        **{title: [f"{module}.{name}" for name in names] for title, (module, names) in API.items()},
        "Scorers": scorers,
    }
