"""One row to one Record: every format, every refusal."""

import pytest

from omnirl_core.data import DataError, Record, modality
from omnirl_core.data.record import Problems, RowContext, record_from_row

HERE = RowContext(root="/data", shown_root="data", exists=lambda path: "missing" not in path)


def record(row, task=None):
    return record_from_row(row, "x.jsonl:7", RowContext(HERE.root, HERE.shown_root, HERE.exists, task))


@pytest.mark.parametrize(
    ("images", "paths"),
    [
        ({}, ()),
        ({"image": None}, ()),
        ({"image": ""}, ()),
        ({"image": []}, ()),
        ({"images": []}, ()),
        ({"image": "a.png"}, ("/data/a.png",)),
        ({"image": ["a.png"]}, ("/data/a.png",)),
        ({"images": "a.png"}, ("/data/a.png",)),
        ({"images": ["b/a.png", "/abs/c.png", "b/a.png"]}, ("/data/b/a.png", "/abs/c.png", "/data/b/a.png")),
    ],
)
def test_images_are_absent_empty_a_path_or_a_list(images, paths):
    read = record({"problem": "Why?", "solution": "so", **images})
    assert read == Record("Why?", "so", paths, None, "x.jsonl:7", {})
    assert modality(read) == ("text", "image", "multi-image")[min(len(paths), 2)]


@pytest.mark.parametrize("solution", ["", "a", 3, 2.5, True, None, [1, 2], [[1.5]], {"a": [1]}, "<answer>3</answer>"])
def test_any_solution_stays_as_it_is(solution):
    for row in (
        {"problem": "Q", "solution": solution},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": solution}]},
    ):
        read = record(row)
        assert read.solution is solution
        assert read.problem == "Q"


def test_a_vlm_r1_row():
    row = {
        "id": 1,
        "image": ["a.png", "b.png"],
        "conversations": [
            {"from": "human", "value": "<image><image>Same?"},
            {"from": "gpt", "value": [1.5, 2]},
        ],
        "accu_reward_method": "mcq",
    }
    assert record(row) == Record(
        "<image><image>Same?",
        [1.5, 2],
        ("/data/a.png", "/data/b.png"),
        "mcq",
        "x.jsonl:7",
        {"id": 1, "accu_reward_method": "mcq"},
    )
    assert "conversations" in row  # the caller's row is not changed


def test_a_rec_annotation():
    row = {
        "height": 640,
        "width": 427,
        "bbox_list": [[103.93, 299.99, 237.15, 476.41]],
        "image": "train2014/COCO_train2014_000000581857.jpg",
        "problem": "Please provide the bounding box coordinate of the region: the lady with the blue shirt.",
        "normal_caption": "the lady with the blue shirt",
        "solution": [103.93, 299.99, 238.15, 477.41],
        "normalized_solution": [243, 468, 557, 745],
    }
    read = record(row, task="rec")
    assert read.solution == [103.93, 299.99, 238.15, 477.41]
    assert read.images == ("/data/train2014/COCO_train2014_000000581857.jpg",)
    assert read.task == "rec"
    assert read.extra["normalized_solution"] == [243, 468, 557, 745]
    assert set(read.extra) == {"height", "width", "bbox_list", "normal_caption", "normalized_solution"}


@pytest.mark.parametrize(
    ("keys", "inherited", "task"),
    [
        ({}, None, None),
        ({}, "file", "file"),
        ({"task": None}, "file", "file"),
        ({"task": "row"}, "file", "row"),
        ({"accu_reward_method": "mcq"}, "file", "mcq"),
        ({"task": "row", "accu_reward_method": "mcq"}, "file", "row"),
    ],
)
def test_the_nearest_task_counts(keys, inherited, task):
    read = record({"problem": "Q", "solution": 1, **keys}, inherited)
    assert read.task == task
    assert "task" not in read.extra


TURNS = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": 1}]
REFUSED = [
    ([1, 2], "expected an object with 'problem' and 'solution', found [1, 2]"),
    (None, "expected an object with 'problem' and 'solution', found None"),
    ("x" * 500, "found 'xxxx"),
    ({"solution": 1}, "no 'problem' among its keys (solution); add it"),
    ({}, "no 'problem' among its keys (none); add it"),
    ({"question": "Q", "answer": 1}, "no 'problem' among its keys"),
    ({"problem": "Q"}, "no 'solution' among its keys"),
    ({"problem": "Q", "image": "a.png"}, "write null where no reward needs it"),
    ({"problem": "", "solution": 1}, "problem must be a text that is not empty, found ''"),
    ({"problem": " \n", "solution": 1}, "problem must be a text that is not empty, found ' \\n'"),
    ({"problem": 3, "solution": 1}, "problem must be a text that is not empty, found 3"),
    ({"problem": ["Q"], "solution": 1}, "problem must be a text that is not empty, found ['Q']"),
    ({"problem": "Q", "solution": 1, "image": "a.png", "images": []}, "both 'image' and 'images'; keep one"),
    ({"problem": "Q", "solution": 1, "image": 3}, "'image' must be a path or a list of paths, found 3"),
    (
        {"problem": "Q", "solution": 1, "images": ["a.png", None]},
        "'images' must be a path or a list of paths",
    ),
    (
        {"problem": "Q", "solution": 1, "images": ["a.png", ""]},
        "'images' must be a path or a list of paths, found ''",
    ),
    ({"problem": "Q", "solution": 1, "image": {"bytes": ""}}, "'image' must be a path or a list of paths"),
    (
        {"problem": "Q", "solution": 1, "image": False},
        "'image' must be a path or a list of paths, found False",
    ),
    (
        {"problem": "Q", "solution": 1, "image": "img/missing.png"},
        "image 'img/missing.png' not found under data; set image_root or fix the path",
    ),
    (
        {"problem": "Q", "solution": 1, "image": "/abs/missing.png"},
        "image '/abs/missing.png' not found; set image_root",
    ),
    (
        {"problem": "Q", "solution": 1, "image": "https://missing/a.png"},
        "is not a file; save it as one, nothing is fetched",
    ),
    ({"problem": "Q", "solution": 1, "image": "data:image/png;missing"}, "is not a file; save it as one"),
    (
        {"problem": "<image>Q", "solution": 1},
        "the text has 1 <image> for 0 images: '<image>Q'; write one for each",
    ),
    ({"problem": "<image><image>Q", "solution": 1, "image": "a.png"}, "the text has 2 <image> for 1 image: "),
    (
        {"problem": "<image>Q", "solution": 1, "image": ["a.png", "b.png"]},
        "the text has 1 <image> for 2 images",
    ),
    ({"problem": "Q", "solution": 1, "task": 3}, "'task' must be a name, found 3"),
    ({"problem": "Q", "solution": 1, "task": ""}, "'task' must be a name, found ''"),
    ({"problem": "Q", "solution": 1, "accu_reward_method": ["mcq"]}, "'accu_reward_method' must be a name"),
    (
        {"problem": "Q", "solution": 1, "image_sizes": []},
        "key 'image_sizes' is a name that training fills; rename it",
    ),
    ({"problem": "Q", "solution": 1, "prompt": "P"}, "key 'prompt' is a name that training fills; rename it"),
    ({"conversations": TURNS, "problem": "Q"}, "both 'conversations' and 'problem'; keep one"),
    ({"conversations": TURNS, "solution": 1}, "both 'conversations' and 'solution'; keep one"),
    ({"conversations": TURNS * 2}, "found turns from ['human', 'gpt', 'human', 'gpt']"),
    ({"conversations": TURNS[::-1]}, "found turns from ['gpt', 'human']"),
    (
        {"conversations": TURNS[:1]},
        "must be one human turn and one gpt turn with 'value', found turns from ['human']",
    ),
    ({"conversations": []}, "found turns from []"),
    ({"conversations": "Q"}, "found 'Q'"),
    ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt"}]}, "one gpt turn with 'value'"),
    ({"conversations": [{"from": "human", "value": 3}, TURNS[1]]}, "the human turn must be a text"),
]


@pytest.mark.parametrize(("row", "problem"), REFUSED)
def test_a_refusal_names_the_place_the_value_and_the_fix(row, problem):
    with pytest.raises(DataError) as error:
        record(row)
    assert str(error.value).startswith("x.jsonl:7: ")
    assert problem in str(error.value)
    assert len(str(error.value)) < 400


def test_ten_problems_by_name_then_a_count():
    problems = Problems()
    for i in range(10):
        problems.add(f"p{i}")
    assert str(problems).splitlines() == [f"p{i}" for i in range(10)]
    problems.add("p10")
    assert str(problems).splitlines()[9:] == ["p9", "... and 1 more"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"images": []}, "text"),
        ({"images": None}, "text"),
        ({}, "text"),
        ({"image": None}, "text"),
        ({"image": object()}, "image"),
        ({"images": ["a"]}, "image"),
        ({"images": ["a", "b", "c"]}, "multi-image"),
    ],
)
def test_modality_of_rows_in_any_form_that_trl_takes(row, expected):
    assert modality(row) == expected
