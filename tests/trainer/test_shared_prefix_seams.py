"""What the shared prefix overrides or calls in TRL 1.16 and transformers 5.23; a change there fails here first."""

import inspect

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer
from transformers.generation import GenerationMixin
from transformers.masking_utils import _preprocess_mask_arguments
from trl import GRPOTrainer
from trl.trainer import grpo_trainer
from trl.trainer.utils import add_fused_lm_head

from omnirl_core.trainer.shared_prefix.runtime import SharedPrefixTrainer

SIGNATURES = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_tokenize_prompts": ["self", "prompts"],
    "_generate_single_turn": [
        "self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images",
    ],
    "_generate": ["self", "prompts"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_prepare_inputs": ["self", "generation_batch"],
    "_compute_loss": ["self", "model", "inputs"],
}  # fmt: skip
LOG_PROBS = "_get_per_token_logps_and_entropies"


@pytest.mark.parametrize("name", SIGNATURES)
def test_overridden_method_has_the_signature_we_override(name):
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == SIGNATURES[name]
    assert list(inspect.signature(getattr(SharedPrefixTrainer, name)).parameters) == SIGNATURES[name]


def test_the_log_probability_pass_takes_what_we_hand_on():
    names = list(inspect.signature(getattr(GRPOTrainer, LOG_PROBS)).parameters)
    assert names[:8] == [
        "self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy",
        "compute_aux_loss",
    ]  # fmt: skip
    assert {"pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids"} < set(names)
    assert list(inspect.signature(getattr(SharedPrefixTrainer, LOG_PROBS)).parameters)[:8] == names[:8]


def test_every_override_of_a_private_method_is_listed():
    inherited = {name for owner in GRPOTrainer.__mro__ for name in vars(owner)}
    ours = {name for name in vars(SharedPrefixTrainer) if name.startswith("_") and not name.startswith("__")}
    assert ours & inherited == {*SIGNATURES, LOG_PROBS}


def test_trl_takes_pictures_from_rows_and_from_generation_only():
    """What hiding the pictures rests on: without columns, and with None at the end of `_generate`, there are none."""
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
