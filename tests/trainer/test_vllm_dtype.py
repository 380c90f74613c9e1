"""vLLM's dtype beside the policy's: what a run says, and what it makes a colocated engine with."""

import logging
import os
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from test_vllm import without_images
from trl.generation import vllm_generation
from trl.trainer import grpo_trainer


class NotedServer:
    """`VLLMGeneration` in server mode, with what the server tells of itself."""

    dtype = "torch.bfloat16"

    def __init__(self, model: Any, **settings: Any) -> None:
        self.generation_kwargs = settings["generation_kwargs"] or {}
        self.vllm_client = self

    def get_server_info(self) -> dict[str, Any]:
        return {"model_config": {"logprobs_mode": "processed_logprobs", "dtype": self.dtype}}


@pytest.mark.parametrize(
    ("served", "settings", "reported"),
    [
        ("torch.bfloat16", {}, "the server computes in bfloat16 and the policy in float32"),
        ("torch.float32", {}, None),
        ("torch.bfloat16", {"bf16": True}, None),  # autocast: weights in fp32, the pass in bf16
        ("torch.float16", {"model_init_kwargs": {"dtype": "bfloat16"}}, "start it with --dtype bfloat16"),
    ],
    ids=["float32", "same", "autocast", "bfloat16"],
)
def test_a_server_of_another_dtype_is_reported_once(trainer, rows, monkeypatch, caplog, served, settings, reported):
    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", NotedServer)
    monkeypatch.setattr(NotedServer, "dtype", served)
    with caplog.at_level(logging.INFO, "omnirl_core"):
        trainer(rows, use_vllm=True, vllm_mode="server", **settings)
    warnings = [record for record in caplog.records if "computes in" in record.getMessage()]
    assert len(warnings) == 1
    assert (warnings[0].levelno == logging.WARNING) == (reported is not None)
    assert (reported or "as the policy does") in caplog.text


class NotedEngine:
    """`vllm.LLM`, as far as TRL makes it."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.model_config = SimpleNamespace(dtype=options["dtype"])


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({}, "float32"),
        ({"model_init_kwargs": {"dtype": "bfloat16"}}, "bfloat16"),
        ({"bf16": True}, "bfloat16"),
    ],
    ids=["float32", "bfloat16", "autocast"],
)
def test_a_colocated_engine_has_the_dtype_of_the_policy(trainer, rows, monkeypatch, caplog, settings, dtype):
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "LLM", NotedEngine, raising=False)
    with caplog.at_level(logging.INFO, "omnirl_core"), patch.dict(os.environ):  # TRL sets RANK and the like
        worker = trainer(without_images(rows), use_vllm=True, **settings)
    assert worker.vllm_generation.llm.options["dtype"] == dtype
    assert caplog.text.count(f"the engine computes in {dtype}, as the policy does") == 1
    assert vllm_generation.LLM is NotedEngine, "nothing stays replaced"
