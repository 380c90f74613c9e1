"""Files and mixtures to records, and what is said when something is wrong with them."""

import json
import logging
from pathlib import Path

import pytest

from omnirl_core.data import DataError, load_records

ROWS = [{"problem": f"Q{i}", "solution": i} for i in range(10)]


def mixture(folder: Path, text: str) -> str:
    (folder / "mix.yaml").write_text(text, encoding="utf-8")
    return str(folder / "mix.yaml")


def solutions(path, **options):
    return [record.solution for record in load_records(path, **options)]


def refusal(path, **options) -> list[str]:
    with pytest.raises(DataError) as error:
        load_records(path, **options)
    return str(error.value).splitlines()


@pytest.mark.parametrize(("name", "first_line"), [("rows.jsonl", 1), ("rows.json", 2)])
def test_both_kinds_of_file(write_rows, name, first_line):
    path = write_rows(ROWS, name)
    records = load_records(Path(path))
    assert [(r.problem, r.solution, r.source) for r in records] == [
        (f"Q{i}", i, f"{path}:{i + first_line}") for i in range(10)
    ]


def test_sources_are_named_as_the_user_wrote_them(write_rows, monkeypatch, tmp_path):
    write_rows(ROWS, "data/rows.jsonl")
    monkeypatch.chdir(tmp_path)
    assert load_records("data/rows.jsonl")[3].source == "data/rows.jsonl:4"
    mixture(tmp_path / "data", "datasets:\n- json_path: rows.jsonl\n")
    assert load_records("data/mix.yaml")[3].source == "data/rows.jsonl:4"


def test_images_start_at_the_files_folder_or_at_image_root(write_rows, tmp_path, monkeypatch):
    row = {"problem": "Q", "solution": 1, "image": "a.png"}
    path = write_rows([row], "data/rows.jsonl")
    for folder in ("data", "pictures"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "a.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert load_records("data/rows.jsonl")[0].images == (f"{tmp_path}/data/a.png",)
    assert load_records(path, "pictures")[0].images == (f"{tmp_path}/pictures/a.png",)
    monkeypatch.chdir(tmp_path / "data")
    assert load_records("rows.jsonl")[0].images == (f"{tmp_path}/data/a.png",)
    (tmp_path / "data" / "a.png").unlink()
    assert refusal("rows.jsonl")[0] == "rows.jsonl:1: image 'a.png' not found under .; set image_root or fix the path"
    assert refusal(path, image_root="../no")[0].endswith(
        "image 'a.png' not found under ../no; set image_root or fix the path"
    )


def test_a_mixture_takes_of_each_file_what_it_says(write_rows, tmp_path):
    write_rows(ROWS, "a.json")
    write_rows(ROWS, "sub/b.jsonl")
    text = """
datasets:
    - json_path: a.json
      sampling_strategy: first:3
    - json_path: {0}/sub/b.jsonl
      sampling_strategy: end:2
    - json_path: a.json
      sampling_strategy: first:25%
    - json_path: a.json
      sampling_strategy: end:1%
    - json_path: sub/b.jsonl
      sampling_strategy:
    - json_path: a.json
      sampling_strategy: all
    - json_path: sub/b.jsonl
      sampling_strategy: first:0
"""
    path = mixture(tmp_path, text.replace("{0}", str(tmp_path)))
    assert solutions(path) == [0, 1, 2, 8, 9, 0, 1, 2, 9, *range(10), *range(10)]


def test_random_rows_are_seeded_and_differ_between_entries(write_rows, tmp_path):
    write_rows([{"problem": "Q", "solution": i} for i in range(1000)], "a.json")
    write_rows([{"problem": "Q", "solution": i} for i in range(1000)], "b.jsonl")
    for strategy in ("random:100", "random:10%", "10%"):
        entries = "".join(
            f"- {{json_path: {name}, sampling_strategy: '{strategy}'}}\n" for name in ("a.json", "b.jsonl")
        )
        path = mixture(tmp_path, "datasets:\n" + entries)
        drawn = solutions(path, seed=1)
        assert drawn == solutions(path, seed=1)
        assert drawn != solutions(path, seed=2)
        one, other = drawn[:100], drawn[100:]
        assert one == sorted(set(one))
        assert other == sorted(set(other))
        assert one != other


def test_rows_outside_of_the_sample_are_not_looked_at(write_rows, tmp_path):
    write_rows([*ROWS[:3], {"bad": 1}, *ROWS[4:]], "a.jsonl")
    (tmp_path / "b.json").write_text('[{"problem": "Q", "solution": 1}, {"problem": ')
    for entry in (
        "{json_path: a.jsonl, sampling_strategy: first:3}",
        "{json_path: a.jsonl, sampling_strategy: end:6}",
    ):
        assert len(load_records(mixture(tmp_path, f"datasets: [{entry}]"))) in (3, 6)
    assert solutions(mixture(tmp_path, "datasets: [{json_path: b.json, sampling_strategy: first:1}]")) == [1]


def test_fewer_rows_than_asked_for_is_reported(write_rows, tmp_path, caplog):
    write_rows(ROWS, "a.json")
    for strategy in ("first:11", "end:11", "random:11"):
        caplog.clear()
        path = mixture(tmp_path, f"datasets: [{{json_path: a.json, sampling_strategy: {strategy}}}]")
        assert solutions(path) == list(range(10))
        assert f"{tmp_path}/a.json has 10 rows, 11 were asked for; all are used" in caplog.text


def test_an_entry_has_its_own_image_root_and_task(write_rows, tmp_path):
    row = {"problem": "Q", "solution": 1, "image": "a.png"}
    write_rows([row, {**row, "task": "own"}], "a.jsonl")
    for folder in ("one", "two", "three"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(b"")
    path = mixture(
        tmp_path,
        f"""datasets:
- json_path: a.jsonl
  image_root: one
  task: boxes
- json_path: a.jsonl
  image_root: {tmp_path}/two
- json_path: a.jsonl
""",
    )
    records = load_records(path, tmp_path / "three", task="caption")
    assert [r.task for r in records] == ["boxes", "own", "caption", "own", "caption", "own"]
    assert [Path(r.images[0]).parent.name for r in records] == ["one", "one", "two", "two", "three", "three"]


def test_all_mistakes_of_a_mixture_at_once(write_rows, tmp_path):
    write_rows(ROWS, "a.json")
    path = mixture(
        tmp_path,
        """datasets:
- json_path: a.json
  sampling_stratgy: first:3
- sampling_strategy: first:3
- json_path: a.json
  hub: org/name
- json_path: gone.json
- a.json
- json_path: a.json
  sampling_strategy: last:3
- json_path: a.json
  json_path: a.json
- json_path: [a.json]
- json_path: a.json
  split: train
- json_path: mix.yaml
""",
    )
    said = [line.removeprefix(path) for line in refusal(path)]
    kinds = "a data file is .json, .jsonl, .parquet, .csv, .tsv or .yaml, a hub name is org/name"
    assert said == [
        ":2: unknown key 'sampling_stratgy'; did you mean 'sampling_strategy'?",
        ":4: an entry needs one of 'json_path', 'path' and 'hub'",
        ":5: an entry needs one of 'json_path', 'path' and 'hub'",
        f":7: {tmp_path}/gone.json: no such data file; {kinds}",
        ":8: an entry is '- json_path: ...', found 'a.json'",
        ":9: sampling_strategy 'last:3' is none of all, first:N, end:N, random:N or N%, where N is a whole number"
        " or a percentage up to 100%",
        ":12: 'json_path' appears twice; keep one",
        ":13: 'json_path' must be one value",
        ":13: an entry needs one of 'json_path', 'path' and 'hub'",
        ":14: 'split' is for hub data sets only",
        "... and 1 more",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected one key, 'datasets', with a list of entries; found no keys"),
        ("- json_path: a.json", "found no keys"),
        ("dataset:\n- json_path: a.json", "found the keys ['dataset']"),
        ("datasets:\n- json_path: a.json\nseed: 3", "found the keys ['datasets', 'seed']"),
        ("datasets: a.json", "expected one key, 'datasets', with a list of entries"),
        ("datasets: []", "no entries under 'datasets'"),
        ("datasets:\n- json_path: 'a.json\n", "3: not YAML: found unexpected end of stream"),
        ("datasets:\n\t- json_path: a", "2: not YAML"),
        ("datasets: \x01", "not YAML"),
    ],
)
def test_a_yaml_that_is_no_mixture(tmp_path, text, problem):
    (line,) = refusal(mixture(tmp_path, text))
    assert line.startswith(str(tmp_path / "mix.yaml"))
    assert problem in line


def test_a_yaml_in_another_encoding(tmp_path):
    (tmp_path / "mix.yaml").write_bytes("datasets:\n- json_path: café".encode("latin-1"))
    assert refusal(tmp_path / "mix.yaml") == [f"{tmp_path}/mix.yaml: not UTF-8; save it as UTF-8"]


def test_files_that_cannot_be_data(tmp_path):
    (tmp_path / "rows.xlsx").write_text("problem,solution")
    (tmp_path / "folder.json").mkdir()
    kinds = "a data file is .json, .jsonl, .parquet, .csv, .tsv or .yaml, a hub name is org/name"
    assert refusal(tmp_path / "rows.xlsx") == [
        f"{tmp_path}/rows.xlsx: a file of unknown kind; give a .json, .jsonl, .parquet, .csv, .tsv or .yaml file"
    ]
    assert refusal(tmp_path) == [f"{tmp_path}: a folder; give a .json, .jsonl, .parquet, .csv, .tsv or .yaml file"]
    assert "a folder" in refusal(tmp_path / "folder.json")[0]
    (tmp_path / "folder.json" / "b.csv").write_text("problem,solution")
    assert refusal(tmp_path / "folder.json")[0].endswith(f"or .yaml file: {tmp_path}/folder.json/b.csv")
    for name in ("gone.json", "gone.yaml", "a/b/c"):
        assert refusal(tmp_path / name) == [f"{tmp_path}/{name}: no such data file; {kinds}"]
    assert refusal("data/gone.jsonl") == [f"data/gone.jsonl: no such data file; {kinds}"]


@pytest.mark.parametrize(("name", "text"), [("a.json", "[]"), ("a.jsonl", ""), ("a.jsonl", "\n\n")])
def test_no_rows_is_an_error(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert refusal(tmp_path / name) == [f"no rows in {tmp_path / name}"]


def test_bad_rows_are_all_named_up_to_ten_then_counted(write_rows):
    rows = [{"problem": f"Q{i}", "solution": 1, "image": f"{i}.png"} if i % 2 else ROWS[i % 10] for i in range(50)]
    path = write_rows(rows, "a.json")
    lines = refusal(path)
    assert len(lines) == 12
    assert lines[:2] == [
        f"{path}:{line}: image '{line - 2}.png' not found under {Path(path).parent}; set image_root or fix the path"
        for line in (3, 5)
    ]
    assert lines[10:] == ["... and 15 more", "25 of 50 rows are bad; on_bad_sample: skip drops them"]


def test_skip_drops_counts_and_logs(write_rows, caplog, tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"problem": "Q", "solution": 1}\nbroken\n{"problem": "Q", "solution": NaN}\n[]\n'
    )
    write_rows([{"solution": 1}, *ROWS], "b.json")
    path = mixture(tmp_path, "datasets: [{json_path: a.jsonl}, {json_path: b.json}]")
    with caplog.at_level(logging.WARNING):
        assert solutions(path, on_bad_sample="skip") == [1, *range(10)]
    (entry,) = caplog.records
    said = entry.getMessage().splitlines()
    assert said[0] == "dropped 4 of 15 rows (on_bad_sample: skip):"
    assert [line.split(" ")[0] for line in said[1:]] == [
        f"{tmp_path}/{place}:" for place in ("a.jsonl:2", "a.jsonl:3", "a.jsonl:4", "b.json:2")
    ]


def test_skip_keeps_quiet_about_good_data_and_refuses_to_train_on_none(write_rows, caplog):
    assert len(load_records(write_rows(ROWS), on_bad_sample="skip")) == 10
    assert not caplog.records
    path = write_rows([{"bad": 1}], "bad.jsonl")
    assert refusal(path, on_bad_sample="skip") == [f"no good rows in {path}"]
    with pytest.raises(ValueError, match="on_bad_sample: 'ignore' is not a choice; known: error, skip"):
        load_records(path, on_bad_sample="ignore")


def test_a_broken_file_is_an_error_even_with_skip(write_rows, tmp_path):
    write_rows([{"bad": 1}, *ROWS], "a.jsonl")
    (tmp_path / "b.json").write_text('[{"problem": "Q", "solution": 1},\n {"problem": }]')
    path = mixture(tmp_path, "datasets: [{json_path: a.jsonl}, {json_path: b.json}]")
    for on_bad_sample in ("error", "skip"):
        broken, bad = refusal(path, on_bad_sample=on_bad_sample)
        assert broken.startswith(f"{tmp_path}/b.json:2: not JSON: Expecting value")
        assert bad.startswith(f"{tmp_path}/a.jsonl:1: no 'problem'")


def test_huge_and_foreign_values_survive(tmp_path):
    solution = {
        "big": 10**30,
        "small": 1e-300,
        "minus": -0.0,
        "text": "\u0000 日本 \U0001f600",
        "keys": {"": [], "z": 1, "a": 2},
    }
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"problem": "Q", "solution": solution}))
    (record,) = load_records(path)
    assert json.dumps(record.solution) == json.dumps(solution)
