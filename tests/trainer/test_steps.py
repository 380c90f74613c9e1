"""How rows are split over micro-batches changes nothing; what should move moves."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Image, IterableDataset, List


def _weights(worker):
    return {name: parameter.detach().clone() for name, parameter in worker.model.named_parameters()}


def _moved(before, worker):
    after = _weights(worker)
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture
def gradient(trainer, rows):
    """Gradient and loss of one optimizer step over four rows of every kind, however it is split."""

    def make(group, micro_batch, accumulation, **settings):
        data = [rows[2], rows[0], rows[1], rows[3]]
        worker = trainer(
            data,
            scripted=True,
            num_generations=group,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,
            shuffle_dataset=False,
            **settings,
        )
        before = _weights(worker)
        worker.train()
        moves = torch.cat([(before[n] - p.detach()).flatten() for n, p in worker.model.named_parameters()])
        return moves, worker.state.log_history[0]["loss"]

    return make


@pytest.mark.parametrize("group", [2, 3, 4, 8])
def test_any_split_gives_the_same_gradient(gradient, group):
    whole, loss = gradient(group, 4 * group, 1)
    assert whole.norm() > 0
    for accumulation in (2, 4):
        split, split_loss = gradient(group, 4 * group // accumulation, accumulation)
        assert (split - whole).norm() <= 1e-5 * whole.norm()
        assert split_loss == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize(("micro_batch", "accumulation"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_micro_batches_of_one_to_eight(gradient, micro_batch, accumulation):
    whole, _ = gradient(2, 8, 1)
    split, _ = gradient(2, micro_batch, accumulation)
    assert (split - whole).norm() <= 1e-5 * whole.norm()


@pytest.mark.parametrize("settings", [{"num_generations": g, "per_device_train_batch_size": g} for g in range(2, 9)])
def test_group_sizes(trainer, rows, settings):
    worker = trainer(rows, max_steps=2, **settings)
    worker.train()
    assert all(torch.isfinite(p).all() for p in worker.model.parameters())


def test_tower_and_language_model_both_move(trainer, rows):
    worker = trainer(rows, scripted=True, per_device_train_batch_size=4, max_steps=3, weight_decay=0.1)
    before = _weights(worker)
    worker.train()
    assert _moved(before, worker) == set(before)


def test_a_frozen_tower_stays(trainer, rows):
    worker = trainer(
        rows,
        scripted=True,
        per_device_train_batch_size=4,
        max_steps=3,
        weight_decay=0.1,
        freeze_vision_tower=True,
    )
    before = _weights(worker)
    worker.train()
    assert _moved(before, worker) == {name for name in before if ".visual." not in name}


def test_a_frozen_tower_gets_no_adapter(trainer, rows):
    from peft import LoraConfig

    lora = LoraConfig(target_modules="all-linear")
    worker = trainer(
        rows, scripted=True, per_device_train_batch_size=4, max_steps=2, freeze_vision_tower=True,
        extra={"peft_config": lora},
    )  # fmt: skip
    before = _weights(worker)
    worker.train()
    moved = _moved(before, worker)
    assert moved
    assert all("lora" in name and ".visual." not in name for name in moved)
    assert lora.exclude_modules is None  # the user's own config is left as it was


@pytest.mark.parametrize("order", ["TTTT", "IIII", "TITI", "IITT", "MTIM"])
def test_any_composition_trains_and_evaluates(trainer, rows, order):
    kinds = {"T": rows[0], "I": rows[1], "M": rows[2]}
    data = [kinds[letter] for letter in order]
    worker = trainer(
        data, eval_data=data, max_steps=4, shuffle_dataset=False, eval_strategy="steps", eval_steps=2,
        per_device_eval_batch_size=4, num_generations_eval=2, beta=0.1, num_iterations=2,
    )  # fmt: skip
    worker.train()
    evaluated = [line["eval_reward"] for line in worker.state.log_history if "eval_reward" in line]
    assert len(evaluated) == 2


@pytest.mark.parametrize("shared_prefix", ["off", "auto"])
def test_rewards_find_the_sizes_of_images(trainer, rows, shared_prefix):
    seen = []

    def reward(completions, images, image_sizes, resized_sizes, solution, row_id, **columns):
        seen.extend(zip(row_id, image_sizes, resized_sizes, [[i.size for i in row] for row in images], strict=True))
        return [0.0] * len(completions)

    trainer(rows, reward, per_device_train_batch_size=12, shared_prefix=shared_prefix).train()
    found = {name: (sizes, resized) for name, sizes, resized, _ in seen}
    assert found["r:1"] == ([], [])
    assert found["r:2"] == ([(32, 32)], [(32, 32)])
    # 64 x 64 pixels at most: 100 x 60 shrinks, to multiples of 16
    assert found["r:3"] == ([(48, 32), (32, 64), (100, 60)], [(48, 32), (32, 64), (80, 48)])
    assert all(opened == sizes for _, sizes, _, opened in seen)


def test_images_decoded_by_datasets_train_too(trainer, rows, image_files):
    data = Dataset.from_list([{**row, "images": row["images"] or None} for row in rows])
    worker = trainer(data.cast_column("images", List(Image())), per_device_train_batch_size=12)
    worker.train()
    lines = [json.loads(line) for line in Path(worker.args.output_dir, "completions.jsonl").read_text().splitlines()]
    assert {line["row_id"]: line["images"] for line in lines}["r:2"] == image_files[:1]


@pytest.mark.parametrize("shared_prefix", ["off", "auto"])
def test_each_image_is_opened_once_a_generation_batch(trainer, rows, monkeypatch, shared_prefix):
    from PIL import Image as Pillow

    opened = []
    plain = Pillow.open
    monkeypatch.setattr(Pillow, "open", lambda path, *a, **k: opened.append(str(path)) or plain(path, *a, **k))
    worker = trainer(
        [rows[1], rows[2]], num_generations=4, per_device_train_batch_size=2, gradient_accumulation_steps=4,
        num_iterations=2, max_steps=4, shared_prefix=shared_prefix,
    )  # fmt: skip
    worker.train()
    assert len(opened) == 2 * len({*rows[1]["images"], *rows[2]["images"]})  # two generation batches


@pytest.mark.parametrize("shared_prefix", ["off", "auto"])
def test_logging_images_and_text_in_one_table(trainer, rows, shared_prefix):
    """TRL 1.16: `cannot mix list and non-list, non-null values` for the prompt column."""
    worker = trainer(
        rows, eval_data=[rows[0], rows[2]], per_device_train_batch_size=4, log_completions=True, max_steps=2,
        shared_prefix=shared_prefix,
        eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=2,
    )  # fmt: skip
    worker.train()
    worker.evaluate()
    assert worker.log_multimodal is True
    assert len(worker._logs["images"]) == len(worker._logs["prompt"])
    assert list(Path(worker.args.output_dir, "completions").glob("*.parquet"))


def test_streams_whose_rows_have_different_columns(trainer, rows):
    """TRL 1.16 looks for image columns in the first row of a batch only."""
    text = {"prompt": "Say a word.", "solution": "S"}
    text["prompt"] = [{"role": "user", "content": text["prompt"]}]
    photo = {key: rows[1][key] for key in ("prompt", "images", "solution")}
    seen = []

    def reward(completions, images, **columns):
        seen.extend(len(image_files) for image_files in images)
        return [0.5] * len(completions)

    stream = IterableDataset.from_generator(lambda: iter([text, photo] * 4))
    trainer(stream, reward, per_device_train_batch_size=4, max_steps=2).train()
    assert sorted(set(seen)) == [0, 1]
