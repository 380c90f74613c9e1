"""A run over data with bad rows: the same run as over the data without them, on every process."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from forked import environment, python
from PIL import Image
from safetensors.torch import load_file

from omnirl_core.config import DataArguments
from omnirl_core.data import DataError
from omnirl_core.shapes import tiny_policy, write_dataset
from omnirl_tools.samples import agreed_bad_rows, read_rows
from recipes.grpo import main

ROOT = Path(__file__).parents[2]
TWO_PROCESSES = """
import json, os, sys
from pathlib import Path
from accelerate import PartialState
from omnirl_core.data import DataError, images
from omnirl_tools.samples import agreed_bad_rows

state = PartialState(cpu=True)
assert state.num_processes == 2
real = images.open_image
def flaky(path, row_id=None):  # an image that only one of the two cannot read
    if path.endswith("img/3.png"):
        raise DataError(f"image {path!r} cannot be read: Input/output error")
    return real(path, row_id)
if state.process_index == 1:
    images.open_image = flaky
folder = Path(sys.argv[1])
bad = agreed_bad_rows(str(folder / "rows.jsonl"), None)
(folder / f"bad_{state.process_index}.json").write_text(json.dumps(bad))
try:
    agreed_bad_rows(str(folder / ("gone.jsonl" if state.process_index else "rows.jsonl")), None)
except DataError as error:
    (folder / f"error_{state.process_index}.txt").write_text(str(error))
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, Path]:
    """(rows with bad ones among them, the same rows without)."""
    folder = tmp_path_factory.mktemp("drawn")
    good = write_dataset(folder, "mixed", 24, seed=0)
    rows = json.loads(Path(good).read_text())
    (folder / "half.png").write_bytes(next((folder / "train").glob("*.png")).read_bytes()[:60])
    bad = [
        {"problem": "Q", "solution": "a", "image": "half.png"},
        {"problem": "Q", "solution": "a", "image": "no.png"},
    ]
    bad += [{"problem": " ", "solution": 1}, {"solution": 1}]
    mixed = [row for place, good_row in enumerate(rows) for row in [*bad[place % 5 : place % 5 + 1], good_row]]
    (folder / "mixed.json").write_text(json.dumps(mixed))
    assert len(mixed) > len(rows) + 15
    return folder / "mixed.json", Path(good)


def trained(folder: Path, rows: Path, *more: str) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """Two steps of the tiny policy: its parameters, and its completions without row ids."""
    arguments = [
        "--config", str(ROOT / "recipes/mixed/demo.yaml"), "--rewards", str(ROOT / "recipes/mixed/rewards.yaml"),
        "--output_dir", str(folder), "--dataset_name", str(rows), "--max_steps", "2", "--num_generations", "4",
        "--per_device_train_batch_size", "16", "--max_completion_length", "12", "--eval_dataset_name", str(rows),
        "--eval_rows", "2", "--shared_prefix", "off", *more,
    ]  # fmt: skip
    main(arguments)
    lines = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    return load_file(folder / "model.safetensors"), [
        {name: value for name, value in line.items() if name != "row_id"} for line in lines
    ]


@pytest.mark.slow
def test_a_run_that_skips_is_the_run_without_the_bad_rows(drawn, tmp_path):
    mixed, good = drawn
    skipped, said = trained(tmp_path / "skipped", mixed, "--on_bad_sample", "skip")
    plain, said_plainly = trained(tmp_path / "plain", good)
    assert said == said_plainly
    assert len(said) == 32
    assert skipped.keys() == plain.keys()
    assert all(torch.equal(skipped[name], plain[name]) for name in plain)
    report = (tmp_path / "skipped" / "bad_rows.txt").read_text().splitlines()
    assert len(report) == len(json.loads(mixed.read_text())) - 24
    assert all(line.startswith(f"{mixed}:1") for line in report)
    assert not (tmp_path / "plain" / "bad_rows.txt").exists()


def model_of_bad_weights(folder: Path) -> str:
    """A model's folder that cannot be loaded, but is one as far as its files' names tell."""
    shutil.copytree(tiny_policy(), folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    return str(folder)


def test_without_skip_the_run_ends_before_a_model_is_loaded(drawn, tmp_path):
    mixed, _ = drawn
    with pytest.raises(DataError, match=r"rows are bad; on_bad_sample: skip drops them"):
        trained(tmp_path, mixed, "--model_name_or_path", model_of_bad_weights(tmp_path / "model"))


def test_settings_reach_the_reader(tmp_path):
    (tmp_path / "root").mkdir()
    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")
    rows = tmp_path / "root" / "rows.jsonl"
    rows.write_text(json.dumps({"problem": "Q", "solution": 1, "image": "../a.png"}))

    def read(**settings):
        return read_rows(DataArguments(str(rows), "r.yaml", **settings), str(rows), 0, tmp_path / "bad.txt")

    with pytest.raises(DataError, match="lies outside of image_root"):
        read()
    assert len(read(allow_outside_image_root=True)) == 1
    limit = Image.MAX_IMAGE_PIXELS
    try:
        with pytest.raises(DataError, match="exceeds limit of 1000 pixels"):
            read(allow_outside_image_root=True, max_image_pixels=1000)
        assert len(read(allow_outside_image_root=True, max_image_pixels=1000, check_images="exists")) == 1
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    with pytest.raises(DataError, match="no good rows"):
        read(on_bad_sample="skip")
    assert "lies outside" in (tmp_path / "bad.txt").read_text()
    assert len(read(on_bad_sample="skip", allow_outside_image_root=True)) == 1
    assert not (tmp_path / "bad.txt").exists()


def test_a_file_that_breaks_off_is_an_error_here_too(tmp_path):
    (tmp_path / "a.json").write_text('[{"problem": "Q", "solution": 1}, {')
    with pytest.raises(DataError, match=r"a\.json:1: not JSON"):
        agreed_bad_rows(str(tmp_path / "a.json"), None)


@pytest.mark.slow
def test_two_processes_agree_on_what_one_of_them_cannot_read(tmp_path):
    (tmp_path / "img").mkdir()
    for i in range(10):
        Image.new("RGB", (8, 8)).save(tmp_path / "img" / f"{i}.png")
    lines = [json.dumps({"problem": "Q", "solution": i, "image": f"img/{i}.png"}) for i in range(10)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines[:5], "broken", *lines[5:]]))
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    command = [python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), str(tmp_path)], cwd=ROOT, timeout=240, capture_output=True, text=True,
        env=environment(PYTHONPATH=str(ROOT)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    bad = [json.loads((tmp_path / f"bad_{k}.json").read_text()) for k in range(2)]
    assert bad[0] == bad[1]
    assert sorted(bad[0]) == [f"{tmp_path}/rows.jsonl:4", f"{tmp_path}/rows.jsonl:6"]
    errors = [(tmp_path / f"error_{k}.txt").read_text() for k in range(2)]
    assert errors[0] == errors[1]
    assert "no such data file" in errors[0]
