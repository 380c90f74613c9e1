"""Every precision, full and LoRA, on text and mixed samples, with and without shared prefixes: the gradients agree.

`shared_prefix: off` is TRL's own run on text, bit for bit. `on` is the plain run in float32 up to 1e-5, and at other
precisions as near to float32 as the plain run is.
"""

import zlib

import pytest
import torch
from conftest import ScriptedTrainer, lazily, letters
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from omnirl_core.trainer import OmniGRPOConfig

PRECISIONS = {
    "fp32": {"bf16": False},
    "bf16 weights": {"bf16": True, "model_init_kwargs": {"dtype": "bfloat16"}},
    "bf16 autocast": {"bf16": True},
}


class ScriptedTRL(GRPOTrainer):
    _generate_single_turn = ScriptedTrainer._generate_single_turn


class Gradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        trained = [p for p in model.parameters() if p.requires_grad]
        self.values = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])


@pytest.fixture(scope="module")
def gradient(tmp_path_factory, tiny_checkpoint, tiny_text_checkpoint, rows):
    """The gradient of one step, made once for each point of the matrix."""
    known = {}
    words = ["one", "two, and more of it", "three", "four"]
    text = Dataset.from_dict({"prompt": [[{"role": "user", "content": word}] for word in words]})
    mixed = lazily([rows[2], rows[0], rows[1], rows[3]])

    def run(kind, precision, lora, samples, shared):
        torch.manual_seed(3)
        settings = dict(
            use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", max_steps=1, num_generations=4,
            per_device_train_batch_size=8, gradient_accumulation_steps=2, max_completion_length=8, max_grad_norm=0.0,
            optim="sgd", seed=1, **PRECISIONS[precision],
        )  # fmt: skip
        folder = str(tmp_path_factory.mktemp("run"))
        config = GRPOConfig(folder, **settings)
        if kind is ScriptedTrainer:
            config = OmniGRPOConfig(folder, shared_prefix=shared, **settings)
        model, data = (tiny_text_checkpoint, text) if samples == "text" else (tiny_checkpoint, mixed)
        adapter = LoraConfig(target_modules=["q_proj", "v_proj"], r=4) if lora else None
        gradients = Gradients()
        worker = kind(model, letters, config, data, peft_config=adapter, callbacks=[gradients])
        for name, parameter in worker.model.named_parameters():
            if "lora_" in name:  # of the same numbers at every precision
                random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=random))
        worker.train()
        assert (getattr(worker, "shared_prefix", None) is not None) == (shared == "on")
        return gradients.values

    def make(*point):
        if point not in known:
            known[point] = run(*point)
        return known[point]

    return make


@pytest.mark.parametrize("samples", ["text", "mixed"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradients_agree(gradient, precision, lora, samples):
    plain = gradient(ScriptedTrainer, precision, lora, samples, "off")
    shared = gradient(ScriptedTrainer, precision, lora, samples, "on")
    exact = gradient(ScriptedTrainer, "fp32", lora, samples, "off").float()
    assert exact.norm() > 0
    if samples == "text":
        assert torch.equal(plain, gradient(ScriptedTRL, precision, lora, samples, None))
    if precision == "fp32":
        assert (shared - plain).norm() <= 1e-5 * exact.norm()
    else:
        rounding = (plain.float() - exact).norm()
        assert 0 < rounding <= 0.2 * exact.norm()
        assert (shared.float() - exact).norm() <= 1.5 * rounding
