import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2_5_VLForConditionalGeneration

from omnirl_core.models import (
    freeze_vision_tower,
    load_policy,
    load_processor,
    set_pixel_budget,
    vision_token_ids,
    vision_tower,
    vision_tower_name,
    without_vision,
)


def test_policy_class_follows_the_checkpoint(tiny_checkpoint, tiny_text_checkpoint):
    assert type(load_policy(tiny_checkpoint)) is Qwen2_5_VLForConditionalGeneration
    assert type(load_policy(tiny_text_checkpoint)).__name__ == "LlamaForCausalLM"


def test_processor_pads_left(tiny_checkpoint, tiny_text_checkpoint):
    assert load_processor(tiny_checkpoint).tokenizer.padding_side == "left"
    assert load_processor(tiny_text_checkpoint).padding_side == "left"


@pytest.mark.parametrize("size", [(640, 480), (33, 900), (10, 10), (301, 299)])
def test_pixel_budget_holds_for_every_image(tiny_checkpoint, size):
    from PIL import Image

    processor = load_processor(tiny_checkpoint, min_pixels=2048, max_pixels=8192)
    images = processor.image_processor(images=[Image.new("RGB", size)], return_tensors="pt")
    _, height, width = images["image_grid_thw"][0].tolist()
    assert 2048 <= height * width * 8 * 8 <= 8192


def test_pixel_budget_is_saved(tiny_checkpoint, tmp_path):
    load_processor(tiny_checkpoint, min_pixels=1024, max_pixels=2048).save_pretrained(tmp_path)
    size = load_processor(str(tmp_path)).image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (1024, 2048)


def test_pixel_budget_needs_pixels(tiny_text_checkpoint, tiny_checkpoint):
    with pytest.raises(ValueError, match="min_pixels and max_pixels are settings of Qwen"):
        load_processor(tiny_text_checkpoint, max_pixels=4096)
    with pytest.raises(ValueError, match=r"min_pixels 99,999 is above max_pixels 4,096 \(what you leave out"):
        set_pixel_budget(load_processor(tiny_checkpoint), 99_999, None)


def test_vision_tower(tiny_checkpoint, tiny_text_checkpoint):
    model = load_policy(tiny_checkpoint)
    assert vision_tower_name(model) == "model.visual"
    assert vision_tower(model) is model.model.visual
    assert vision_tower(get_peft_model(model, LoraConfig(target_modules=["q_proj"]))) is model.model.visual
    assert vision_tower(load_policy(tiny_text_checkpoint)) is None


def test_freezing_freezes_the_tower_and_nothing_else(tiny_checkpoint, tiny_text_checkpoint):
    model = load_policy(tiny_checkpoint)
    expected = sum(p.numel() for p in model.model.visual.parameters())
    assert freeze_vision_tower(model) == expected
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"model.visual.{name}" for name, _ in model.model.visual.named_parameters()}
    with pytest.raises(ValueError, match="LlamaForCausalLM has no vision tower"):
        freeze_vision_tower(load_policy(tiny_text_checkpoint))


@pytest.mark.parametrize("excluded", [None, ["o_proj"], r".*o_proj"])
@pytest.mark.parametrize("targets", ["all-linear", ["gate_proj", "q_proj", "o_proj", "qkv"]])
def test_lora_leaves_the_tower_alone_by_name(tiny_checkpoint, targets, excluded):
    model = load_policy(tiny_checkpoint)
    config = LoraConfig(target_modules=targets, exclude_modules=excluded)
    adapted = get_peft_model(model, without_vision(config))
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert not [name for name in trained if "visual" in name or "lm_head" in name]
    assert any("o_proj" in name for name in trained) == (excluded is None)
    both = get_peft_model(load_policy(tiny_checkpoint), LoraConfig(target_modules=targets))
    assert any("visual" in name for name, p in both.named_parameters() if p.requires_grad)


def test_tokens_of_images(tiny_checkpoint):
    model, tokenizer = load_policy(tiny_checkpoint), load_processor(tiny_checkpoint).tokenizer
    ids = vision_token_ids(model.config, tokenizer)
    names = ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
    assert ids == sorted(tokenizer.convert_tokens_to_ids(names))


def test_a_image_token_that_also_ends_is_kept(tiny_checkpoint):
    model, tokenizer = load_policy(tiny_checkpoint), load_processor(tiny_checkpoint).tokenizer
    tokenizer.eos_token = "<|vision_end|>"
    assert tokenizer.eos_token_id not in vision_token_ids(model.config, tokenizer)


def test_load_policy_passes_settings_on(tiny_checkpoint):
    assert load_policy(tiny_checkpoint, dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModelForCausalLM.from_pretrained(tiny_checkpoint)  # why load_policy looks at the config
