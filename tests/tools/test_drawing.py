"""`draw_shapes` draws what the YAML itself names, and nothing that is there is ever replaced."""

import hashlib
import json
from pathlib import Path

import pytest
from tiny_models import DEMO

from omnirl_core.config import parse
from omnirl_core.data import DataError
from omnirl_core.shapes import write_dataset
from omnirl_core.yaml_loader import ConfigError
from omnirl_tools.checks.path_checks import file_faults
from omnirl_tools.cli import main
from omnirl_tools.commands.config_file import drawn_temporarily
from omnirl_tools.drawing import OWNER, draw_missing
from omnirl_tools.sft import parse_sft
from recipes.evaluate import main as evaluate
from recipes.grpo import main as grpo
from recipes.text_only import prepare_facts as facts
from recipes.text_only import prepare_smollm2 as smollm2

ROWS = '[{"problem": "Color?", "solution": "red"}, {"problem": "Sum?", "solution": 3}]'


def tree(folder: Path) -> dict[str, str]:
    """File -> its SHA-256."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """A working folder with a demo's YAML and data of the user's own."""
    monkeypatch.chdir(tmp_path)
    Path("demo.yaml").write_text(DEMO)
    Path("rewards.yaml").write_text("rewards:\n- {name: think_format, weight: 0.2}\n- {name: exact}\n")
    Path("mydata/train").mkdir(parents=True)
    for name in ("train.json", "test.json", "train/0000000-0.png"):
        Path("mydata", name).write_text(ROWS)
    return tmp_path


TYPO = ["--dataset_name", "mydata/trian.json"]


@pytest.mark.parametrize(
    "start",
    [
        lambda argv: main(["check-data", "demo.yaml", *argv, "--workers", "1"]),
        lambda argv: main(["check-rewards", "demo.yaml", *argv, "--workers", "1"]),
        lambda argv: grpo(["--config", "demo.yaml", *argv]),
        lambda argv: parse_sft(["--config", "demo.yaml", *argv]),
        lambda argv: evaluate(["--config", "demo.yaml", "--eval_dataset_name", argv[1]]),
    ],
    ids=["check-data", "check-rewards", "grpo", "sft", "evaluate"],
)
def test_a_misspelt_file_is_an_error_with_its_neighbour_and_nothing_is_written(mine, capsys, start):
    before = tree(mine)
    try:
        assert start(TYPO) == 2
        reported = capsys.readouterr().err
    except ConfigError as error:
        reported = str(error)
    assert "dataset_name: mydata/trian.json: no such data file" in reported
    assert "did you mean 'mydata/train.json'?" in reported
    assert tree(mine) == before


def test_a_yaml_that_kept_draw_shapes_draws_nothing_among_other_files(mine):
    Path("demo.yaml").write_text(DEMO.replace("data/shapes/train", "mydata/trian"))
    before = tree(mine)
    with pytest.raises(ConfigError, match=r"mydata, which holds other files; did you mean 'mydata/train\.json'"):
        parse(["--config", "demo.yaml"], checks=[file_faults])
    data, *_ = parse(["--config", "demo.yaml"])
    with pytest.raises(DataError, match="remove draw_shapes"):
        draw_missing(data)
    assert tree(mine) == before


def test_the_demo_draws_its_own_names_once(mine):
    Path("demo.yaml").write_text(DEMO.replace("train.json", "rows.json").replace("text_only", "mixed"))
    data, *_ = parse(["--config", "demo.yaml"], checks=[file_faults])
    draw_missing(data)
    drawn = tree(mine / "data")
    assert {name.split("/")[1] for name in drawn} == {OWNER, "rows.json", "rows", "test.json", "test"}
    assert len(json.loads(Path("data/shapes/rows.json").read_text())) == 6
    Path("data/shapes/test.json").unlink()
    draw_missing(data)
    assert tree(mine / "data") == drawn


@pytest.mark.parametrize("command", ["check-data", "check-rewards"])
def test_a_check_of_a_demo_that_is_not_drawn_yet_works_and_draws_nothing(mine, command, capsys):
    before = tree(mine / "mydata")
    assert main([command, "demo.yaml", "--workers", "1"]) == 0
    assert not Path("data").exists()
    assert tree(mine / "mydata") == before
    assert "6 rows" in capsys.readouterr().out


def test_rows_drawn_temporarily_are_gone_afterwards(mine):
    data, *_ = parse(["--config", "demo.yaml"])
    with drawn_temporarily(data) as moved:
        assert len(json.loads(Path(moved.dataset_name).read_text())) == 6
    assert not Path(moved.dataset_name).exists()
    assert data.dataset_name == "data/shapes/train.json"


def test_generators_leave_alone_what_is_there(mine):
    before = tree(mine)
    with pytest.raises(FileExistsError, match=r"train/0000000-0\.png is there and holds something else"):
        write_dataset("mydata", "mixed", 7, seed=0)
    with pytest.raises(FileExistsError, match=r"train\.json is there .* it is not overwritten"):
        facts.write_facts("mydata", 3)
    for module in (facts, smollm2):
        with pytest.raises(SystemExit, match="2"):
            module.main(["--out", "mydata"])
    assert tree(mine) == before
