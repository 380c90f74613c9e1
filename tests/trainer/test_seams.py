"""What omnirl_core.trainer overrides or calls in TRL 1.16 and transformers 5.23; a change there fails here first."""

import inspect

import pytest
import torch
import transformers
import trl
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer
from transformers.generation import GenerationMixin
from transformers.masking_utils import _preprocess_mask_arguments
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import grpo_trainer
from trl.trainer.utils import add_fused_lm_head

from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from omnirl_core.trainer.dummy_image import CACHE_NAMES
from omnirl_core.trainer.fault_tolerance.checkpoint_mixin import CheckpointMixin, RestoredWeights
from omnirl_core.trainer.shared_prefix.rollout import CACHE_NAME

IN_TRAINER = {
    "train": ["self", "resume_from_checkpoint", "trial", "ignore_keys_for_eval"],
    "evaluate": ["self", "eval_dataset", "ignore_keys", "metric_key_prefix"],
    "_get_dataloader": [
        "self", "dataset", "description", "batch_size", "sampler_fn", "is_training", "dataloader_key",
    ],
    "_prepare_inputs": ["self", "generation_batch"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_tokenize_prompts": ["self", "prompts"],
    "_generate": ["self", "prompts"],
    "_generate_single_turn": [
        "self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images",
    ],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_compute_loss": ["self", "model", "inputs"],
    "_get_grad_norm": ["self", "model", "grad_norm"],
    "log": ["self", "logs", "start_time"],
    "create_model_card": ["self", "model_name", "dataset_name", "tags"],
}  # fmt: skip
IN_MIXIN = {
    "_save_checkpoint": ["self", "model", "trial"],
    "_get_output_dir": ["self", "trial"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_run_epoch": [
        "self", "model", "epoch", "train_dataloader", "steps_in_epoch", "num_update_steps_per_epoch", "trial",
        "ignore_keys_for_eval", "start_time", "resume_from_checkpoint", "epochs_trained",
        "steps_trained_in_current_epoch",
    ],
    "_get_train_sampler": ["self", "dataset"],
}  # fmt: skip
OF_WEIGHTS = {"_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"], "_load_best_model": ["self"]}
"""Of GRPO's trainer and of the warm start's."""
LOG_PROBS = "_get_per_token_logps_and_entropies"
OVERRIDDEN = [(OmniGRPOTrainer, *item) for item in IN_TRAINER.items()]
OVERRIDDEN += [(CheckpointMixin, *item) for item in IN_MIXIN.items()]
OVERRIDDEN += [(RestoredWeights, *item) for item in OF_WEIGHTS.items()]


@pytest.mark.parametrize(("owner", "name", "expected"), OVERRIDDEN)
def test_overridden_method_has_the_signature_we_override(owner, name, expected):
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == expected
    ours = list(inspect.signature(vars(owner)[name]).parameters)
    assert ours in (expected, ["self", "kwargs"])  # the latter hands everything on by name


@pytest.mark.parametrize(
    ("owner", "listed"),
    [
        (OmniGRPOTrainer, {*IN_TRAINER, LOG_PROBS}),
        (CheckpointMixin, set(IN_MIXIN)),
        (RestoredWeights, set(OF_WEIGHTS)),
    ],
)
def test_every_override_is_listed_and_in_one_class(owner, listed):
    inherited = {name for base in GRPOTrainer.__mro__ for name in vars(base)}
    ours = {name for name in vars(owner) if not name.startswith("__")}
    assert ours & inherited == listed
    assert OmniGRPOTrainer.__mro__[:4] == (OmniGRPOTrainer, CheckpointMixin, RestoredWeights, GRPOTrainer)


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
    assert {"pixel_values", "image_grid_thw"} <= set(inspect.signature(Qwen2_5_VLModel.get_image_features).parameters)


def test_versions_these_seams_were_read_in():
    assert trl.__version__.startswith("1.16.")
    assert int(transformers.__version__.split(".")[0]) == 5


def test_the_log_probability_pass_takes_what_we_hand_on():
    names = list(inspect.signature(getattr(GRPOTrainer, LOG_PROBS)).parameters)
    assert names[:8] == [
        "self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy",
        "compute_aux_loss",
    ]  # fmt: skip
    assert {"pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids"} < set(names)
    assert list(inspect.signature(getattr(OmniGRPOTrainer, LOG_PROBS)).parameters)[:8] == names[:8]


def test_trl_takes_images_from_rows_and_from_generation_only():
    """What hiding the images rests on: without columns, and with None at the end of `_generate`, there are none."""
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    for line in (
        'if "images" in inputs[0]:', 'elif "image" in inputs[0]:', "images = dataset_images",
        "elif images is not None:",
        "gather_object(prompts)",
    ):  # fmt: skip
        assert line in source, line
    shuffle = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "self._buffered_inputs[self._step % self.args.steps_per_generation]" in shuffle
    assert hasattr(grpo_trainer, "shuffle_sequence_dict")


def test_the_fused_head_takes_shifted_labels_and_states_of_the_base_model():
    source = inspect.getsource(add_fused_lm_head)
    assert "shift_labels=None" in source
    assert 'backbone_attr = "base_model"' in source
    assert "backbone_outputs.last_hidden_state" in source


def test_transformers_hands_a_ready_mask_to_scaled_dot_product_attention():
    assert "len(attention_mask.shape) == 4" in inspect.getsource(_preprocess_mask_arguments)
    q = torch.zeros(1, 1, 1, 1)

    class Mask(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return func

    found = torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=q.as_subclass(Mask))
    assert found is torch.nn.functional.scaled_dot_product_attention


def test_what_the_rollout_calls_of_generation():
    for owner in (GenerationMixin, Qwen2_5_VLForConditionalGeneration):
        method = owner._prepare_position_ids_for_generation
        assert list(inspect.signature(method).parameters) == ["self", "inputs_tensor", "model_kwargs"]
    assert {"keys", "values"} <= set(vars(DynamicLayer()))
    assert CacheLayerMixin.__abstractmethods__ == {
        "lazy_initialization", "update", "get_mask_sizes", "get_seq_length", "get_max_length",
    }  # fmt: skip


def test_positions_of_prompts_come_from_the_model():
    parameters = inspect.signature(Qwen2_5_VLModel.get_rope_index).parameters
    assert {"input_ids", "mm_token_type_ids", "image_grid_thw"} <= set(parameters)
