"""Which path runs and what is said about it: auto, on, off, and the check on the first batch."""

import logging

import pytest
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig
from transformers import GPT2Config, GPT2LMHeadModel
from trl import GRPOConfig

from omnirl_core.models import load_policy, load_processor
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from omnirl_core.trainer.shared_prefix import runtime
from omnirl_core.trainer.shared_prefix.support import family_obstacle

LORAS = {
    "rank-stabilised": {"use_rslora": True, "bias": "lora_only"},
    "DoRA": {"use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}, "layers_to_transform": [1]},
    "saved modules": {"modules_to_save": ["norm"]},
    "PiSSA": {"init_lora_weights": "pissa"},
}
EIGHT_ROWS = {"num_generations": 4, "per_device_train_batch_size": 8, "max_steps": 1}


def test_auto_shares_and_says_so_once(trainer, rows, caplog):
    with caplog.at_level(logging.INFO, "omnirl_core"):
        worker = trainer(rows, shared_prefix="auto", **EIGHT_ROWS)
        worker.train()
    assert OmniGRPOConfig.__dataclass_fields__["shared_prefix"].default == "auto"
    assert worker.shared_prefix is not None
    said = [record.getMessage() for record in caplog.records if "shared_prefix" in record.getMessage()]
    assert said == [
        "shared_prefix: prompts of a group run once (rollout and log-probabilities), qwen2_5_vl is verified"
    ]


def test_a_plain_trl_config_leaves_trl_as_it_is(tiny_text_checkpoint, tmp_path):
    data = Dataset.from_dict({"prompt": ["a"] * 4})
    config = GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", num_generations=2)
    worker = OmniGRPOTrainer(tiny_text_checkpoint, lambda completions, **_: [0.0] * len(completions), config, data)
    assert worker.shared_prefix is None


@pytest.fixture
def unverified(tmp_path, tiny_text_checkpoint):
    tokenizer = load_processor(tiny_text_checkpoint)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=128,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    return str(tmp_path / "gpt2")


def test_an_unverified_family_runs_plainly_under_auto_and_is_named_under_on(trainer, unverified, caplog):
    data = Dataset.from_dict({"prompt": ["a", "b", "c", "d"]})
    worker = trainer(data, model=unverified, shared_prefix="auto", **EIGHT_ROWS)
    assert worker.shared_prefix is None
    said = "fall back to one prompt for each completion, because family 'gpt2' is not verified"
    assert caplog.text.count(said) == 1, "a warning, which is shown without any setting"
    with pytest.raises(ValueError, match="shared_prefix: on, but family 'gpt2' is not verified"):
        trainer(data, model=unverified, shared_prefix="on", **EIGHT_ROWS)


def test_a_rollout_that_falls_back_is_said(trainer, rows, caplog):
    worker = trainer(rows, shared_prefix="auto", generation_kwargs={"num_beams": 2}, **EIGHT_ROWS)
    assert not worker.shared_prefix.in_rollout
    assert "rollout falls back to one prompt for each completion, because generation mode is beam" in caplog.text


def test_what_stands_in_the_way_is_said(trainer, tiny_checkpoint, rows):
    def refusal(model=None, **changes):
        extra = {name: changes.pop(name) for name in ("tools", "rollout_func", "peft_config") if name in changes}
        with pytest.raises(ValueError, match="shared_prefix: on, but") as error:
            trainer(rows, model=model, shared_prefix="on", extra=extra, **EIGHT_ROWS, **changes)
        return str(error.value)

    eager = load_policy(tiny_checkpoint, attn_implementation="eager")
    assert "attn_implementation is 'eager', not one of sdpa, flash_attention_2" in refusal(model=eager)
    assert "rollout_func" in refusal(rollout_func=lambda prompts, trainer: {})
    assert "torch_compile" in refusal(torch_compile=True)
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert "adapters by PrefixTuningConfig are not verified" in refusal(peft_config=prefix)


ADAPTERS = {
    "LoRA with alora_invocation_tokens is not verified": {"alora_invocation_tokens": [104, 105]},
    "LoRA with lora_bias is not verified": {"lora_bias": True},
}


@pytest.mark.parametrize("reason", ADAPTERS)
def test_what_is_not_known_to_work_of_an_adapter_takes_the_plain_path(trainer, rows, caplog, reason):
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], **ADAPTERS[reason])
    with caplog.at_level(logging.INFO, "omnirl_core"):
        worker = trainer(rows, shared_prefix="auto", extra={"peft_config": lora}, **EIGHT_ROWS)
    assert worker.shared_prefix is None
    assert reason in caplog.text
    with pytest.raises(ValueError, match=f"shared_prefix: on, but {reason}"):
        trainer(rows, shared_prefix="on", extra={"peft_config": lora}, **EIGHT_ROWS)


@pytest.mark.parametrize("lora", LORAS)
def test_lora_that_is_known_to_work_equals_the_plain_path(trainer, rows, lora):
    config = LoraConfig(target_modules=["q_proj", "v_proj"], r=4, **({"init_lora_weights": False} | LORAS[lora]))
    runs = []
    for shared in ("on", "off"):
        torch.manual_seed(3)
        worker = trainer(
            [rows[2], rows[0]],
            scripted=True,
            shared_prefix=shared,
            extra={"peft_config": config},
            **EIGHT_ROWS,
        )
        worker.train()
        runs.append([(line["loss"], line["grad_norm"]) for line in worker.state.log_history if "loss" in line])
    assert runs[0] == [pytest.approx(line, rel=1e-4, abs=1e-5) for line in runs[1]]
    assert runs[0][0][1] > 0


def test_a_class_that_only_calls_itself_llama_takes_the_plain_path(trainer, tiny_text_checkpoint):
    class LlamaForCausalLM(transformers.LlamaForCausalLM):
        """As a repository with code of its own has it."""

    model = LlamaForCausalLM.from_pretrained(tiny_text_checkpoint)
    assert model.config.model_type == "llama"
    assert "LlamaForCausalLM is not transformers' LlamaForCausalLM" in family_obstacle(model)
    assert family_obstacle(load_policy(tiny_text_checkpoint)) is None


def test_verification_passes_under_lora_dropout_and_leaves_training_on(trainer, rows):
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], lora_dropout=0.5, init_lora_weights=False)
    worker = trainer(rows, shared_prefix="on", verify_shared_prefix=True, extra={"peft_config": lora}, **EIGHT_ROWS)
    worker.train()
    assert not worker.shared_prefix.to_verify
    dropouts = [module for module in worker.model.modules() if isinstance(module, torch.nn.Dropout)]
    assert dropouts
    assert all(module.training for module in dropouts)


def test_all_ranks_refuse_what_one_rank_sees(trainer, rows, monkeypatch):
    """Their differences are gathered; here another rank's is too large."""
    worker = trainer(rows, shared_prefix="on", verify_shared_prefix=True, **EIGHT_ROWS)
    gather = worker.accelerator.gather

    def with_another(value):
        gathered = gather(value)
        return torch.cat([gathered, gathered + 1]) if gathered.shape == (1,) else gathered

    monkeypatch.setattr(worker.accelerator, "gather", with_another)
    with pytest.raises(ValueError, match="from the plain path's in the mean"):
        worker.train()


def test_a_rollout_with_another_cache_is_plain_and_training_is_shared(trainer, rows):
    settings = {**EIGHT_ROWS, "gradient_accumulation_steps": 2}
    runs = []
    for shared in ("on", "off"):
        worker = trainer(
            [rows[2], rows[0], rows[1], rows[3]],
            shared_prefix=shared,
            cache_implementation="dynamic",
            **settings,
        )
        assert (worker.shared_prefix is not None) == (shared == "on")
        assert worker.shared_prefix is None or not worker.shared_prefix.in_rollout
        worker.train()
        runs.append(worker.state.log_history[0])
    assert runs[0]["reward"] == runs[1]["reward"]
    assert runs[0]["grad_norm"] == pytest.approx(runs[1]["grad_norm"], rel=1e-5)


def test_verification_refuses_a_path_that_is_wrong(trainer, rows, monkeypatch):
    right = runtime.encode_prompts

    def shifted(*args):
        return [
            type(prompt)(prompt.token_ids, prompt.position_ids * 2, prompt.images, prompt.n_images, prompt.token_types)
            for prompt in right(*args)
        ]

    monkeypatch.setattr(runtime, "encode_prompts", shifted)
    with pytest.raises(ValueError, match=r"from the plain path's in the mean, above 0\.0001; set shared_prefix: off"):
        trainer(rows, shared_prefix="on", verify_shared_prefix=True, **EIGHT_ROWS).train()


@pytest.mark.parametrize(("given", "kept"), [(True, "on"), (False, "off"), ("auto", "auto")])
def test_yaml_reads_on_and_off_as_booleans(config, given, kept):
    assert config(shared_prefix=given).shared_prefix == kept


def test_another_word_is_refused(config):
    with pytest.raises(ValueError, match="shared_prefix 'yes' is neither 'auto', 'on' nor 'off'"):
        config(shared_prefix="yes")
