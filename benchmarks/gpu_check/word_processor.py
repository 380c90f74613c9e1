"""Qwen2.5-VL's processor over a tokenizer whose tokens are words: prompts of an exact number of tokens, offline."""

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

SPECIAL = ["<pad>", "<end>", "<vision>", "</vision>", "<image>", "<video>"]
TEMPLATE = (
    "{% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<vision> <image> </vision> "
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
)


def word_processor(words: int) -> Qwen2_5_VLProcessor:
    """The processor; a token is a word, `w0` to `w<words - 1>`."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(words))])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<end>", chat_template=TEMPLATE,
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"}, padding_side="left",
    )  # fmt: skip
    images = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 2000 * 2000})
    return Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=TEMPLATE)


def word_config(vocabulary: int, text: dict[str, Any], vision: dict[str, Any], **more: Any) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL with these sizes, and the special tokens of `word_processor`."""
    shared = dict(max_position_embeddings=4096, bos_token_id=None, eos_token_id=1, pad_token_id=0)
    return Qwen2_5_VLConfig(
        text_config=dict(vocab_size=vocabulary, tie_word_embeddings=True, **shared, **text),
        vision_config=vision, tie_word_embeddings=True,
        vision_start_token_id=2, vision_end_token_id=3, image_token_id=4, video_token_id=5, **more,
    )  # fmt: skip
