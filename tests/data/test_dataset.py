"""What the trainer takes: rows drawn from the data set, in any order, by any reader."""

import gc
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from trl.data_utils import prepare_multimodal_messages

from omnirl_core.data import DataError, dataset, load_dataset, load_records, modality, open_image

COLUMNS = {"prompt", "images", "solution", "task", "problem", "row_id"}
SOLUTIONS = [
    "text",
    "",
    "3",
    "null",
    "[1, 2]",
    "NaN",
    "<answer>[1, 2]</answer>",
    "日本語 \U0001f600 \u2028 \u0000",
]
SOLUTIONS += [
    3,
    3.0,
    -0.0,
    0,
    1e-300,
    10**30,
    True,
    False,
    None,
    [],
    {},
    ["a"],
    [["a"]],
    [1, 2.0, "3", None, [True]],
]
SOLUTIONS += [[103.93, 299.99, 238.15, 477.41], {"b": 1, "a": [{"c": None}]}]


def user_content(row):
    return row["prompt"][-1]["content"]


@pytest.fixture
def mixed(write_rows, tmp_path, photographs):
    """40 rows: text, one photograph, several, in turn, in both formats; the path of the file."""
    names = list(photographs)
    rows = []
    for i in range(40):
        images = [f"img/{names[(i + k) % len(names)]}.{('png', 'jpg')[i % 2]}" for k in range(i % 4)]
        row = {"image": images if i % 3 or len(images) > 1 else "".join(images)}
        if i % 5 == 4:
            turns = [
                {"from": "human", "value": "<image>" * len(images) + f"\nQ{i}"},
                {"from": "gpt", "value": SOLUTIONS[i % 24]},
            ]
            row |= {"conversations": turns, "accu_reward_method": "mcq"}
        else:
            row |= {"problem": f"Q{i}", "solution": SOLUTIONS[i % 24]}
        rows.append(row)
    (tmp_path / "img").mkdir()
    for name, pixels in photographs.items():
        photograph = Image.fromarray(pixels).convert("RGB")
        photograph.thumbnail((20 + 7 * len(name), 200))  # many sizes
        photograph.save(tmp_path / "img" / f"{name}.png")
        photograph.save(tmp_path / "img" / f"{name}.jpg", quality=95)
    return write_rows(rows, "mixed.json")


def test_a_row_has_what_the_contract_names(mixed, tmp_path):
    rows = load_dataset(mixed, templates={"default": "plain"})
    assert len(rows) == 40
    assert set(rows[0]) == COLUMNS | {"accu_reward_method"}
    assert rows[2] == {
        "prompt": [
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Q2"}],
            }
        ],
        "images": [f"{tmp_path}/img/chelsea.png", f"{tmp_path}/img/coffee.png"],
        "solution": SOLUTIONS[2],
        "task": None,
        "problem": "Q2",
        "row_id": f"{mixed}:4",
        "accu_reward_method": None,
    }
    assert rows[4] == {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": "\nQ4"}]}],
        "images": [],
        "solution": SOLUTIONS[4],
        "task": "mcq",
        "problem": "\nQ4",
        "row_id": f"{mixed}:6",
        "accu_reward_method": "mcq",
    }


def test_the_rows_are_the_records(mixed):
    for row, record in zip(load_dataset(mixed), load_records(mixed), strict=True):
        assert modality(row) == modality(record)
        assert (row["row_id"], row["task"], tuple(row["images"])) == (
            record.source,
            record.task,
            record.images,
        )
        assert json.dumps(row["solution"]) == json.dumps(record.solution)


def test_images_open_in_the_order_of_the_row(mixed, photographs):
    names = list(photographs)
    for i, row in enumerate(load_dataset(mixed)):
        for k, path in enumerate(row["images"]):
            photograph = Image.fromarray(photographs[names[(i + k) % len(names)]]).convert("RGB")
            photograph.thumbnail((20 + 7 * len(names[(i + k) % len(names)]), 200))
            image = open_image(path, row["row_id"])
            assert image.size == photograph.size
            difference = np.abs(np.asarray(image).astype(int) - np.asarray(photograph))
            assert difference.mean() < (6 if path.endswith(".jpg") else 1e-9)


def test_trl_takes_every_prompt(mixed):
    for row in load_dataset(mixed, system_prompt="Be brief."):
        prepare_multimodal_messages(row["prompt"], images=row["images"])


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_all_solution_types_live_in_one_data_set(write_rows, name):
    path = write_rows([{"problem": "Q", "solution": s, "extra": s} for s in SOLUTIONS], name)
    rows = load_dataset(path)
    for read in (rows, load_dataset(path)[:]["solution"], pickle.loads(pickle.dumps(rows))):
        solutions = [row["solution"] if isinstance(row, dict) and "prompt" in row else row for row in read]
        assert list(map(json.dumps, solutions)) == list(map(json.dumps, SOLUTIONS))
    assert list(map(json.dumps, rows[:]["extra"])) == list(map(json.dumps, SOLUTIONS))


def test_other_keys_are_columns_of_every_row(write_rows):
    rows = load_dataset(
        write_rows([{"problem": "Q", "solution": 1, "tests": ["a"]}, {"problem": "Q", "solution": 1, "id": 7}])
    )
    assert [set(row) for row in rows] == [COLUMNS | {"tests", "id"}] * 2
    assert [(row["tests"], row["id"]) for row in rows] == [(["a"], None), (None, 7)]


def test_templates_by_task_and_a_task_without_rows_is_reported(write_rows, caplog):
    path = write_rows([{"problem": f"Q{t}", "solution": 1, "task": t} for t in ("boxes", "caption", "none")])
    templates = {"boxes": "rec_r1", "caption": "Say: {problem}", "captoin": "plain"}
    texts = [user_content(row)[0]["text"] for row in load_dataset(path, templates=templates)]
    assert texts[0].startswith("Qboxes First output")
    assert texts[0].endswith("Output the final answer in JSON format.")
    assert texts[1] == "Say: Qcaption"
    assert texts[2].endswith("in <answer> </answer> tags.")
    assert "has a task named ['captoin'], for which a template is set" in caplog.text


def test_a_wrong_template_is_said_before_the_rows_are_read(tmp_path):
    with pytest.raises(ValueError, match="template of 'boxes' is 'r2'"):
        load_dataset(tmp_path / "gone.json", templates={"boxes": "r2"})


def test_errors_and_skips_reach_the_caller(write_rows, caplog):
    path = write_rows([{"problem": "Q", "solution": 1}, {"problem": "Q", "solution": 1, "image": "gone.png"}])
    with pytest.raises(DataError, match=r":2: image 'gone.png' not found"):
        load_dataset(path)
    assert len(load_dataset(path, on_bad_sample="skip")) == 1
    assert "dropped 1 of 2 rows" in caplog.text


def test_select_shuffle_split_filter_and_slices_keep_rows_whole(mixed):
    rows = load_dataset(mixed)
    by_id = {row["row_id"]: row for row in rows}
    assert len(by_id) == 40
    split = rows.train_test_split(test_size=0.25, seed=0)
    views = [
        rows.shuffle(seed=0),
        rows.select([7, 3, 3, 39]),
        rows.select(range(5, 9)),
        rows.filter(lambda row: modality(row) == "text"),
        rows.skip(30).take(5),
        rows.shard(3, 1),
        split["train"],
        split["test"],
    ]
    for view in views:
        assert len(view) > 0
        assert all(row == by_id[row["row_id"]] for row in view)
    assert {modality(row) for row in views[3]} == {"text"}
    assert sorted(row["row_id"] for half in split.values() for row in half) == sorted(by_id)
    batch = rows[10:13]
    assert [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)] == list(
        rows.select(range(10, 13))
    )
    assert rows[[]] == {name: [] for name in rows[0]}


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_loader_workers_draw_the_same_rows(mixed, context):
    rows = load_dataset(mixed).shuffle(seed=3)
    loader = DataLoader(rows, batch_size=8, num_workers=2, collate_fn=list, multiprocessing_context=context)
    drawn = [row for batch in loader for row in batch]
    assert drawn == list(rows)


def draw_pixels(batch):
    return [
        (row["row_id"], [torch.from_numpy(np.array(open_image(p, row["row_id"]))) for p in row["images"]])
        for row in batch
    ]


def test_images_opened_in_workers_and_a_bad_one_is_named_there(mixed, tmp_path):
    rows = load_dataset(mixed)
    loader = DataLoader(rows, batch_size=8, num_workers=2, collate_fn=draw_pixels)
    drawn = [row for batch in loader for row in batch]
    assert [row_id for row_id, _ in drawn] == rows[:]["row_id"]
    assert sum(len(images) for _, images in drawn) == 60
    path = rows[6]["images"][0]
    with open(path, "r+b") as file:
        file.truncate(300)
    with pytest.raises(DataError, match=f"{mixed}:8: image '{path}' cannot be decoded"):
        list(DataLoader(rows, batch_size=8, num_workers=1, collate_fn=draw_pixels))


def test_the_fingerprint_is_of_the_rows(write_rows):
    rows = [{"problem": f"Q{i}", "solution": i} for i in range(5)]
    one, again = (load_dataset(write_rows(rows, "a.jsonl"))._fingerprint for _ in range(2))
    assert one == again
    assert load_dataset(write_rows(rows[:4], "a.jsonl"))._fingerprint != one
    assert load_dataset(write_rows(rows, "a.jsonl"), templates={"default": "plain"})._fingerprint != one


@pytest.mark.parametrize("n_rows", [1, 4, 8, 11])
def test_rows_are_whole_across_the_chunks_of_the_store(write_rows, monkeypatch, n_rows):
    monkeypatch.setattr(dataset, "_BATCH", 4)
    rows = load_dataset(write_rows([{"problem": f"Q{i}", "solution": i} for i in range(n_rows)]))
    assert rows.data.column("row").num_chunks == -(-n_rows // 4)
    assert rows[:]["solution"] == [row["solution"] for row in rows] == list(range(n_rows))


def test_the_collector_is_left_as_it_was(write_rows):
    good, bad = write_rows([{"problem": "Q", "solution": 1}], "good.jsonl"), write_rows([{}], "bad.jsonl")
    load_dataset(good)
    assert gc.isenabled()
    with pytest.raises(DataError):
        load_dataset(bad)
    assert gc.isenabled()
    gc.disable()
    try:
        load_dataset(good)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_data_set_says_whether_it_has_images(tmp_path):
    text, mixed = tmp_path / "text.jsonl", tmp_path / "mixed.jsonl"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    text.write_text('{"problem": "a", "solution": 1}\n')
    mixed.write_text('{"problem": "a", "solution": 1}\n{"problem": "b", "solution": 2, "image": "a.png"}\n')
    for file, expected in ((text, False), (mixed, True)):
        assert load_dataset(file).format["format_kwargs"]["transform"].has_images is expected
