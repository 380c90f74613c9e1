"""recipes/zoom: a tool that returns an image, called by some samples of a batch and not by others."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoProcessor
from trl.chat_template_utils import qwen3_vl_chat_template

from omnirl_core.shapes import write_dataset
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from omnirl_core.yaml_loader import ConfigError
from recipes.zoom.train import SIDE, Zoom
from recipes.zoom.train import main as train
from scripts import model_families

CALL = '<tool_call>\n{"name": "zoom", "arguments": {"x1": 0, "y1": 0, "x2": 500, "y2": 500}}\n</tool_call><|im_end|>'
ANSWER = "<answer>red</answer><|im_end|>"


def test_a_part_is_enlarged_and_a_call_that_means_nothing_is_told_so():
    environment = Zoom()
    environment.reset(images=[Image.new("RGB", (200, 100))])
    part, text = environment.zoom(0, 0, 500, 500)
    assert part["image"].size == (SIDE, SIDE // 2)
    assert text["type"] == "text"
    assert environment.zoom(-5, 0, 5000, 1000)[0]["image"].size == (SIDE, SIDE // 2)
    assert "empty" in environment.zoom(500, 0, 100, 100)
    environment.reset(images=[])
    assert environment.zoom(0, 0, 500, 500) == "There is no image."


@pytest.fixture
def trainer(tmp_path, monkeypatch) -> OmniGRPOTrainer:
    """A tiny Qwen3-VL that calls the tool once where it sees an image, and answers at once where it sees none."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    checkpoint = Path(model_families.write_checkpoint("Qwen3-VL", tmp_path / "checkpoint"))
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 4096  # a token a byte: the tool's description is long
    (checkpoint / "config.json").write_text(json.dumps(config))
    processor = AutoProcessor.from_pretrained(checkpoint)
    processor.chat_template = processor.tokenizer.chat_template = qwen3_vl_chat_template
    processor.save_pretrained(checkpoint)
    rows = model_families.rows_by_kind(tmp_path, sees=True)
    settings = OmniGRPOConfig(
        str(tmp_path / "run"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", max_steps=1,
        num_generations=2, per_device_train_batch_size=2, gradient_accumulation_steps=2, max_completion_length=400,
        save_strategy="no", logging_steps=1, disable_tqdm=True, learning_rate=1e-3,
    )  # fmt: skip
    samples = [rows["text-only"][0], rows["one image"][0]]
    made = OmniGRPOTrainer(
        str(checkpoint), model_families.letters, settings, Dataset.from_list(samples), environment_factory=Zoom
    )  # fmt: skip
    token, tokens = made._image_pad_token_id, made._tokenizer

    def generate(self, input_ids, generation_config=None, **inputs):
        inputs.pop("disable_compile", None)
        self(input_ids=input_ids, **inputs)  # the images are seen, as in any rollout
        texts = [
            CALL if (ids == token).any() and "The part, enlarged." not in tokens.decode(ids) else ANSWER
            for ids in input_ids
        ]
        new = [torch.tensor(tokens(text, add_special_tokens=False)["input_ids"]) for text in texts]
        padded = torch.nn.utils.rnn.pad_sequence(new, batch_first=True, padding_value=tokens.pad_token_id)
        return torch.cat([input_ids, padded], 1)

    monkeypatch.setattr(type(made.model), "generate", generate)
    return made


def test_the_tools_turn_has_no_part_in_the_loss_and_its_image_is_seen(trainer):
    samples = [sample for sample in trainer.train_dataset for _ in range(2)]
    out = trainer._generate_and_score_completions(samples)
    assert out["num_images"] == [0, 0, 2, 2]
    for i, kind in enumerate(("text", "text", "image", "image")):
        ids, own = out["completion_ids"][i], out["completion_mask"][i].bool()
        policy, tool = own & out["tool_mask"][i].bool(), own & ~out["tool_mask"][i].bool()
        said = trainer._tokenizer.decode(ids[policy])
        assert said == (ANSWER if kind == "text" else CALL + ANSWER)
        assert not (ids[policy] == trainer._image_pad_token_id).any()
        seen = int((ids[tool] == trainer._image_pad_token_id).sum())
        grids = out["image_grid_thw"][1::2]  # of each sample its own image, then the tool's
        assert seen == (0 if kind == "text" else int(grids[i - 2].prod()) // 4)
        assert ("The part, enlarged." in trainer._tokenizer.decode(ids[tool])) == (kind == "image")


def test_a_step_of_mixed_samples_is_taken(trainer):
    trainer.train()
    assert trainer.state.global_step == 1
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path):
    rows = write_dataset(tmp_path / "rows", ("color",), n=4, seed=0)
    words = [
        "--model_name_or_path",
        "tiny_policy",
        "--dataset_name",
        str(rows),
        "--rewards",
        "recipes/zoom/rewards.yaml",
    ]
    words += ["--use_cpu", "true", "--bf16", "false", "--per_device_train_batch_size", "8"]
    words += ["--resume_from_checkpoint", str(tmp_path / "checkpoint-9"), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(ConfigError, match="checkpoint-9 cannot be resumed: it does not exist"):
        train(words)
