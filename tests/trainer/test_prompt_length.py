import logging
import random

import pytest
from datasets import Dataset, Image, List
from PIL import Image as Pillow

from omnirl_core.models import load_processor
from omnirl_core.trainer import multimodal
from omnirl_core.trainer.prompt_length import PromptLength, fit_prompts, prompt_images


@pytest.fixture
def length(tiny_checkpoint):
    return PromptLength(load_processor(tiny_checkpoint))


def _fed(trainer, rows, **settings):
    """Lengths of the prompts that the trainer feeds to the policy."""
    worker = trainer(rows, scripted=True, **settings)
    return [len(ids) for ids in worker._generate([m["prompt"] for m in _with_images(rows)])[0]]


def _with_images(rows):
    from trl.data_utils import prepare_multimodal_messages

    return [
        {"prompt": prepare_multimodal_messages(row["prompt"], images=row["images"])}
        for row in multimodal.mixed_samples(rows)
    ]


def test_count_is_what_the_trainer_feeds(trainer, rows, length):
    assert [length.count(row) for row in rows] == _fed(trainer, rows)


@pytest.mark.parametrize("budget", [(256, 4096), (1024, 1024), (4096, 16384)])
def test_count_and_bound_for_any_size(tiny_checkpoint, tmp_path, budget):
    processor = load_processor(tiny_checkpoint, *budget)
    length = PromptLength(processor)
    draw = random.Random(0)
    sizes = [(draw.randint(1, 300), draw.randint(2, 300)) for _ in range(25)] + [
        (400, 2),
        (2, 400),
        (1000, 5),
    ]
    for number, size in enumerate(sizes):
        path = tmp_path / f"{number}.png"
        Pillow.new("RGB", size).save(path)
        text = "é漢ﬁ x" * draw.randint(0, 3)
        row = {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
               "images": [str(path)]}  # fmt: skip
        rendered = processor.apply_chat_template(row["prompt"], add_generation_prompt=True)
        fed = len(processor(images=[Pillow.open(path)], text=[rendered])["input_ids"][0])
        assert length.count(row) == fed
        assert fed <= length.bound(row)
        assert not length.exceeds(row, fed)
        assert length.exceeds(row, fed - 1)


def test_no_pixel_is_decoded(rows, length, monkeypatch):
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert length.count(rows[2]) > 20


def test_short_prompts_are_not_even_looked_at(rows, length, monkeypatch):
    from PIL import Image as module

    monkeypatch.setattr(module, "open", None)
    assert fit_prompts(Dataset.from_list([rows[1]] * 3), length, 400, "error").num_rows == 3


def test_plain_string_and_text_only_prompts(tiny_text_checkpoint, tiny_checkpoint):
    tokenizer = load_processor(tiny_text_checkpoint)
    assert PromptLength(tokenizer).count({"prompt": "abc"}) == 3
    chat = {"prompt": [{"role": "user", "content": "abc"}]}
    ids = tokenizer.apply_chat_template(chat["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert PromptLength(tokenizer).count(chat) == PromptLength(load_processor(tiny_checkpoint)).count(chat) == len(ids)


def test_error_names_the_rows(rows, length):
    with pytest.raises(ValueError, match="r:3") as error:
        fit_prompts(Dataset.from_list(rows), length, 60, "error")
    assert str(error.value).splitlines() == [
        f"r:3: prompt has {length.count(rows[2])} tokens (3 images included); max_prompt_length is 60",
        f"r:4: prompt has {length.count(rows[3])} tokens; max_prompt_length is 60",
        "2 of 6 prompts are too long: raise max_prompt_length, lower max_pixels, or set on_long_prompt: drop",
    ]


def test_many_long_rows_are_counted(length):
    data = Dataset.from_list([{"prompt": "x" * 50}] * 30 + [{"prompt": "x"}])
    with pytest.raises(ValueError, match=r"train row 9: prompt has 50 tokens.*\n... and 20 more\n30 of 31 prompts"):
        fit_prompts(data, length, 40, "error")


def test_drop_drops_and_says_how_many(rows, length, caplog, trainer):
    trainer(rows)  # accelerate's logger wants its state
    with caplog.at_level(logging.WARNING):
        kept = fit_prompts(Dataset.from_list(rows), length, 60, "drop", "eval")
    assert [row["row_id"] for row in kept] == ["r:1", "r:2", "r:5", "r:6"]
    assert "eval: dropped 2 of 6 rows, their prompts are above max_prompt_length 60" in caplog.text
    assert "r:3: prompt has" in caplog.text


def test_dropping_all_is_an_error(rows, length):
    with pytest.raises(ValueError, match="no row is left"):
        fit_prompts(Dataset.from_list(rows), length, 3, "drop")


def test_streams_are_filtered_as_they_are_read(rows, length, trainer):
    trainer(rows)
    stream = Dataset.from_list(rows).to_iterable_dataset()
    assert len(list(fit_prompts(stream, length, 60, "drop"))) == 4
    with pytest.raises(ValueError, match="r:3: prompt has"):
        list(fit_prompts(stream, length, 60, "error"))


def test_images_in_arrow_are_measured_undecoded(rows, length, monkeypatch):
    data = Dataset.from_list(rows[1:3]).cast_column("images", List(Image()))
    data = data.map(lambda row: row, writer_batch_size=1)  # stores the bytes
    monkeypatch.setattr(Image, "decode_example", None)
    assert fit_prompts(data, length, 400, "error").num_rows == 2
    with pytest.raises(ValueError, match=f"r:3: prompt has {length.count(rows[2])} tokens"):
        fit_prompts(data, length, length.count(rows[2]) - 1, "error")


def test_images_inside_the_prompt_count(image_files, length):
    blocks = [{"type": "image", "image": image_files[0]}, {"type": "text", "text": "?"}]
    inside = {"prompt": [{"role": "user", "content": blocks}]}
    beside = {
        "prompt": [{"role": "user", "content": [{"type": "image"}, blocks[1]]}],
        "images": image_files[:1],
    }
    assert prompt_images(inside) == image_files[:1]
    assert length.count(inside) == length.count(beside)


def test_the_trainer_refuses_before_it_loads_a_model(trainer, rows, monkeypatch):
    monkeypatch.setattr("trl.trainer.grpo_trainer.create_model_from_path", None)
    with pytest.raises(ValueError, match="2 of 6 prompts are too long"):
        trainer(rows, max_prompt_length=60)


def test_the_trainer_drops_in_train_and_eval(trainer, rows):
    worker = trainer(rows, eval_data=rows[:3], max_prompt_length=60, on_long_prompt="drop")
    assert [len(worker.train_dataset), len(worker.eval_dataset)] == [4, 2]
    worker.train()


def test_the_budget_of_pixels_decides(trainer, rows):
    with pytest.raises(ValueError, match="r:2: prompt has"):
        trainer(rows[1:2], max_prompt_length=41, min_pixels=4096, max_pixels=4096)
    assert len(trainer(rows[1:2], max_prompt_length=41).train_dataset) == 1


def test_all_faults_of_data_and_model_at_once(trainer, rows, tiny_text_checkpoint):
    with pytest.raises(ValueError, match="min_pixels") as error:
        trainer(
            Dataset.from_list([{"prompt": "x" * 50}]), model=tiny_text_checkpoint, max_prompt_length=40,
            max_pixels=4096, freeze_vision_tower=True,
        )  # fmt: skip
    text = str(error.value)
    assert "min_pixels and max_pixels are settings of Qwen" in text
    assert "has no vision tower" in text
    assert "train row 0: prompt has 50 tokens" in text
