"""Each line of the table in docs/vllm.md: vLLM answers as transformers, or the run is refused."""

import importlib
from pathlib import Path

import pytest
from greedy import by_transformers, by_vllm, largest_gap, shake
from peft import LoraConfig
from serving import serving

from omnirl_core.trainer.vllm import FAMILIES, vllm_obstacle
from scripts.ports import free_port

pytestmark = pytest.mark.vllm
ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "vllm.md").read_text(encoding="utf-8")
SEEN = ("Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL")
ADAPTER = dict(r=4, target_modules=["q_proj", "v_proj"])
MOST = 32 * 32
"""Pixels of the budget: one of the images of 100 x 60 has a third of the tokens."""


def line(mode: str, family: str, cells: list[str]) -> str:
    return f"| {' | '.join([family, mode, *cells])} |"


def equality(worker, rows) -> str:
    """Of the answers after every trained weight has changed."""
    shake(worker.model)
    worker.vllm_generation.sync_weights()
    gap = largest_gap(by_vllm(worker, rows), by_transformers(worker, rows))
    return "equal" if gap < 1e-4 else f"differs by {gap:.1g}"


@pytest.mark.parametrize("family", SEEN)
def test_a_family_in_colocate_mode(family, write_checkpoint, shared_engines, trainer, rows, tmp_path):
    checkpoint = write_checkpoint(family, tmp_path / "checkpoint")
    cells = []
    for max_pixels in (None, MOST):
        for adapter in (None, LoraConfig(**ADAPTER)):
            worker = trainer(
                rows, model=checkpoint, extra={"peft_config": adapter}, max_pixels=max_pixels, use_vllm=True
            )
            cells.append(equality(worker, rows))
    assert line("colocate", family, cells) in PAGE


@pytest.mark.repeat
@pytest.mark.parametrize("family", SEEN)
def test_a_family_in_server_mode(family, write_checkpoint, vllm_folder, backend, trainer, rows, tmp_path):
    checkpoint = write_checkpoint(family, tmp_path / "checkpoint")
    cells = []
    for max_pixels in (None, MOST):
        with serving(vllm_folder, checkpoint, tmp_path / "log", max_pixels) as port, backend.store_for_nccl():
            for adapter in (None, LoraConfig(**ADAPTER)):
                own = dict(vllm_mode="server", vllm_server_host="127.0.0.1", vllm_server_port=port)
                worker = trainer(
                    rows, model=checkpoint, extra={"peft_config": adapter}, max_pixels=max_pixels, use_vllm=True,
                    vllm_group_port=free_port(), **own,
                )  # fmt: skip
                cells.append(equality(worker, rows))
    assert line("server", family, cells) in PAGE


def test_other_families_are_refused():
    for family, build in importlib.import_module("scripts.model_families").FAMILIES.items():
        config = build()[1].config
        if "text-only" not in family and config.model_type not in FAMILIES:
            assert "set use_vllm: false" in vllm_obstacle(config)
            for mode in ("colocate", "server"):
                assert line(mode, family, ["refused"] * 4) in PAGE


def test_qwen3_vl_that_does_not_say_that_it_interleaves_is_refused():
    """vLLM would place its images otherwise than transformers: log-probabilities differed by some 1e-3."""
    config = importlib.import_module("scripts.model_families").FAMILIES["Qwen3-VL"]()[1].config
    assert vllm_obstacle(config) is None
    del config.text_config.rope_parameters["mrope_interleaved"]
    assert "mrope_interleaved: true in rope_parameters" in vllm_obstacle(config)
