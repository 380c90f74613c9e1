"""vLLM's own engine on a CPU, from the folder that `make setup-vllm` fills; without it these tests are skipped.

OMNIRL_VLLM=required, as in CI, has them fail instead.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from omnirl_core.shapes import tiny_policy
from scripts.ports import free_port

collect_ignore = ["cpu_backend.py", "grpo.py", "serve.py", "site", "store_transfer.py"]  # they import vLLM
FOLDER = Path(__file__).parents[3] / ".vllm"
INSTALL = "vLLM is not installed: make setup-vllm"
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCHDYNAMO_DISABLE": "1",  # the first answer would compile for a minute
    "VLLM_LOGGING_LEVEL": "ERROR",
    "PYTHONPATH": str(Path(__file__).parent / "site"),  # vLLM looks into a model's class in a process of its own
}
SET_BY_TRL = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(scope="session")
def write_checkpoint() -> Iterator[Callable[[str, Path], str]]:
    """Write a tiny checkpoint of a family of scripts/model_families.py, with heads of a size that the backend has."""
    families = importlib.import_module("scripts.model_families")
    with pytest.MonkeyPatch.context() as patch:
        sizes = {
            "TEXT": {**families.TEXT, "num_attention_heads": 1, "num_key_value_heads": 1},
            "HEAD_DIM": families.TEXT["hidden_size"],
            "ROPE": {**families.ROPE, "mrope_section": [4, 6, 6]},
        }
        for module in (families, importlib.import_module("scripts.family_parts")):  # each reads its own names
            for name, value in sizes.items():
                patch.setattr(module, name, value)
        yield families.write_checkpoint


@pytest.fixture(scope="session")
def tiny_checkpoint() -> str:
    """In the place of the other tests', of which the `trainer` fixture makes its trainers.

    Trained, so that what is kept from being sampled has next to no probability: vLLM leaves it out of the
    log-probabilities and the trainer's own pass does not.
    """
    return tiny_policy()


@pytest.fixture(scope="session")
def vllm_folder() -> Path:
    """Folder of the engine; the tests that ask for it are skipped where it is missing."""
    if not (FOLDER / "vllm").exists():
        if os.environ.get("OMNIRL_VLLM") == "required":
            pytest.fail(INSTALL)
        pytest.skip(INSTALL)
    return FOLDER


@pytest.fixture(scope="module")
def backend(vllm_folder: Path) -> Iterator[Any]:
    """TRL's modules with vLLM at hand, and its CPU backend fit for changing weights; the environment as before."""
    kept = {name: os.environ.get(name) for name in (*ENVIRONMENT, *SET_BY_TRL)}
    # a port of this worker's own: accelerate leaves 29500 in the environment, and TRL keeps what it finds
    os.environ.update(ENVIRONMENT | {"MASTER_PORT": str(free_port())})
    sys.path.append(str(vllm_folder))  # last: the project's own packages come first
    for name in ("vllm_client", "vllm_generation"):  # imported before without vLLM
        importlib.reload(importlib.import_module(f"trl.generation.{name}"))
    try:
        yield importlib.import_module("cpu_backend")
    finally:
        for name, value in kept.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        sys.path.remove(str(vllm_folder))


@pytest.fixture(scope="module")
def shared_engines(backend: Any) -> Iterator[Callable[..., Any]]:
    """`vllm.LLM` as TRL makes it, one for each checkpoint and pixel budget of a module."""
    with backend.engines_kept() as make:
        yield make
