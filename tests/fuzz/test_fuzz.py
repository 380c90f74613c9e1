"""Anything at all, through every reader of what a model or a stranger wrote; for longer: `make fuzz`."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .targets import TARGETS

HERE = Path(__file__).parent
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))
SECONDS = int(os.environ.get("FUZZ_SECONDS", "3"))
CASES = sorted((HERE / "cases").glob("*/*"))

TOKENS = {
    "tags": ["<think>", "</think>", "<answer>", "</answer>", "<THINK>", "<|im_end|>", "<", "\n", "x"],
    "boxes": ["[", "]", "(", ")", "{", "}", ",", ":", '"', '"bbox_2d"', '"label"', "1", "-2.5", "1e9", "1e999", "\\"],
    "json": ["[", "]", "{", "}", ",", ":", '"', '"a"', "1", "1e999", "NaN", "\\ud800", "true", "\n", '{"problem":'],
    "yaml": ["a: ", "- ", "&a ", "*a", "!!int ", "[", "]", "{", "}", "\n", "  ", "? ", "'", "|", "datasets:\n",
             "rewards:\n", "name: ", "exact", "settings: ", "json_path: ", "first:3", "2001-99-99", "<<: ", "\t"],
}  # fmt: skip
OF_TARGET = {
    "tags": "tags", "boxes": "boxes", "json_value": "json", "jsonl": "json", "json_list": "json", "record": "json",
    "yaml_text": "yaml", "rewards": "yaml", "mixture": "yaml", "config": "yaml",
}  # fmt: skip


def inputs(target: str) -> st.SearchStrategy[bytes]:
    """Bytes, text, and sequences of what the target's language is made of; for JSON also whole values."""
    kind = OF_TARGET[target]
    pieces = st.one_of(st.sampled_from(TOKENS[kind]), st.text(max_size=4), st.integers().map(str))
    joined = st.lists(pieces, max_size=40).map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass"))
    kinds = [st.binary(max_size=200), joined]
    if kind == "json":
        leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
        names = st.sampled_from(["problem", "solution", "image", "conversations", "from", "value", "task"]) | st.text()
        values = st.recursive(leaves, lambda x: st.lists(x) | st.dictionaries(names, x), max_leaves=20)
        kinds.append(values.map(lambda value: json.dumps(value).encode()))
    return st.one_of(kinds)


def test_every_target_has_a_language():
    assert OF_TARGET.keys() == TARGETS.keys()


@pytest.mark.parametrize("target", TARGETS)
def test_anything_is_read_or_refused(target):
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(inputs(target))
    def reads(data: bytes) -> None:
        TARGETS[target](data)

    reads()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}/{case.name}")
def test_findings_stay_mended(case):
    TARGETS[case.parent.name](case.read_bytes())


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has wheels for some Pythons on Linux only"
)
@pytest.mark.repeat
@pytest.mark.parametrize("target", ["tags", "boxes", "json_list", "yaml_text"])
def test_coverage_finds_nothing_in_seconds(target, tmp_path):
    folders = ("--findings", str(tmp_path / "found"), "--corpus", str(tmp_path / "corpus"))
    done = subprocess.run(
        [sys.executable, str(HERE / "coverage_guided.py"), target, "--seconds", str(SECONDS), *folders],
        capture_output=True, text=True, timeout=120 + SECONDS, env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )  # fmt: skip
    findings = [path.read_bytes() for path in (tmp_path / "found").iterdir()]
    assert done.returncode == 0, (findings, done.stderr[-3000:])
    assert "stat::number_of_executed_units" in done.stderr
