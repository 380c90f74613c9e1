"""Parquet, CSV, saved data sets and images inside of data: the same samples as from JSON Lines."""

import base64
import csv
import datetime
import io
import json
from decimal import Decimal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from omnirl_core.data import DataError, load_dataset, load_records, open_image
from omnirl_core.data.sources import find_sources

QUESTIONS = ["What colour is it?", "Combien de chats ?", '"Quoted", with a comma', "two\nlines"]
ANSWERS = ["red", "3", "yes", "007"]
PAIRS = list(zip(QUESTIONS, ANSWERS, strict=True))
COLUMNS = {"problem": "question", "solution": "answer"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(colour="red", size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder, kind, rows):
    """The rows in a file of that kind, written by the library that users write it with."""
    path = folder / f"data{kind}"
    names = list(rows[0])
    if kind == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif kind == "":
        datasets.Dataset.from_list(rows).save_to_disk(path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, names, delimiter="\t" if kind == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    return path


@pytest.mark.parametrize("kind", [".parquet", ".csv", ".tsv", ""])
def test_tables_hold_what_json_lines_hold(kind, tmp_path):
    rows = [
        {"question": q, "answer": a, "level": str(n)} for n, (q, a) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
    ]
    found = load_records(write(tmp_path, kind, rows), columns=COLUMNS)
    assert [(r.problem, r.solution, dict(r.extra)) for r in found] == [
        (row["question"], row["answer"], {"level": row["level"]}) for row in rows
    ]
    assert len({r.source for r in found}) == len(rows)


@pytest.mark.parametrize("kind", [".parquet", ".csv", ""])
@pytest.mark.parametrize(
    ("strategy", "kept"), [("first:3", [0, 1, 2]), ("end:2", [298, 299]), ("first:1%", [0, 1, 2])]
)
def test_strategies_take_the_same_rows_of_every_kind(kind, strategy, kept, tmp_path):
    path = write(tmp_path, kind, [{"problem": f"question {n}", "solution": str(n)} for n in range(300)])
    mixture = tmp_path / "mix.yaml"
    mixture.write_text(f"datasets:\n- {{path: {path.name}, sampling_strategy: '{strategy}'}}\n")
    assert [r.solution for r in load_records(mixture)] == [str(n) for n in kept]


def test_random_rows_are_those_of_json_lines(tmp_path):
    rows = [{"problem": f"question {n}", "solution": str(n)} for n in range(900)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = []
    for path in (tmp_path / "data.jsonl", write(tmp_path, ".parquet", rows), write(tmp_path, ".csv", rows)):
        (tmp_path / "mix.yaml").write_text(f"datasets:\n- {{path: {path.name}, sampling_strategy: 'random:50'}}\n")
        drawn.append([r.solution for r in load_records(tmp_path / "mix.yaml", seed=3)])
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(drawn[0]) == 50


def test_images_inside_of_parquet_are_written_once_and_opened(tmp_path):
    features = datasets.Features({"images": [datasets.Image()], "question": datasets.Value("string")})
    rows = {"images": [[Image.new("RGB", (64, 48), "blue")], [], [Image.new("RGB", (8, 9), "red")] * 2]}
    made = datasets.Dataset.from_dict(rows | {"question": ["a", "b", "c"]}, features=features)
    made.to_parquet(tmp_path / "a.parquet")
    found = load_dataset(tmp_path / "a.parquet", columns={"problem": "question", "solution": "question"})
    assert [len(row["images"]) for row in found] == [1, 0, 2]
    assert open_image(found[0]["images"][0]).size == (64, 48)
    assert found[2]["images"][0] == found[2]["images"][1]


def test_only_the_images_of_chosen_rows_are_written(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "problem": datasets.Value("string")})
    rows = {"image": [Image.new("RGB", (8, 8), (n, 0, 0)) for n in range(20)], "problem": ["?"] * 20}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "d")
    (tmp_path / "mix.yaml").write_text(
        "datasets:\n- {path: d, sampling_strategy: 'end:2', columns: {solution: problem, problem: problem}}\n"
    )
    assert len(load_records(tmp_path / "mix.yaml")) == 2
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 2


def test_several_image_columns_become_one_list(tmp_path):
    features = {"q": datasets.Value("string"), "image_1": datasets.Image(), "image_2": datasets.Image()}
    photos = {"image_1": [Image.new("RGB", (8, 8))] * 2, "image_2": [None, Image.new("RGB", (9, 9))]}
    datasets.Dataset.from_dict({"q": ["a", "b"]} | photos, features=datasets.Features(features)).save_to_disk(
        tmp_path / "d"
    )
    columns = {"problem": "q", "solution": "q", "images": ["image_1", "image_2"]}
    assert [len(r.images) for r in load_records(tmp_path / "d", columns=columns)] == [1, 2]


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_base64_is_an_image(prefix, tmp_path):
    rows = [{"problem": "?", "solution": 1, "image": prefix + base64.b64encode(png()).decode()}]
    (tmp_path / "a.jsonl").write_text(json.dumps(rows[0]))
    [record] = load_records(tmp_path / "a.jsonl", check_images="pixels")
    assert open_image(record.images[0]).getpixel((3, 3)) == (255, 0, 0)


def test_base64_that_is_cut_off_is_a_bad_row(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"problem": "?", "solution": 1, "image": "iVBORw0KGgo" + "A" * 80 + "*"})
    )
    with pytest.raises(DataError, match=r"a\.jsonl:1: image 'iVBORw0KGgo.*not found"):
        load_records(tmp_path / "a.jsonl")


def test_values_that_json_lacks(tmp_path):
    table = pa.table(
        {
            "problem": ["?"], "solution": [1.5], "day": [datetime.date(2026, 1, 2)], "price": [Decimal("3.10")],
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    [record] = load_records(tmp_path / "a.parquet")
    assert record.extra == {"day": "2026-01-02", "price": "3.10"}
    assert record.solution == 1.5


CSV_FAULTS = {
    "problem,solution\na,b,c\n": r":2: 3 cells for 2 columns",
    "problem,problem\na,b\n": r":1: column 'problem' appears twice",
    "problem,\na,b\n": r":1: the first line must name every column",
    "": r":1: the first line must name every column",
    "problem;solution\na;b\n": r":1: one column 'problem;solution'; separate by commas",
    'problem,solution\n"a,b\n': r":2: unexpected end of data",
    'problem,solution\na,"[1, NaN]"\n': r":2: column 'solution': NaN is no JSON value",
}


@pytest.mark.parametrize("text", CSV_FAULTS)
def test_faults_of_a_csv_name_the_line(text, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=CSV_FAULTS[text]):
        load_records(tmp_path / "a.csv")


def test_a_csv_from_a_spreadsheet(tmp_path):
    text = '\ufeffproblem,solution,image\r\n"a\r\nb","[1, 2, 3, 4]",\r\n\r\nWhat?,{x},\r\n'
    (tmp_path / "a.csv").write_bytes(text.encode())
    found = load_records(tmp_path / "a.csv")
    assert [(r.problem, r.solution, r.images, r.source.rpartition(":")[2]) for r in found] == [
        ("a\r\nb", [1, 2, 3, 4], (), "2"),
        ("What?", "{x}", (), "5"),
    ]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\xff" * 100])
@pytest.mark.parametrize("kind", [".parquet", ".csv"])
def test_files_that_are_something_else(kind, content, tmp_path):
    (tmp_path / f"a{kind}").write_bytes(content)
    with pytest.raises(DataError, match=f"a{kind}"):
        load_records(tmp_path / f"a{kind}")


def test_a_folder_of_several_splits_names_them(tmp_path):
    one = datasets.Dataset.from_list([{"problem": "?", "solution": "!"}])
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match=r"several splits; name one: .*d/train, .*d/test"):
        load_records(tmp_path / "d")
    assert len(load_records(tmp_path / "d" / "test")) == 1


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(DataError, match="a folder; give a"):
        find_sources(tmp_path)


# --- columns ---


def test_a_missing_name_is_answered_with_the_mapping(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"Question": "?", "answer": "!", "image": None}))
    with pytest.raises(DataError, match=r"rename it, or map it: columns: \{problem: Question, solution: answer\}"):
        load_records(tmp_path / "a.jsonl")
    assert load_records(tmp_path / "a.jsonl", columns={"problem": "Question", "solution": "answer"})[0].solution == "!"


FAULTS = {
    "no such column": ({"problem": "question"}, r"columns: problem: no column 'question'; there are: q, solution"),
    "taken": ({"problem": "q", "solution": "q"}, r"columns: 'solution' is a column of the data already"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_mapping_that_does_not_fit_names_the_row(name, tmp_path):
    columns, message = FAULTS[name]
    (tmp_path / "a.jsonl").write_text('{"q": "?", "solution": 1}')
    with pytest.raises(DataError, match=r"a\.jsonl:1: " + message):
        load_records(tmp_path / "a.jsonl", columns=columns)


@pytest.mark.parametrize("columns", [["a"], {"problem": 3}, {"problem": ["a", "b"]}, {"images": []}, "question"])
def test_a_mapping_of_something_else_is_refused(columns, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"problem": "?", "solution": 1}')
    with pytest.raises(ValueError, match="columns: "):
        load_records(tmp_path / "a.jsonl", columns=columns)


def test_an_entry_of_a_mixture_has_its_own_mapping(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"q": "?", "answers": {"text": ["x"]}}')
    (tmp_path / "b.csv").write_text("problem,solution\n?,y\n")
    (tmp_path / "mix.yaml").write_text(
        "datasets:\n- path: a.jsonl\n  columns: {problem: q, solution: answers.text.0}\n- path: b.csv\n"
    )
    assert [r.solution for r in load_records(tmp_path / "mix.yaml")] == ["x", "y"]
