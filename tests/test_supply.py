"""What is installed and what is read: exact versions, hashes without addresses, no reader that runs code."""

import ast
import re
import sys
import tomllib
from collections.abc import Collection
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from hash_constraints import hashed_lines  # noqa: E402  a script is no package

CONSTRAINTS = (ROOT / "constraints.txt").read_text().splitlines()
SOURCES = sorted(path for package in ("omnirl_core", "omnirl_tools") for path in ROOT.glob(f"{package}/**/*.py"))


def all_needed(requirements: list[Requirement]) -> set[str]:
    """Names of what these bring on this machine, of what that brings, and so on."""
    found, todo = (
        set(),
        [(item.name, frozenset(item.extras)) for item in requirements if applies(item, set())],
    )
    done = set()
    while todo:
        done.add(todo[-1])
        name, extras = todo.pop()
        found.add(canonicalize_name(name))
        with suppress(PackageNotFoundError):  # the venv is older than the list
            for text in distribution(name).requires or []:
                item = Requirement(text)
                if applies(item, extras):
                    todo += {(item.name, frozenset(item.extras))} - done
    return found


def applies(item: Requirement, extras: Collection[str]) -> bool:
    return item.marker is None or any(item.marker.evaluate({"extra": extra}) for extra in {"", *extras})


def test_constraints_are_exact_and_cover_what_is_required():
    lines = [line for line in CONSTRAINTS if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines}
    needed = all_needed([Requirement(text) for text in wanted])
    assert len(needed) > 100
    assert not needed - pinned - {"omnirl-core"}


def test_hashes_stand_beside_versions_and_no_address():
    archive = {"url": "https://somewhere/a.whl", "archive_info": {"hashes": {"sha256": "0f"}}}
    own = {"url": "file:///here", "dir_info": {"editable": True}}
    items = [
        {"metadata": {"name": "Zed", "version": "2"}, "download_info": archive},
        {"metadata": {"name": "a", "version": "1.0"}, "download_info": archive},
        {"metadata": {"name": "omnirl-core", "version": "0"}, "download_info": own},
    ]
    assert hashed_lines(items) == ["a==1.0 --hash=sha256:0f", "Zed==2 --hash=sha256:0f"]
    with pytest.raises(ValueError, match=r"a==1\.0: the index gives no sha256"):
        hashed_lines([{**items[1], "download_info": {"archive_info": {}}}])


RUNS_CODE = {
    "yaml.load", "yaml.full_load", "yaml.unsafe_load", "pickle.load", "pickle.loads", "dill.loads", "joblib.load",
    "numpy.load", "np.load", "eval",
}  # fmt: skip
KEPT_TO = {
    "yaml.safe_load": "yaml_loader.py", "yaml.compose": "yaml_loader.py",
    "exec": "shim.py",  # within the code reward's jail
    "loader.exec_module": "registry.py",
}  # fmt: skip


def test_no_reader_that_runs_code_is_called():
    """YAML by the safe loader in one file; no pickle, no eval; torch's restricted unpickler; own code in one place."""
    assert len(SOURCES) > 80
    met = set()
    for path in SOURCES:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func)
            assert name not in RUNS_CODE, path
            assert name != "torch.load" or "weights_only=True" in ast.unparse(call), path
            assert KEPT_TO.get(name, path.name) == path.name
            met |= {name} & KEPT_TO.keys()
    assert met == KEPT_TO.keys()


def test_nobody_sets_remote_code():
    for path in [*SOURCES, *ROOT.glob("recipes/**/*.py"), *ROOT.glob("recipes/**/*.yaml")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"trust_remote_code\s*[:=]\s*[Tt]rue", text), path
