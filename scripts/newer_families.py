"""Tiny random checkpoints of families that scripts/model_families.py runs: those of 2025 and 2026, and Idefics3."""

from typing import Any

import transformers as hf

from scripts.family_parts import HEAD_DIM, PATCH, ROPE, TEXT, VISION, Built, idefics, qwen, tokenizer

QWEN3_VISION: dict[str, Any] = dict(depth=3, intermediate_size=64, out_hidden_size=32, num_position_embeddings=64)
INTERLEAVED = ROPE | {"mrope_interleaved": True}


def qwen3_vl_moe() -> Built:
    experts: dict[str, Any] = dict(moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2)
    text: dict[str, Any] = dict(rope_parameters=INTERLEAVED, head_dim=HEAD_DIM, num_hidden_layers=3) | experts
    vision = QWEN3_VISION | {"deepstack_visual_indexes": [0, 1]}
    return qwen("Qwen3VLMoe", vision, videos="Qwen3", kind="Qwen3VL", **text)


def qwen3_5() -> Built:
    """Layers of linear attention (gated delta rule) between those of full attention."""
    linear: dict[str, Any] = dict(
        linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4
    )
    text: dict[str, Any] = dict(
        head_dim=16, layer_types=["linear_attention", "full_attention"],
        rope_parameters=INTERLEAVED | {"partial_rotary_factor": 0.5},
    )  # fmt: skip
    return qwen("Qwen3_5", QWEN3_VISION | {"depth": 2}, videos="Qwen3", kind="Qwen3VL", **text, **linear)


def gemma4() -> Built:
    tokens = tokenizer(
        "<|image|>", image_token="<|image|>", boi_token="<|image>", eoi_token="<image|>", audio_token="<|audio|>",
        boa_token="<|audio>", eoa_token="<audio|>",
    )  # fmt: skip
    sizes: dict[str, Any] = dict(patch_size=PATCH, pooling_kernel_size=2, max_soft_tokens=70)
    processor = hf.Gemma4Processor(
        hf.Gemma4AudioFeatureExtractor(), hf.Gemma4ImageProcessor(**sizes), tokens, hf.Gemma4VideoProcessor(),
        chat_template=tokens.chat_template,
    )  # fmt: skip
    text: dict[str, Any] = dict(
        vocab_size=len(tokens), head_dim=HEAD_DIM, global_head_dim=HEAD_DIM, sliding_window=16,
        layer_types=["sliding_attention", "full_attention"], vocab_size_per_layer_input=len(tokens),
        hidden_size_per_layer_input=8, pad_token_id=tokens.pad_token_id, eos_token_id=tokens.eos_token_id,
    )  # fmt: skip
    vision: dict[str, Any] = dict(num_key_value_heads=2, head_dim=16, patch_size=PATCH, pooling_kernel_size=2)
    config = hf.Gemma4Config(
        text_config=TEXT | text, vision_config=VISION | vision, image_token_id=tokens.image_token_id,
        boi_token_id=tokens.boi_token_id, eoi_token_id=tokens.eoi_token_id, audio_token_id=tokens.audio_token_id,
        video_token_id=tokens.convert_tokens_to_ids("<|video|>"), boa_token_id=tokens.boa_token_id,
        eoa_token_index=tokens.eoa_token_id,
    )  # fmt: skip
    return processor, hf.Gemma4ForConditionalGeneration(config)


def glm4v() -> Built:
    tokens = tokenizer(
        "<|begin_of_image|><|image|><|end_of_image|>", image_token="<|image|>", video_token="<|video|>",
        image_start="<|begin_of_image|>", image_end="<|end_of_image|>", video_start="<|begin_of_video|>",
        video_end="<|end_of_video|>",
    )  # fmt: skip
    size = dict(size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}, patch_size=PATCH, merge_size=2)
    images, videos = hf.Glm4vImageProcessor(**size), hf.Glm4vVideoProcessor(**size)
    processor = hf.Glm4vProcessor(images, tokens, videos, chat_template=tokens.chat_template)
    token = tokens.convert_tokens_to_ids
    config = hf.Glm4vConfig(
        text_config=TEXT | {"vocab_size": len(tokens), "rope_parameters": ROPE, "pad_token_id": tokens.pad_token_id},
        vision_config=dict(
            depth=2, hidden_size=32, num_heads=2, patch_size=PATCH, image_size=64, intermediate_size=64,
            out_hidden_size=TEXT["hidden_size"],
        ),
        image_token_id=token("<|image|>"), video_token_id=token("<|video|>"),
        image_start_token_id=token("<|begin_of_image|>"), image_end_token_id=token("<|end_of_image|>"),
        video_start_token_id=token("<|begin_of_video|>"), video_end_token_id=token("<|end_of_video|>"),
        tie_word_embeddings=True,
    )  # fmt: skip
    return processor, hf.Glm4vForConditionalGeneration(config)


def mistral3() -> Built:
    tokens = tokenizer("[IMG]", image_token="[IMG]", image_break_token="[IMG_BREAK]", image_end_token="[IMG_END]")
    images = hf.PixtralImageProcessor(size={"longest_edge": 64}, patch_size={"height": PATCH, "width": PATCH})
    processor = hf.PixtralProcessor(
        images, tokens, patch_size=PATCH, spatial_merge_size=2, chat_template=tokens.chat_template
    )
    text: dict[str, Any] = dict(model_type="mistral", vocab_size=len(tokens), head_dim=HEAD_DIM, sliding_window=None)
    config = hf.Mistral3Config(
        text_config=TEXT | text,
        vision_config=VISION | {"model_type": "pixtral", "image_size": 64, "patch_size": PATCH},
        image_token_index=processor.image_token_id, spatial_merge_size=2,
    )  # fmt: skip
    return processor, hf.Mistral3ForConditionalGeneration(config)


def lfm2_vl() -> Built:
    """Short convolutions between layers of attention."""
    rows = {f"row_{r}_{c}": f"<|img_row_{r}_col_{c}|>" for r in range(1, 4) for c in range(1, 4)}
    tokens = tokenizer(
        "<image>", image_token="<image>", image_start_token="<|image_start|>", image_end_token="<|image_end|>",
        image_thumbnail_token="<|img_thumbnail|>", **rows,
    )  # fmt: skip
    images = hf.Lfm2VlImageProcessor(
        tile_size=32, encoder_patch_size=PATCH, min_image_tokens=2, max_image_tokens=4, min_tiles=2, max_tiles=3,
        size={"height": 32, "width": 32},
    )  # fmt: skip
    processor = hf.Lfm2VlProcessor(images, tokens, chat_template=tokens.chat_template)
    text: dict[str, Any] = dict(
        model_type="lfm2", vocab_size=len(tokens), layer_types=["conv", "full_attention"], block_multiple_of=8,
        pad_token_id=tokens.pad_token_id, eos_token_id=tokens.eos_token_id,
    )  # fmt: skip
    vision = VISION | {"model_type": "siglip2_vision_model", "patch_size": PATCH, "num_patches": 16}
    config = hf.Lfm2VlConfig(
        text_config=TEXT | text, vision_config=vision, image_token_id=processor.image_token_id,
        projector_hidden_size=32,
    )  # fmt: skip
    return processor, hf.Lfm2VlForConditionalGeneration(config)


def idefics3() -> Built:
    tokens = tokenizer("<image>", image_token="<image>", global_image_token="<global-img>")
    images = hf.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = hf.Idefics3Processor(images, tokens, image_seq_len=4, chat_template=tokens.chat_template)
    return processor, idefics("Idefics3", tokens)


def llava_onevision() -> Built:
    tokens = tokenizer("<image>", image_token="<image>", video_token="<video>")
    grids = [[32, 64], [64, 32], [64, 64]]
    images = hf.LlavaOnevisionImageProcessor(size={"height": 32, "width": 32}, image_grid_pinpoints=grids)
    processor = hf.LlavaOnevisionProcessor(
        images, tokens, hf.LlavaOnevisionVideoProcessor(), num_image_tokens=16, vision_feature_select_strategy="full",
        chat_template=tokens.chat_template,
    )  # fmt: skip
    vision = VISION | {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": PATCH}
    config = hf.LlavaOnevisionConfig(
        text_config=TEXT | {"model_type": "qwen2", "vocab_size": len(tokens)},
        vision_config=vision | {"vision_use_head": False}, image_token_index=tokens.image_token_id,
        video_token_index=tokens.video_token_id, image_grid_pinpoints=grids, tie_word_embeddings=True,
    )  # fmt: skip
    return processor, hf.LlavaOnevisionForConditionalGeneration(config)
