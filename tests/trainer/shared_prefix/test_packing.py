"""A pack is G plain rows: the same log-probabilities, entropies and gradients, in every family that is verified."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from trl.trainer.utils import add_fused_lm_head

from omnirl_core.models import load_policy, load_processor
from omnirl_core.trainer.shared_prefix.packing import Prompt, encode_prompts, pack, packed_log_probs
from omnirl_core.trainer.shared_prefix.support import FLASH, family_obstacle, take_packs

V, IMAGE = 96, 90
PATCH = 8
TEXT = dict(
    vocab_size=V, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=512, tie_word_embeddings=True,
    bos_token_id=None, eos_token_id=1, pad_token_id=0,
)  # fmt: skip
TOKENS = dict(image_token_id=IMAGE, video_token_id=91, vision_start_token_id=92, vision_end_token_id=93)
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}
WINDOWED = dict(sliding_window=7, layer_types=["sliding_attention", "full_attention", "sliding_attention"])
BOTH_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "default", "rope_theta": 100_000.0},
}
FAMILIES: dict[str, Any] = {
    "qwen2_vl": lambda: Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            text_config=TEXT | {"rope_parameters": ROPE},
            vision_config=dict(depth=2, embed_dim=32, hidden_size=32, num_heads=2, mlp_ratio=2, patch_size=PATCH),
            **TOKENS,
        )
    ),
    "qwen2_5_vl": lambda: Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=TEXT | {"rope_parameters": ROPE},
            vision_config=dict(
                depth=2, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=32, patch_size=PATCH,
                window_size=4 * PATCH, fullatt_block_indexes=[1],
            ),
            **TOKENS,
        )
    ),
    "qwen3_vl": lambda: Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config=TEXT | {"rope_parameters": ROPE},
            vision_config=dict(
                depth=3, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=32, patch_size=PATCH,
                num_position_embeddings=64, deepstack_visual_indexes=[0, 1],
            ),
            **TOKENS,
        )
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**TEXT)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**TEXT)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**TEXT)),
    "gemma3_text": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**TEXT, query_pre_attn_scalar=8, **WINDOWED, rope_parameters=BOTH_ROPES)
    ),
    "qwen2, windows": lambda: Qwen2ForCausalLM(Qwen2Config(**TEXT, use_sliding_window=True, **WINDOWED)),
    "qwen3, windows": lambda: Qwen3ForCausalLM(Qwen3Config(**TEXT, use_sliding_window=True, **WINDOWED)),
}  # fmt: skip
VISION = [name for name in FAMILIES if name.endswith("vl")]


def policy(family: str, seed: int = 0) -> Any:
    """Random, with weights so large that positions and pixels move the log-probabilities."""
    torch.manual_seed(seed)
    model = FAMILIES[family]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3 if "embed" in name else 0.2)
    add_fused_lm_head(model, temperature=0.9, outputs=("log_probs", "entropy"))
    return model


@dataclass
class Case:
    """Rows of a micro-batch: which prompt each has, and how many tokens its completion."""

    prompts: list[int]
    lengths: list[int]
    width: int = 0


CASES = {
    "one group": Case([1, 1, 1, 1], [5, 5, 5, 5]),
    "one group, ragged": Case([2, 2, 2, 2], [3, 9, 1, 5]),
    "groups of every kind, ragged": Case([2, 2, 2, 1, 1, 0, 3, 3, 4], [7, 1, 4, 9, 2, 6, 1, 1, 3]),
    "text only": Case([0, 0, 4, 4], [4, 6, 2, 8]),
    "one-token completions": Case([1, 1, 0], [1, 1, 1]),
    "rows out of order": Case([1, 0, 1, 4, 0], [3, 4, 5, 6, 2], width=12),
    "a masked completion": Case([2, 2, 3], [0, 4, 0]),
    "all completions masked": Case([0, 1], [0, 0], width=3),
    "no group at all": Case([4], [1]),
}


def encoded(model: Any) -> list[Prompt]:
    """Five prompts: text, one image, two of two sizes, one tall one, longer text; text-only models get the text."""
    random = torch.Generator().manual_seed(5)
    image_files = [[], [(4, 4)], [(2, 4), (4, 2)], [(6, 2)], []]
    if not hasattr(model.config, "vision_config"):
        image_files = [[]] * 5
    words, prompts = [4, 6, 9, 3, 17], []
    for n_words, sizes in zip(words, image_files, strict=True):
        text = torch.randint(2, 80, (n_words,), generator=random).tolist()
        ids = text[:2] + [IMAGE] * sum(h * w // 4 for h, w in sizes) + text[2:]
        if len(sizes) > 1:  # text between two images
            first = sizes[0][0] * sizes[0][1] // 4
            ids = text[:2] + [IMAGE] * first + text[2:4] + [IMAGE] * (len(ids) - n_words - first) + text[4:]
        fields: dict[str, Any] = {}
        if sizes:
            patches = sum(h * w for h, w in sizes)
            fields = {
                "pixel_values": torch.randn(patches, 3 * 2 * PATCH * PATCH, generator=random),
                "image_grid_thw": torch.tensor([[1, h, w] for h, w in sizes]),
                "mm_token_type_ids": [[int(token == IMAGE) for token in ids]],
            }
        prompts += encode_prompts(model.base_model, [ids], fields, [len(sizes)])
    return prompts


def batch(model: Any, case: Case) -> tuple[list[Prompt], Tensor, Tensor]:
    distinct = encoded(model)
    width = case.width or max(case.lengths)
    random = torch.Generator().manual_seed(1)
    mask = (torch.arange(width) < torch.tensor(case.lengths)[:, None]).long()
    ids = torch.randint(2, 80, mask.shape, generator=random).masked_fill(mask == 0, 0)
    return [distinct[i] for i in case.prompts], ids, mask


def plain(model: Any, prompts: list[Prompt], completion_ids: Tensor, completion_mask: Tensor) -> Any:
    """One padded row a completion, its prompt and images in every one of them."""
    longest, (rows, width) = max(map(len, prompts)), completion_ids.shape
    ids, mask, types = (torch.zeros(rows, longest, dtype=torch.long) for _ in range(3))
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt.token_ids, 1
        if prompt.token_types is not None:
            types[row, longest - len(prompt) :] = prompt.token_types
    ids, mask = torch.cat([ids, completion_ids], 1), torch.cat([mask, completion_mask], 1)
    fields: dict[str, Any] = {}
    seen = [prompt.images for prompt in prompts if prompt.images]
    if seen:
        fields = {name: torch.cat([images[name] for images in seen]) for name in seen[0]}
        fields["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(completion_ids)], 1)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-width] = -100
    outputs = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True, **fields)
    return outputs.log_probs[:, -width:], outputs.entropy[:, -width:]


def gradient(model: Any, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in model.parameters()])


def both(model: Any, case: Case) -> list[Any]:
    rows = batch(model, case)
    return [plain(model, *rows), packed_log_probs(model, model.base_model, pack(*rows))]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_and_gradients_of_a_pack(family, name):
    model, case = policy(family), CASES[name]
    (expected, expected_entropy), (found, entropy) = both(model, case)
    assert expected.shape == found.shape
    assert (found - expected).abs().max() <= 1e-5
    assert (entropy - expected_entropy).abs().max() <= 1e-5
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    moves = gradient(model, (expected * weights + 0.1 * expected_entropy).sum())
    found_moves = gradient(model, (found * weights + 0.1 * entropy).sum())
    assert (found_moves - moves).norm() <= 1e-5 * moves.norm()
    assert moves.norm() > 1 or not any(case.lengths)


@pytest.mark.parametrize("family", VISION)
def test_the_comparison_would_see_a_wrong_image_position_or_mask(family):
    model = policy(family)
    prompts, ids, mask = batch(model, CASES["one group, ragged"])
    right, _ = packed_log_probs(model, model.base_model, pack(prompts, ids, mask))
    prompt = prompts[0]
    other = {**prompt.images, "pixel_values": prompt.images["pixel_values"].flip(0)}
    flat = torch.arange(len(prompt)).expand(3, -1)
    for wrong in (
        Prompt(prompt.token_ids, prompt.position_ids, other),
        Prompt(prompt.token_ids, flat, prompt.images),
        Prompt(prompt.token_ids, prompt.position_ids + 50 * (torch.arange(len(prompt)) > 3), prompt.images),
    ):
        values, _ = packed_log_probs(model, model.base_model, pack([wrong] * len(prompts), ids, mask))
        assert (values - right).abs().max() > 1e-2
    one_row = pack(prompts[:1], ids.flatten()[None], mask.flatten().cummax(0).values[None])
    values, _ = packed_log_probs(model, model.base_model, one_row)  # a completion that sees the one before it
    assert (values.view_as(right)[1] - right[1]).abs().max() > 1e-2


@pytest.mark.parametrize("family", VISION)
def test_the_vision_tower_meets_each_distinct_image_once(family):
    model = policy(family)
    seen = []
    tower = model.get_encoder(modality="image")
    tower.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs.get("grid_thw", args[-1] if args else None)),
        with_kwargs=True,
    )
    packed_log_probs(model, model.base_model, pack(*batch(model, CASES["groups of every kind, ragged"])))
    assert [len(grid) for grid in seen] == [2 + 1 + 1]  # one call; the nine rows hold nine images


def test_a_pack_has_no_padding_and_the_head_sees_scored_positions_only():
    model, case = policy("qwen2_5_vl"), CASES["groups of every kind, ragged"]
    prompts, ids, mask = batch(model, case)
    packed = pack(prompts, ids, mask)
    n_prompt = sum(len(prompt) for prompt in set(prompts))
    assert packed.input_ids.shape == (1, n_prompt + sum(case.lengths) - len(case.lengths))
    assert len(packed.predictors) == len(packed.labels) == sum(case.lengths)
    states = []
    handle = model.lm_head.register_forward_hook(lambda *args: states.append(args))
    packed_log_probs(model, model.base_model, packed)
    handle.remove()
    assert states == []  # the fused head: no (tokens x V) logits


def test_positions_continue_from_the_prompt_on_all_axes():
    model = policy("qwen2_5_vl")
    prompts, ids, mask = batch(model, Case([1, 1], [4, 3]))
    packed = pack(prompts, ids, mask)
    after = int(prompts[0].position_ids.max()) + 1
    assert (
        packed.position_ids[:, 0, len(prompts[0]) :].tolist() == [[after, after + 1, after + 2, after, after + 1]] * 3
    )
    assert after < len(prompts[0])  # M-RoPE: an image takes fewer positions than tokens


@pytest.fixture
def flash(monkeypatch):
    """FlashAttention's names taken by a function that notes that it was called: the kernels need a GPU."""
    calls = []

    def kernel(module, query, key, value, attention_mask, **settings):
        calls.append(attention_mask)
        return sdpa_attention_forward(module, query, key, value, None, is_causal=True, **settings)

    for name in FLASH:
        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, name, kernel)
        take_packs(name)
    return calls


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", FLASH)
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llama", "gemma3_text"])
def test_flash_attention_leaves_packs_to_sdpa_and_has_all_else(flash, family, name, checkpointing):
    model, case = policy(family), CASES["groups of every kind, ragged"]
    rows = batch(model, case)
    weights = torch.randn(rows[1].shape)
    expected, _ = packed_log_probs(model, model.base_model, pack(*rows))
    moves = gradient(model, (expected * weights).sum())
    model.config.get_text_config()._attn_implementation = name
    assert family_obstacle(model) is None
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    found, _ = packed_log_probs(model, model.base_model, pack(*rows))
    assert torch.equal(found, expected)
    found_moves = gradient(model, (found * weights).sum())
    assert (found_moves - moves).norm() <= 1e-6 * moves.norm()
    assert flash == []
    model(input_ids=rows[1][:1], use_cache=False)
    assert len(flash) == TEXT["num_hidden_layers"]


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant):
    model = policy("qwen2_5_vl")
    rows = batch(model, CASES["groups of every kind, ragged"])
    weights = torch.randn(rows[1].shape)

    def moves():
        values, _ = packed_log_probs(model, model.base_model, pack(*rows))
        return gradient(model, (values * weights).sum())

    expected = moves()
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert (moves() - expected).norm() <= 1e-6 * expected.norm()


def test_bfloat16_is_within_the_error_of_bfloat16():
    """As far from float32 as the plain pass is, which differs from itself by as much when rows are padded."""
    exact, case = policy("qwen2_5_vl"), CASES["groups of every kind, ragged"]
    right, _ = plain(exact, *batch(exact, case))
    model = policy("qwen2_5_vl").bfloat16()
    (expected, _), (found, _) = both(model, case)
    error = (expected.float() - right).abs().mean()
    assert 0 < (found.float() - right).abs().mean() <= 1.5 * error
    assert (found.float() - expected.float()).abs().mean() <= 2 * error


def test_prompts_are_split_as_the_processor_batched_them(tiny_checkpoint, image_files):
    processor, model = load_processor(tiny_checkpoint), load_policy(tiny_checkpoint)
    images = [Image.open(path).convert("RGB") for path in image_files[:3]]
    text = "<|vision_start|><|image_pad|><|vision_end|>"
    together = processor(text=[text + "a", "no image", text * 2 + "bc"], images=images)
    fields = {k: v for k, v in together.items() if k not in ("input_ids", "attention_mask")}
    prompts = encode_prompts(model.base_model, together["input_ids"], fields, [1, 0, 2])
    alone = processor(text=[text * 2 + "bc"], images=images[1:], return_tensors="pt")
    assert [prompt.n_images for prompt in prompts] == [1, 0, 2]
    assert prompts[1].images == {}
    assert torch.equal(prompts[2].images["pixel_values"], alone["pixel_values"])
    assert torch.equal(prompts[2].images["image_grid_thw"], alone["image_grid_thw"])
    assert torch.equal(prompts[2].token_ids, alone["input_ids"][0])
