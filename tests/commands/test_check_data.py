"""`omnirl check-data`: ten kinds of corruption are all named, with their kind, and nothing else is."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnirl_core.data import Record
from omnirl_tools.checks.parallel import WorkerDied, in_order
from omnirl_tools.checks.row_check import KINDS, RowCheck
from omnirl_tools.checks.truncation import looks_cut
from omnirl_tools.cli import main

ROOT = Path(__file__).parents[2]


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


corrupted = load_script("check_data")
IMAGE = (160, 96)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corrupted")
    return folder, corrupted.write_rows(folder, 600, n_bad=60, size=IMAGE)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_corrupted_row_is_named_with_its_kind_and_no_other(data, monkeypatch, capsys, workers):
    folder, bad = data
    monkeypatch.chdir(ROOT)
    report = folder / "report.txt"
    arguments = ["check-data", str(folder / "recipe.yaml"), "--workers", workers, "--report", str(report)]
    assert main(arguments) == 1
    assert corrupted.named_rows(report) == bad
    assert len(report.read_text().splitlines()) == len(bad) == 60
    out = capsys.readouterr().out
    assert all(f"x {kind}: " in out for kind in KINDS)
    assert "600 rows        576 images       54 bad rows  6 leaked" in out
    assert f"every fault, one a line: {report}" in out


def test_a_clean_file_is_exit_code_0(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    corrupted.write_rows(tmp_path / "clean", 8, n_bad=0, size=IMAGE)
    assert main(["check-data", "clean/train.jsonl", "--eval_dataset_name", "clean/test.jsonl", "--workers", "1"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["clean"], "nothing is written unasked"
    out = capsys.readouterr().out
    assert "0 bad rows" in out
    assert out.splitlines()[-1].startswith("all is well: ")


def test_damage_in_the_middle_is_found_by_decoding(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random_pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(random_pixels).save("a.png")
    raw = bytearray(Path("a.png").read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    Path("a.png").write_bytes(raw)
    Path("rows.json").write_text(json.dumps([{"problem": "What?", "solution": 1, "image": "a.png"}]))
    assert main(["check-data", "rows.json", "--workers", "1"]) == 0
    assert main(["check-data", "rows.json", "--workers", "1", "--decode"]) == 1
    assert "rows.json:1: image" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp"])
def test_a_file_cut_anywhere_looks_cut_and_a_whole_one_does_not(tmp_path, suffix):
    random_pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(random_pixels).save(whole)
    assert not looks_cut(str(whole))
    raw = whole.read_bytes()
    for keep in (len(raw) // 4, len(raw) // 2, len(raw) - 20):
        cut = tmp_path / f"{keep}.{suffix}"
        cut.write_bytes(raw[:keep])
        assert looks_cut(str(cut)), keep
    padded = tmp_path / f"padded.{suffix}"
    padded.write_bytes(raw + b"\0" * 100)
    assert not looks_cut(str(padded))


def test_what_looks_cut_but_decodes_is_no_fault(tmp_path):
    """A JPEG without its end marker, but all of its pixels: Pillow takes it, so training does."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (64, 64), "gray").save(path)
    path.write_bytes(path.read_bytes()[:-2] + b"\0" * 5000)
    assert looks_cut(str(path))
    [row] = RowCheck().many([Record("What?", 1, (str(path),), source="a.json:1")])
    assert row.faults == ()


def test_all_bad_images_of_a_row_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back: the check sets it
    sizes = {"small": (4, 40), "slim": (28 * 201, 28), "large": (500, 500), "good": (64, 64)}
    for name, size in sizes.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    paths = tuple(str(tmp_path / f"{name}.png") for name in sizes)
    check = RowCheck(max_image_pixels=200_000)
    [row] = check.many([Record("Which?", 1, paths, source="a.json:7")])
    reported = [fault.message for fault in row.faults]
    assert [message.partition(".png")[0].rpartition("/")[2] for message in reported] == [
        "small",
        "slim",
        "large",
    ]
    assert all(message.startswith("a.json:7: image '") for message in reported)


def test_duplicates_are_reported_by_content_not_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, color in (("a.png", "red"), ("b.png", "lime"), ("c.png", "blue")):
        Image.new("RGB", (64, 64), color).save(name)
    shutil.copy("a.png", "copy.png")
    assert Path("b.png").stat().st_size == Path("a.png").stat().st_size, "only the content tells them apart"
    rows = [
        ("What?", "copy.png"),
        ("What?", "b.png"),
        ("Why?", "a.png"),
        ("Who?", None),
        (" What?\n", "a.png"),
    ]
    for name, chosen in (("train.jsonl", rows), ("test.jsonl", [("What?", "a.png"), ("Who?", None)])):
        lines = [{"problem": problem, "solution": 1, "image": image} for problem, image in chosen]
        Path(name).write_text("\n".join(map(json.dumps, lines)))
    assert (
        main(
            [
                "check-data",
                "train.jsonl",
                "--eval_dataset_name",
                "test.jsonl",
                "--workers",
                "1",
                "--report",
                "leaks.txt",
            ]
        )
        == 1
    )
    reported = Path("leaks.txt").read_text()
    assert [line.partition(": ")[0] for line in reported.splitlines()] == [f"train.jsonl:{n}" for n in (1, 4, 5)]
    assert "same question and images as test.jsonl:1" in reported
    assert "same question as test.jsonl:2" in reported
    out = capsys.readouterr().out
    assert "5 rows          4 images        0 bad rows  3 leaked" in out
    assert out.splitlines()[-1] == "not well yet: 3 rows to take out of one of the two files"


def test_a_report_replaces_no_file_that_is_not_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"problem": "What?"}\n')
    command = ["check-data", "rows.jsonl", "--workers", "1", "--report"]
    assert main([*command, "rows.jsonl"]) == 2
    assert "rows.jsonl is there and no report of a check" in capsys.readouterr().err
    assert Path("rows.jsonl").read_text() == '{"problem": "What?"}\n'
    assert main([*command, "told.txt"]) == main([*command, "told.txt"]) == 1
    assert Path("told.txt").read_text().count("\n") == 1
    out = capsys.readouterr().out
    assert "1 row           0 images        1 bad row" in out
    assert out.splitlines()[-1] == "not well yet: 1 row to mend or leave out (on_bad_sample: skip)"


def test_a_broken_list_is_a_fault_and_the_next_file_is_still_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text('[{"problem": "What?", "solution": 1},\n{"problem": "What?", "solution": 2')
    Path("b.jsonl").write_text('{"problem": "What?"}\n')
    Path("mixture.yaml").write_text("datasets:\n- json_path: a.json\n- json_path: b.jsonl\n")
    assert main(["check-data", "mixture.yaml", "--workers", "1"]) == 1
    out = capsys.readouterr().out
    assert "a.json:2: not JSON" in out
    assert "b.jsonl:1: no 'solution'" in out


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["none.jsonl"], "none.jsonl: no such data file"),
        (["rows.jsonl", "--max_steps", "3"], "--max_steps: only a recipe's keys"),
        (["typo.yaml"], "typo.yaml:2: unknown setting 'colums'; did you mean 'columns'?"),
        (["mine"], "mine: a folder; give a YAML: mine/config.yaml"),
        (["."], ".: a folder; give a .json, .jsonl, .parquet, .csv, .tsv or .yaml file: rows.jsonl"),
    ],
)
def test_what_cannot_be_checked_is_exit_code_2(tmp_path, monkeypatch, capsys, arguments, reported):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"problem": "What?", "solution": 1}\n')
    Path("typo.yaml").write_text("dataset_name: rows.jsonl\ncolums: {problem: q}\n")
    Path("mine").mkdir()
    Path("mine/config.yaml").write_text("dataset_name: rows.jsonl\n")
    assert main(["check-data", *arguments]) == 2
    assert reported in capsys.readouterr().err


def _die_on_7(chunk):
    if 7 in chunk:
        import os

        os._exit(3)
    return sum(chunk)


def test_a_worker_that_dies_is_named_with_what_it_had():
    """Decoders can crash the process: the check must say over which rows, and not hang."""
    with pytest.raises(WorkerDied) as caught:
        list(in_order(_die_on_7, iter([[1, 2], [3], [7, 8]]), workers=2))
    assert 7 in caught.value.chunk or caught.value.chunk in ([1, 2], [3])


def test_reading_ahead_is_bounded():
    drawn = 0

    def stream():
        nonlocal drawn
        for number in range(1000):
            drawn += 1
            yield [number]

    results = in_order(sum, stream(), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert drawn <= 12
    results.close()
