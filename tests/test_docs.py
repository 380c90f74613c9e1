"""What the documents say exists: links, paths, make targets, commands, public names."""

import argparse
import importlib
import re
import shlex
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from trl import ModelConfig

from omnirl_core.config import DataArguments
from omnirl_core.trainer import OmniGRPOConfig
from omnirl_tools.cli import _with_underscores, main
from omnirl_tools.commands import COMMANDS
from omnirl_tools.evaluate_arguments import EvaluationArguments
from omnirl_tools.sft import OmniSFTConfig

ROOT = Path(__file__).parents[1]
TRACKED = subprocess.run(
    ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split("\n")
DOCUMENTS = [ROOT / name for name in TRACKED if name.endswith(".md")]
MADE_BY_A_RUN = ("outputs/", "data/", ".venv/")
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
FOLDERS = "recipes|omnirl_core|omnirl_tools|accelerate_configs|tests|notebooks|benchmarks|docs|scripts"

KINDS = (DataArguments, OmniGRPOConfig, ModelConfig, OmniSFTConfig, EvaluationArguments)
SETTINGS = {field.name for kind in KINDS for field in fields(kind)}


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_links_lead_somewhere(document):
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_paths_and_make_targets_exist(document):
    text = document.read_text()
    for path in re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./-]*\w)", text):
        assert (ROOT / path).exists(), f"{document.name} names {path}"
    for target in re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE):
        assert target in TARGETS, f"{document.name} says make {target}"


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=ids)
def test_workflows_run_what_the_repository_has(workflow):
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    commands = [step["run"].split("#")[0].strip() for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands
    for command in commands:
        target = command.removeprefix("make ")
        assert target in TARGETS if command.startswith("make ") else (ROOT / command).is_file(), command


def test_architecture_names_what_exists():
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`(omnirl_\w+/[\w/]+\.py):(\w+)`", text)
    assert len(named) >= 12
    for path, name in named:
        code = (ROOT / path).read_text()
        assert re.search(rf"^ *(?:def|class) {name}\b", code, re.MULTILINE), f"{path} has no {name}"


COMMAND_LINE = re.compile(r"^ *(omnirl [^#\n]+)", re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_commands_have_the_subcommands_and_settings_that_they_name(document):
    for block in re.findall(r"```bash\n(.*?)```", document.read_text(), re.DOTALL):
        for line in COMMAND_LINE.findall(block.replace("\\\n", " ")):
            _, name, *words = shlex.split(line)
            assert name in COMMANDS, line
            command, parser = importlib.import_module(COMMANDS[name][0]), argparse.ArgumentParser()
            command.add_arguments(parser)
            _, others = parser.parse_known_args(list(map(_with_underscores, words)))
            settings = {word.partition("=")[0][2:].replace("-", "_") for word in others if word.startswith("--")}
            assert getattr(command, "TAKES_OVERRIDES", False) or not others, line
            assert settings <= SETTINGS, line


def test_the_quickstart_is_what_init_says(tmp_path, monkeypatch, capsys):
    """The commands after `omnirl init demo` are among those that it prints; tests/distribution runs them."""
    [quickstart] = re.findall(r"## Quickstart\n\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    install, first, *then = [line.partition("#")[0].strip() for line in quickstart.splitlines()]
    assert (install, first) == ("pip install .", "omnirl init demo")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "demo"]) == 0
    assert set(then) <= {line.strip() for line in capsys.readouterr().out.splitlines()}
    assert [command.split()[1] for command in then] == ["train", "report"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_python_blocks_import_what_exists(document):
    for block in re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL):
        if ">>>" not in block:  # a doctest, run as such
            compile(block, document.name, "exec")
        for module, names in re.findall(r"^from (omnirl_(?:core|tools)[\w.]*) import ([\w, ]+)$", block, re.MULTILINE):
            for name in names.split(","):
                assert hasattr(importlib.import_module(module), name.strip()), f"{module}.{name}"


def test_no_file_is_long_and_none_names_a_machine():
    for name in TRACKED:
        path = ROOT / name
        if path.suffix == ".py" and path.exists():
            most = 500 if path.name == "grpo_trainer.py" else 400
            assert len(path.read_text().splitlines()) <= most, name
