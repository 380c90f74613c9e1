"""Every family in docs/models.md trains on every kind of rows, as the table there says."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from omnirl_core.models import unpadded
from omnirl_core.trainer.multimodal import check_tool_images
from scripts import model_families

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


OFTEN = ("Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "InternVL", "Gemma 3", "SmolVLM", "LLaVA-NeXT")
"""Families that have code of their own in the trainer; `make test` looks at these in full, at others in a mixed run."""
FULL = [
    pytest.param(family, marks=[] if family in OFTEN or "text-only" in family else pytest.mark.repeat)
    for family in model_families.FAMILIES
]
QUICK = [family for family in model_families.FAMILIES if family not in OFTEN and "text-only" not in family]


@pytest.mark.parametrize("family", FULL)
def test_a_family_trains_on_every_kind_of_rows(family, tmp_path):
    outcome = model_families.run_family(family, tmp_path)
    assert outcome.moved == outcome.trained
    assert outcome.difference <= 1e-4
    if len(outcome.trained) > 1:
        assert outcome.other_image > 1e-3, "the comparison would not see a wrong image"
    assert outcome.line in PAGE


@pytest.mark.parametrize("family", QUICK)
def test_a_family_trains_on_mixed_rows_or_is_refused(family, tmp_path):
    outcome = model_families.train_family(family, tmp_path, only="mixed")
    assert outcome.moved == outcome.trained
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {family} |")]
    assert line.split("|")[5].strip() == ("refused" if outcome.refused else "yes")


def test_a_family_whose_images_trl_does_not_pass_on_is_refused_and_trains_on_text(tmp_path):
    outcome = model_families.train_family("LLaVA-OneVision", tmp_path)
    assert outcome.refused == ("one image", "several images", "mixed")
    assert outcome.moved == ("text-only",)
    rows = model_families.rows_by_kind(tmp_path, sees=True)["one image"]
    with pytest.raises(ValueError, match="'llava_onevision': its images come with batch_num_images"):
        model_families.make_trainer(str(tmp_path / "checkpoint"), rows, str(tmp_path / "run"))


@pytest.mark.parametrize("family", ["InternVL", "Gemma 4"])
def test_an_image_of_a_tool_is_refused_where_trl_does_not_know_its_tokens(family, tmp_path):
    checkpoint = model_families.write_checkpoint(family, tmp_path / "checkpoint")
    rows = model_families.rows_by_kind(tmp_path, sees=True)["one image"]
    trainer = model_families.make_trainer(checkpoint, rows, str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"a tool returned an image, and of model_type '.*' TRL does not know"):
        trainer._generate_single_turn([[1, 2]], [[]], {}, 1, has_tool_images=True)


@pytest.mark.parametrize("family", ["Qwen2.5-VL", "Qwen3-VL", "GLM-4.1V"])
def test_an_image_of_a_tool_passes_where_trl_knows_its_tokens(family):
    processor, model = model_families.FAMILIES[family]()
    token = processor.tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|image|>"])
    known = next(one for one in token if one is not None and one != processor.tokenizer.unk_token_id)
    trainer = SimpleNamespace(processing_class=processor, model=model, _image_pad_token_id=known)
    check_tool_images(trainer, True)


@pytest.mark.parametrize("family", ["Gemma 4", "Mistral 3"])
def test_prompts_of_several_lengths_have_no_padding_among_their_tokens(family):
    processor, _ = model_families.FAMILIES[family]()
    defaults = dict(processor.text_kwargs)
    turns = [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in ("a", "abc")]
    with unpadded(processor):
        ids = processor.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
    assert [len(ids[1]) - len(own) for own in ids] == [2, 0]
    assert processor.tokenizer.pad_token_id not in ids[0]
    assert processor.text_kwargs == defaults
    assert "text_kwargs" not in vars(processor)


def test_the_table_has_these_families_only():
    lines = PAGE.partition(model_families.START)[2].partition(model_families.END)[0].strip().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == list(model_families.FAMILIES)
