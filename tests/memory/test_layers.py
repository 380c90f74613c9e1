"""What a layer keeps for backward, found on tensors without memory, is what it keeps in memory."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from omnirl_core.shapes import tiny_policy
from omnirl_core.trainer.shared_prefix.packing import Span
from omnirl_tools.memory import model_config
from omnirl_tools.memory.model_size import kept_by_layer, meta_model


@pytest.fixture(scope="module")
def meta():
    return meta_model(model_config(tiny_policy()), torch.float32, None, None, False)


def test_a_layer_keeps_on_the_meta_device_what_it_keeps_in_memory(meta):
    path = tiny_policy()
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    layer, config = model.model.language_model.layers[0], model.config.get_text_config()
    hidden = torch.randn(1, 50, config.hidden_size, requires_grad=True)
    angles = torch.randn(1, 50, config.hidden_size // config.num_attention_heads)
    own, saved = {p.data_ptr() for p in layer.parameters()}, {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(hidden, attention_mask=None, position_embeddings=(angles, angles), use_cache=False)
    held = sum(t.untyped_storage().nbytes() for address, t in saved.items() if address not in own)
    assert kept_by_layer(meta, 50) == pytest.approx(held, rel=0.05)


def test_a_group_shares_the_prompt_in_a_layer(meta):
    plain = 4 * kept_by_layer(meta, 120)
    packed = kept_by_layer(meta, 180, (Span(0, 100, (20, 20, 20, 20)),))
    assert 180 / 480 <= packed / plain < 0.6
