import numpy as np
import pytest
import torch
from accelerate import data_loader
from datasets import Dataset, Image, List
from PIL import Image as Pillow

from omnirl_core.data import DataError, load_dataset
from omnirl_core.shapes import write_dataset
from omnirl_core.trainer import multimodal
from omnirl_core.trainer.multimodal import counted_by_sample, may_have_images, mixed_samples


def test_rows_of_every_kind_get_one_shape(rows):
    made = mixed_samples([rows[0], rows[1], {k: v for k, v in rows[3].items() if k != "images"}])
    assert [len(row["images"]) for row in made] == [0, 1, 0]
    assert [row["image_sizes"] for row in made] == [[], [(32, 32)], []]
    assert [row["resized_sizes"] for row in made] == [[], None, []]
    assert all(isinstance(message["content"], list) for row in made for message in row["prompt"])
    assert "images" not in rows[3] or rows[3]["images"] == []  # the data set's own rows stay as they are


@pytest.mark.parametrize("absent", [{"images": None}, {"images": []}, {"image": None}, {}])
def test_absent_images_are_an_empty_list(absent):
    [row] = mixed_samples([{"prompt": [{"role": "user", "content": "hi"}], **absent}])
    assert row["images"] == []
    assert row["prompt"] == [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]


def test_a_path_is_opened_once(image_files, rows, monkeypatch):
    opened = []
    monkeypatch.setattr(multimodal, "open_image", lambda path, row_id: opened.append(path) or Pillow.open(path))
    made = mixed_samples([rows[1]] * 8 + [rows[5]] * 8 + [rows[2]] * 8)  # rows[2] and rows[5] share an image
    assert sorted(opened) == sorted({image_files[0], *image_files[1:4]})
    assert made[0]["images"][0] is made[7]["images"][0]


def test_samples_are_searched_for_tensors_where_they_may_have_some(trainer, rows, tmp_path, monkeypatch):
    searched = []
    monkeypatch.setattr(data_loader, "send_to_device", lambda batch, *_, **__: searched.append(batch) or batch)
    write_dataset(tmp_path, "mixed", 4, 0, "train")
    stored = load_dataset(tmp_path / "train.json")
    for data, is_searched in ((rows, True), (stored, False)):
        worker = trainer(data, eval_data=data)
        for loader in (worker.get_train_dataloader(), worker.get_eval_dataloader()):
            [first, *_] = next(iter(loader))
            assert first["prompt"]
            assert bool(searched) == is_searched
            searched.clear()


def test_pil_images_pass_as_they_are():
    image = Pillow.new("RGB", (20, 30))
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
    [row] = mixed_samples([{"prompt": prompt, "image": image}])
    assert row["images"][0] is image
    assert row["image_sizes"] == [(20, 30)]


def test_blocks_that_arrow_filled_with_none_are_cleaned(image_files):
    blocks = [{"type": "image", "image": None, "text": None}, {"type": "text", "text": "?", "image": None}]
    [row] = mixed_samples([{"prompt": [{"role": "user", "content": blocks}], "images": image_files[:1]}])
    assert row["prompt"][0]["content"] == [{"type": "image"}, {"type": "text", "text": "?"}]


def test_own_columns_of_the_same_name_are_kept():
    prompt = [{"role": "user", "content": "hi"}]
    [row] = mixed_samples([{"prompt": prompt, "images": [], "image_sizes": "mine"}])
    assert row["image_sizes"] == "mine"


def test_a_missing_image_names_its_row(rows):
    with pytest.raises(DataError, match=r"r:2: image '/nowhere/x.png' not found"):
        mixed_samples([{**rows[1], "images": ["/nowhere/x.png"]}])


PROMPT = [{"role": "user", "content": "hi"}]
BLOCKS = [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]
PIXELS = Pillow.fromarray(np.zeros((4, 4, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, False),
        (Dataset.from_dict({"prompt": ["a", "b"]}), False),
        (Dataset.from_dict({"prompt": [PROMPT], "solution": ["x"]}), False),
        (Dataset.from_dict({"prompt": [PROMPT], "images": [[]]}), False),
        (Dataset.from_dict({"prompt": [PROMPT], "images": [None]}), False),
        (Dataset.from_dict({"prompt": [PROMPT] * 2, "images": [[], ["a.png"]]}), True),
        (Dataset.from_dict({"prompt": [PROMPT], "image": [PIXELS]}).cast_column("image", Image()), True),
        (
            Dataset.from_dict({"prompt": [PROMPT], "images": [[PIXELS]]}).cast_column("images", List(Image())),
            True,
        ),
        (Dataset.from_dict({"prompt": [BLOCKS]}), True),
        ({"a": Dataset.from_dict({"prompt": ["a"]}), "b": Dataset.from_dict({"images": [["a.png"]]})}, True),
        (Dataset.from_dict({"i": [0]}).with_transform(lambda batch: batch), True),
        (Dataset.from_dict({"prompt": ["a"]}).to_iterable_dataset(), False),
        (Dataset.from_dict({"prompt": ["a"]}).to_iterable_dataset().map(lambda row: row), True),
    ],
)
def test_whether_images_can_turn_up(data, expected):
    assert may_have_images(data) is expected


def test_a_transform_may_declare_that_it_has_none():
    class Transform:
        has_images = False

        def __call__(self, batch):
            return batch

    assert may_have_images(Dataset.from_dict({"i": [0]}).with_transform(Transform())) is False


def test_padded_images_are_counted_by_row_whatever_their_number():
    padded = {"pixel_values": torch.zeros(2, 3, 3, 8, 8), "pixel_attention_mask": torch.ones(2, 3, 8, 8)}
    assert counted_by_sample({**padded, "num_images": [2, 0]})["num_images"] == [0, 0]
    flat = {"pixel_values": torch.zeros(2, 3, 8, 8), "num_images": [2, 0], "pixel_attention_mask": None}
    assert counted_by_sample(flat) == flat
    tiles = {**padded, "spatial_shapes": torch.ones(2, 2), "num_images": [1, 1]}
    assert counted_by_sample(tiles) == tiles
