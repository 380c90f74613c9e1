"""What is installed and what is read: exact versions, hashes without addresses, no reader that runs code."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from hash_constraints import hashed_lines  # noqa: E402  a script is no package

CONSTRAINTS = (ROOT / "constraints.txt").read_text().splitlines()
SOURCES = sorted(ROOT.glob("omnirl_core/**/*.py"))


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=;~! ]", requirement, maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")


def test_constraints_are_exact_and_cover_what_is_required():
    lines = [line for line in CONSTRAINTS if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    pinned = {name_of(line) for line in lines}
    left_out = {name_of(item) for item in wanted} - pinned - {"omnirl"}
    assert not left_out


def test_hashes_stand_beside_versions_and_no_address():
    archive = {"url": "https://somewhere/a.whl", "archive_info": {"hashes": {"sha256": "0f"}}}
    own = {"url": "file:///here", "dir_info": {"editable": True}}
    items = [
        {"metadata": {"name": "Zed", "version": "2"}, "download_info": archive},
        {"metadata": {"name": "a", "version": "1.0"}, "download_info": archive},
        {"metadata": {"name": "omnirl", "version": "0"}, "download_info": own},
    ]
    assert hashed_lines(items) == ["a==1.0 --hash=sha256:0f", "Zed==2 --hash=sha256:0f"]
    with pytest.raises(ValueError, match="a==1.0: the index gives no sha256"):
        hashed_lines([{**items[1], "download_info": {"archive_info": {}}}])


def calls(path: Path) -> set[str]:
    """Dotted names that a file calls."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            found.add(ast.unparse(node.func))
    return found


def test_no_reader_that_runs_code_is_called():
    """YAML by the safe loader in one file; no pickle, no torch.load, no eval; own code is run in one place."""
    assert len(SOURCES) > 80
    for path in SOURCES:
        called = calls(path)
        unsafe = {
            "yaml.load",
            "yaml.full_load",
            "yaml.unsafe_load",
            "pickle.load",
            "pickle.loads",
            "torch.load",
            "eval",
        }
        assert not called & (unsafe | {"numpy.load", "np.load", "joblib.load", "dill.loads"}), path
        readers = {"yaml.safe_load", "yaml.compose"}
        assert not called & readers or path.name == "yaml_file.py", path
        assert not any(name.endswith("exec_module") for name in called) or path.name == "file_function.py", (
            path
        )


def test_nobody_sets_remote_code():
    for path in [*SOURCES, *ROOT.glob("recipes/**/*")]:
        if path.suffix in (".py", ".yaml"):
            assert not re.search(r"trust_remote_code\s*[:=]\s*[Tt]rue", path.read_text(encoding="utf-8")), (
                path
            )
