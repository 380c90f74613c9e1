"""What omnirl_core.trainer overrides or calls in TRL 1.16 and transformers 5.23; a change there fails here first."""

import inspect

import pytest
import transformers
import trl
from transformers import Qwen2_5_VLModel, Trainer
from trl import GRPOConfig, GRPOTrainer

from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from omnirl_core.trainer.dummy_image import CACHE_NAMES
from omnirl_core.trainer.shared_prefix.rollout import CACHE_NAME

SIGNATURES = {
    (GRPOTrainer, "_generate_and_score_completions"): ["self", "inputs"],
    (GRPOTrainer, "_generate"): ["self", "prompts"],
    (GRPOTrainer, "_tokenize_prompts"): ["self", "prompts"],
    (GRPOTrainer, "_generate_single_turn"): [
        "self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images",
    ],
    (GRPOTrainer, "_calculate_rewards"): ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    (GRPOTrainer, "_get_train_sampler"): ["self", "dataset"],
    (Trainer, "_load_from_checkpoint"): ["self", "resume_from_checkpoint", "model"],
    (Trainer, "_load_best_model"): ["self"],
}  # fmt: skip


@pytest.mark.parametrize(("owner", "name"), SIGNATURES)
def test_overridden_method_has_the_signature_we_override(owner, name):
    assert list(inspect.signature(getattr(owner, name)).parameters) == SIGNATURES[owner, name]
    assert list(inspect.signature(getattr(OmniGRPOTrainer, name)).parameters) == SIGNATURES[owner, name]


def test_every_override_of_a_private_method_is_listed():
    inherited = {name for owner in GRPOTrainer.__mro__ for name in vars(owner)}
    ours = {name for name in vars(OmniGRPOTrainer) if name.startswith("_") and not name.startswith("__")}
    assert ours & inherited == {name for _, name in SIGNATURES}


def test_constructor_takes_what_trl_takes():
    parameters = inspect.signature(GRPOTrainer.__init__).parameters
    assert list(inspect.signature(OmniGRPOTrainer.__init__).parameters) == list(parameters)


def test_config_has_every_setting_of_trl_with_its_default():
    ours, theirs = OmniGRPOConfig.__dataclass_fields__, GRPOConfig.__dataclass_fields__
    assert {name: ours[name].default for name in theirs} == {name: f.default for name, f in theirs.items()}


def test_attributes_of_trl_that_we_read():
    source = inspect.getsource(GRPOTrainer)
    for name in ("_is_vlm", "_tokenizer", "_metrics", "_logs", "log_multimodal", "log_completions", "ref_model",
                 "reward_weights", "reward_func_names", "generation_kwargs", "generation_config",
                 "vllm_generation", "environment_factories", "num_generations", "use_vllm"):  # fmt: skip
        assert f"self.{name}" in source, name


def test_generate_returns_images_last_but_one():
    source = inspect.getsource(GRPOTrainer._generate)
    assert source.rstrip().endswith("extra_fields, images, tool_images")


def test_what_the_anchor_reads_of_a_backbone():
    parameters = inspect.signature(Qwen2_5_VLModel.forward).parameters
    assert {"input_ids", "inputs_embeds", "mm_encoder_outputs"} <= set(parameters)
    assert set(CACHE_NAMES) & set(parameters) == {CACHE_NAME}
    assert {"pixel_values", "image_grid_thw"} <= set(
        inspect.signature(Qwen2_5_VLModel.get_image_features).parameters
    )


def test_versions_these_seams_were_read_in():
    assert trl.__version__.startswith("1.16.")
    assert int(transformers.__version__.split(".")[0]) == 5
