"""What the tiny checkpoints of scripts/model_families.py share: sizes, a tokenizer of bytes, Qwen's families."""

from typing import Any

import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEXT: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=1024, bos_token_id=None, tie_word_embeddings=True,
)  # fmt: skip
VISION: dict[str, Any] = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}
PATCH, HEAD_DIM = 8, 8
TEMPLATE = (
    "{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n"
    "{{% if message['content'] is string %}}{{{{ message['content'] }}}}"
    "{{% else %}}{{% for part in message['content'] %}}{{% if part['type'] == 'image' %}}{image}"
    "{{% elif 'text' in part %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}{{% endif %}}"
    "<|im_end|>\n{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)
Built = tuple[Any, Any]
"""Processor (or tokenizer) and model."""


def tokenizer(image: str = "", **named: str) -> Any:
    """One token a byte, and special tokens under the names by which the family's processor asks for them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values()])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        chat_template=TEMPLATE.format(image=image), extra_special_tokens=named, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def qwen_processor(kind: Any, images: Any, videos: Any) -> Any:
    tokens = tokenizer(
        "<|vision_start|><|image_pad|><|vision_end|>", image_token="<|image_pad|>", video_token="<|video_pad|>",
        vision_bos_token="<|vision_start|>", vision_eos_token="<|vision_end|>",
    )  # fmt: skip
    size = dict(size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}, patch_size=PATCH, merge_size=2)
    return kind(images(**size), tokens, videos(**size), chat_template=tokens.chat_template)


def qwen_ids(tokens: Any) -> dict[str, Any]:
    token = tokens.convert_tokens_to_ids
    return dict(
        image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"), vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )  # fmt: skip


def qwen(family: str, vision: dict[str, Any], videos: str = "Qwen2", kind: str = "", **text: Any) -> Built:
    """A family of Qwen's; `vision` and `text` are what its configuration has besides the common sizes.

    `kind` names the family whose processor it has, where it is another's.
    """
    processor_kind, made_videos = getattr(hf, f"{kind or family}Processor"), getattr(hf, f"{videos}VLVideoProcessor")
    processor = qwen_processor(processor_kind, hf.Qwen2VLImageProcessor, made_videos)
    tokens = processor.tokenizer
    config = getattr(hf, f"{family}Config")(
        text_config=TEXT | {"vocab_size": len(tokens), "rope_parameters": ROPE} | text,
        vision_config={"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": PATCH} | vision,
        **qwen_ids(tokens),
    )
    return processor, getattr(hf, f"{family}ForConditionalGeneration")(config)


def idefics(family: str, tokens: Any) -> Any:
    """The model of Idefics3, or of SmolVLM, which is built like it."""
    pad = tokens.pad_token_id
    config = getattr(hf, f"{family}Config")(
        text_config=TEXT | {"model_type": "llama", "vocab_size": len(tokens), "pad_token_id": pad},
        vision_config=VISION | {"image_size": 32, "patch_size": PATCH}, image_token_id=tokens.image_token_id,
        scale_factor=2, pad_token_id=pad, tie_word_embeddings=True,
    )  # fmt: skip
    return getattr(hf, f"{family}ForConditionalGeneration")(config)
