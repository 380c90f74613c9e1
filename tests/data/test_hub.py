"""Hub data sets to records: from a local folder in place of the hub; nothing is fetched."""

import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from omnirl_core.data import DataError, load_records, open_image
from omnirl_core.data.sources import find_bad_rows


def mixture(folder: Path, text: str) -> str:
    (folder / "mix.yaml").write_text(text, encoding="utf-8")
    return str(folder / "mix.yaml")


def refusal(path, **options) -> list[str]:
    with pytest.raises(DataError) as error:
        load_records(path, **options)
    return str(error.value).splitlines()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A data set `org/name` that `datasets` finds without a hub: a folder of that name here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def write(columns, features=None, split="train"):
        folder = tmp_path / "org" / "name"
        folder.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")

    return write


def test_hub_rows_with_images_inside(hub, tmp_path, photographs):
    image = Image.fromarray(photographs["chelsea"])
    (tmp_path / "on_disk.png").write_bytes(b"")
    features = datasets.Features(
        {
            "problem": datasets.Value("string"),
            "solution": datasets.Sequence(datasets.Value("float64")),
            "images": datasets.Sequence(datasets.Image()),
            "level": datasets.ClassLabel(names=["easy", "hard"]),
        }
    )
    hub(
        {
            "problem": ["Q0", "<image>Q1<image>", "Q2", "Q3"],
            "solution": [[1.5], [2.0], None, []],
            "images": [[image], [image, image.rotate(90, expand=True)], None, []],
            "level": [0, 1, 1, 0],
        },
        features,
    )
    path = mixture(tmp_path, "datasets: [{hub: org/name, task: cats}]")
    records = load_records(path)
    assert [(r.problem, r.solution, len(r.images), r.source, r.extra["level"], r.task) for r in records] == [
        ("Q0", [1.5], 1, "org/name:1", 0, "cats"),
        ("<image>Q1<image>", [2.0], 2, "org/name:2", 1, "cats"),
        ("Q2", None, 0, "org/name:3", 1, "cats"),
        ("Q3", [], 0, "org/name:4", 0, "cats"),
    ]
    assert records[0].images[0] == records[1].images[0]
    assert np.array_equal(np.asarray(open_image(records[0].images[0])), photographs["chelsea"])
    assert np.array_equal(np.asarray(open_image(records[1].images[1])), np.rot90(photographs["chelsea"]))
    assert load_records(path) == records


def test_rows_of_two_splits_are_told_apart(hub, tmp_path):
    """A bad row is left out by its id: the row of the same number in the other split stays."""
    hub({"problem": ["Q0", ""], "solution": ["a", "b"]})
    hub({"problem": ["Q2", "Q3"], "solution": ["c", "d"]}, split="test")
    path = mixture(tmp_path, "datasets: [{hub: org/name}, {hub: org/name, split: test}]")
    assert [*find_bad_rows(path)] == ["org/name:2"]
    ids = [record.source for record in load_records(path, on_bad_sample="skip")]
    assert ids == ["org/name:1", "org/name:test:1", "org/name:test:2"]


def test_hub_rows_with_paths_splits_and_samples(hub, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    columns = {"problem": [f"Q{i}" for i in range(5)], "solution": [*"abcde"], "image": ["a.png"] * 5}
    hub(columns)
    hub(columns, split="test")
    path = mixture(
        tmp_path,
        "datasets: [{hub: org/name, split: test, image_root: images, sampling_strategy: end:2},"
        " {hub: org/name, image_root: images, sampling_strategy: first:1}]",
    )
    assert [(r.solution, r.source) for r in load_records(path)] == [
        ("d", "org/name:test:4"),
        ("e", "org/name:test:5"),
        ("a", "org/name:1"),
    ]
    assert load_records(path)[0].images == (f"{tmp_path}/images/a.png",)


def test_bad_hub_rows_are_named(hub, tmp_path):
    hub({"problem": ["Q", None, "Q"], "solution": [1.0, 2.0, float("nan")]})
    path = mixture(tmp_path, "datasets: [{hub: org/name}]")
    first, second, _ = refusal(path)
    assert first == "org/name:2: problem must be a text that is not empty, found None"
    assert second == "org/name:3: NaN is no JSON value; write a number or null"
    hub({"problem": ["Q"], "solution": [1], "sound": [b"\0"]})
    assert refusal(path)[0].startswith("org/name:1: column 'sound' holds what JSON cannot")


def test_an_unknown_hub_split_is_named(hub, tmp_path):
    hub({"problem": ["Q"], "solution": [1]})
    (line,) = refusal(mixture(tmp_path, "datasets: [{hub: org/name, split: dev}]"))
    assert line.startswith("org/name: no such file, and not readable as a hub data set (split 'dev')")


def test_a_name_that_is_no_file_is_looked_for_on_the_hub_and_only_then(tmp_path):
    """Offline, in a process of its own: `datasets` reads HF_HUB_OFFLINE when it is imported."""
    script = (
        "import sys, omnirl_core.data as data\n"
        "try: data.load_records(sys.argv[1])\n"
        "except data.DataError as error: print(error)\n"
    )
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", script, "nobody/nothing"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith(
        "nobody/nothing: no such file, and not readable as a hub data set (split 'train')"
    ), done
    assert done.stdout.strip().endswith("fix the path (.json, .jsonl or .yaml) or the name")
