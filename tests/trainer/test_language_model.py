"""A language model takes the rows of a data file as a vision-language model does, if none has an image."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from omnirl_core.data import load_dataset
from omnirl_core.trainer import OmniGRPOTrainer

STRICT = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"


@pytest.fixture
def strict_tokenizer(tiny_text_checkpoint):
    """Its template adds strings, as most language models' do, and has no use for blocks."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_text_checkpoint, padding_side="left")
    tokenizer.chat_template = STRICT
    return tokenizer


def train(tmp_path, config, checkpoint, tokenizer, rows):
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    trainer = OmniGRPOTrainer(
        checkpoint,
        lambda completions, **_: [float(len(c[0]["content"])) for c in completions],
        config(max_prompt_length=64, max_steps=1),
        load_dataset(tmp_path / "rows.json", templates={"default": "plain"}),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


def test_rows_become_plain_text(tmp_path, config, tiny_text_checkpoint, strict_tokenizer):
    rows = [{"problem": f"Say {n}.", "solution": n} for n in range(4)]
    trainer = train(tmp_path, config, tiny_text_checkpoint, strict_tokenizer, rows)
    assert trainer.state.global_step == 1
    assert trainer.train_dataset[0]["prompt"] == [{"role": "user", "content": "Say 0."}]


def test_a_image_is_refused(tmp_path, config, tiny_text_checkpoint, strict_tokenizer, image_files):
    rows = [{"problem": "What is it?", "solution": "noise", "image": shutil.copy(image_files[0], tmp_path)}]
    with pytest.raises(ValueError, match="samples with images, and the model is a language model"):
        train(tmp_path, config, tiny_text_checkpoint, strict_tokenizer, rows)
