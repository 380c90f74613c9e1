"""Numbers that prose takes from a file or a result, held to it, in every document and notebook."""

import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

from omnirl_core.rewards import load_rewards, overlap
from omnirl_core.rewards.registry import SCORERS
from omnirl_core.shapes import GROUPS, POLICIES
from omnirl_core.trainer.reward_stats import RewardScaleCallback

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "accelerate_configs",
    "benchmarks",
    "docs",
    "notebooks",
    "omnirl_core",
    "omnirl_tools",
    "recipes",
    "scripts",
    "tests",
)


def files(*endings: str) -> list[Path]:
    """Of the repository, and nothing that was installed or written beside it."""
    places = [*ROOT.iterdir(), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    return sorted(path for path in places if path.suffix in endings and path.is_file())


DOCUMENTS = files(".md", ".ipynb")
WEIGHT = re.compile(r"`(\w+)`[^`.;]*?\bweight (\d+(?:\.\d+)?)")
WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}


@cache
def prose(path: Path) -> str:
    """What a reader reads; of a notebook the cells of text."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@cache
def code(name: str) -> str:
    cells = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def config(name: str) -> dict[str, Any]:
    """A recipe's settings."""
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def weights_said() -> Iterator[tuple[Path, str, float]]:
    for path in DOCUMENTS:
        for name, weight in WEIGHT.findall(prose(path)):
            if name in SCORERS:
                yield path, name, float(weight)


def weights_of(path: Path) -> dict[str, float]:
    """Of the rewards that a document is about: its folder's rewards.yaml, or what its notebook's code loads."""
    own = path.parent / "rewards.yaml"
    if own.exists():
        return {reward.name: reward.weight for reward in load_rewards(own)}
    loaded = re.search(r"load_rewards\(\"(?:\.\./)?(recipes/[\w/]+\.yaml)\"\)", code(path.name))
    assert loaded, f"{path}: it names weights, and neither a rewards.yaml nor its code says of which rewards"
    weights = {reward.name: reward.weight for reward in load_rewards(ROOT / loaded[1])}
    given = re.search(r"reward_weights=\[([\d., ]+)\]", code(path.name))
    return dict(zip(weights, map(float, given[1].split(",")), strict=False)) if given else weights


def test_weights_are_those_of_the_files():
    said = list(weights_said())
    assert len(said) >= 8
    wrong = [
        f"{path.relative_to(ROOT)}: `{name}` weight {weight}, it is {weights_of(path).get(name)}"
        for path, name, weight in said
        if weights_of(path).get(name) != weight
    ]
    assert not wrong


def parameters(policy: str) -> int:
    with safe_open(Path(POLICIES[policy]()) / "model.safetensors", "np") as file:
        return sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118  no mapping


def test_the_sizes_of_the_shipped_policies():
    said = [n for path in DOCUMENTS for n in re.findall(r"(\d\.\d) million parameters", prose(path))]
    assert len(said) >= 5
    assert set(said) == {f"{parameters(policy) / 1e6:.1f}" for policy in POLICIES}


MIXED = "recipes/mixed/demo.yaml"
BOY = "a small boy kicks the ball over a fence"


def result(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "recipes" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def after(name: str) -> float:
    changes = result(name)["changes"]
    return next(c["after"] for c in changes if (c["measure"], c["kind"]) == ("score", "all"))


def setting(name: str, key: str) -> int:
    return int(re.search(rf"\b{key}=(\d+)", code(name))[1])


def notebooks() -> int:
    return len(list((ROOT / "notebooks").glob("0*.ipynb")))


def python() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["requires-python"].removeprefix(">=")


# document, what it says (one group a number), what the numbers are
SAID = [
    ("README.md", r"the (\w+) notebooks|The \[(\w+) notebooks", notebooks),
    ("README.md", r"above (\d+) % there is a warning", lambda: round(100 * RewardScaleCallback().clipped)),
    ("README.md", r"one reward file for (\w+) tasks", lambda: len(GROUPS["mixed"])),
    ("README.md", r"Python (\d\.\d+) or later", python),
    ("notebooks/README.md", r"^(\w+) tutorials", notebooks),
    ("notebooks/01_first_run.ipynb", r"of completions \((\d+) here\)",
     lambda: setting("01_first_run.ipynb", "num_generations")),
    ("notebooks/01_first_run.ipynb", r"for 8 questions, (\d+) completions",
     lambda: setting("01_first_run.ipynb", "per_device_train_batch_size")),
    ("notebooks/01_first_run.ipynb", r"`n=(\d+)` samples", lambda: setting("01_first_run.ipynb", "n")),
    ("notebooks/01_first_run.ipynb", r"`max_steps=(\d+)`", lambda: setting("01_first_run.ipynb", "max_steps")),
    ("notebooks/01_first_run.ipynb", r"with (\d+) steps of 128", lambda: config(MIXED)["max_steps"]),
    ("notebooks/01_first_run.ipynb", r"steps of (\d+) completions",
     lambda: config(MIXED)["per_device_train_batch_size"]),
    ("notebooks/01_first_run.ipynb", r"gets to about (\d\.\d)", lambda: round(after("mixed_demo"), 1)),
    ("notebooks/02_rewards.ipynb", r"kicks a boy gets (\d\.\d\d)",
     lambda: round(overlap("the ball kicks a small boy over a fence", BOY), 2)),
    ("notebooks/02_rewards.ipynb", r"the opposite (\d\.\d\d)",
     lambda: round(overlap("a small boy never kicks the ball over a fence", BOY), 2)),
    ("notebooks/04_mixed_modality.ipynb", r"(\d\.\d) for the \*format\*",
     lambda: next(r.weight for r in load_rewards(ROOT / "recipes/mixed/rewards.yaml") if r.name == "think_format")),
    ("notebooks/07_your_own_data.ipynb", r"parts of (\w+) photographs",
     lambda: code("07_your_own_data.ipynb").count("shipped.")),
    ("notebooks/04_mixed_modality.ipynb", r"All (\w+) tasks", lambda: len(GROUPS["mixed"])),
]  # fmt: skip


@pytest.mark.parametrize(("document", "said", "is_so"), SAID, ids=[f"{one[0]} {one[1][:25]}" for one in SAID])
def test_prose_says_what_is_so(document, said, is_so):
    found = re.search(said, prose(ROOT / document), re.MULTILINE)
    assert found, f"{document} no longer says {said!r}: change this table with it"
    number = next(group for group in found.groups() if group)
    assert str(WORDS.get(number.lower(), number)) == str(is_so())


def test_nobody_is_asked_to_install_a_stranger():
    """`omnirl` on PyPI is another project: this one is installed from its checkout."""
    reported = re.compile(r"pip install (?:-\S+ )*'?omnirl(?![_-]core)")
    found = [
        path for path in files(".md", ".py", ".yaml", ".ipynb", ".toml") if reported.search(path.read_text("utf-8"))
    ]
    assert [path for path in found if path.name not in (Path(__file__).name, "CHANGELOG.md")] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "omnirl-core"
