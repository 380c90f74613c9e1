"""Commands end in lines that a person can act on: no traceback unless `--debug` asks for it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from omnirl_core import __version__, launch
from omnirl_core.yaml_loader import ConfigError
from omnirl_tools.cli import main
from omnirl_tools.commands import compare
from recipes import grpo

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_debug(monkeypatch):
    monkeypatch.setenv(launch.DEBUG, "")


def reported(monkeypatch, capsys, *argv: str, code: int = 1) -> str:
    """What `recipes/grpo.py` prints on stderr with these arguments."""
    monkeypatch.setattr(sys, "argv", ["grpo.py", *argv])
    with pytest.raises(SystemExit) as end:
        launch.start(grpo.main)
    assert end.value.code == code
    return capsys.readouterr().err


@pytest.fixture
def with_image(tmp_path) -> str:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    rows = [{"problem": "What?", "solution": "red", "image": "a.png"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return str(tmp_path / "rows.json")


def options(data: str, model: str, folder: Path) -> list[str]:
    rewards = str(ROOT / "recipes/text_only/rewards.yaml")
    return [
        "--dataset_name", data, "--model_name_or_path", model, "--rewards", rewards,
        "--output_dir", str(folder / "run"), "--use_cpu", "--bf16", "false",
    ]  # fmt: skip


def test_a_language_model_that_is_given_images_is_one_message(
    with_image, tiny_text_checkpoint, tmp_path, monkeypatch, capsys
):
    given = options(with_image, tiny_text_checkpoint, tmp_path)
    err = reported(monkeypatch, capsys, *given)
    assert "error: the data has samples with images, and the model is a language model" in err
    assert "Traceback" not in err
    monkeypatch.setattr(sys, "argv", ["grpo.py", *given, "--debug"])
    with pytest.raises(ValueError, match="language model"):
        launch.start(grpo.main)


def test_an_unknown_architecture_is_reported_before_anything_is_loaded(with_image, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen9_vl"}')
    with pytest.raises(ConfigError) as error:
        grpo.main(options(with_image, str(tmp_path / "model"), tmp_path))
    [fault] = error.value.faults
    assert "config.json says model_type 'qwen9_vl', which transformers" in fault
    assert "does not know; did you mean 'qwen" in fault


def test_a_missing_config_is_the_only_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    lines = reported(monkeypatch, capsys, "--config", "recipes/mixed/demmo.yaml", code=2).splitlines()
    assert len(lines) == 1
    assert "recipes/mixed/demmo.yaml: no such config file" in lines[0]
    assert "did you mean 'recipes/mixed/demo.yaml'?" in lines[0]


def test_debug_with_a_value_stays_transformers_own():
    argv = ["grpo.py", "--debug", "underflow_overflow", "--max_steps", "1", "--debug"]
    launch.take_debug(argv)
    assert argv == ["grpo.py", "--debug", "underflow_overflow", "--max_steps", "1"]
    assert os.environ[launch.DEBUG] == "1"


def test_ctrl_c_before_training_says_how_to_go_on(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(grpo, "main", interrupted)
    err = reported(monkeypatch, capsys, code=130)
    assert "Stopped by Ctrl-C" in err
    assert "--resume_from_checkpoint auto" in err


@pytest.mark.parametrize(
    ("error", "code", "err"),
    [
        (BrokenPipeError(), 0, ""),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (
            PermissionError(13, "Permission denied", "a.json"),
            2,
            "PermissionError: [Errno 13] Permission denied: 'a.json'",
        ),
    ],
)
def test_a_subcommand_ends_without_a_traceback(monkeypatch, capfd, error, code, err):
    def raises(arguments):
        raise error

    monkeypatch.setattr(compare, "run", raises)
    monkeypatch.setattr(os, "dup2", lambda *_: None)  # the test's own output stays open
    assert main(["compare", "a", "b"]) == code
    assert err in capfd.readouterr().err


def test_a_reader_that_closes_early_sees_no_traceback(tmp_path):
    """`omnirl check-data ... | head -n 0`, with more output than a pipe holds."""
    rows = [json.dumps({"problem": "?" * 20_000, "solutionn": k}) for k in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    command = [
        sys.executable,
        "-m",
        "omnirl_tools.cli",
        "check-data",
        str(tmp_path / "rows.jsonl"),
        "--workers",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert process.wait(60) in (0, 1)


def test_version_and_both_spellings_of_an_option(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"omnirl {__version__}\n"
    assert (
        main(["report", "no/such/run", "--box-space", "pixels"])
        == main(["report", "no/such/run", "--box_space=pixels"])
        == 2
    )


def test_help_and_a_check_of_rows_import_neither_torch_nor_trl(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"problem": "What?", "solution": 1}\n' * 10)
    code = (
        "import sys\nfrom omnirl_tools.cli import main\n"
        "try:\n    code = main(sys.argv[1:])\nexcept SystemExit as end:\n    code = end.code\n"
        "print(code, *sorted({'torch', 'trl', 'transformers'} & set(sys.modules)))"
    )
    for argv in (["--help"], ["check-data", str(tmp_path / "rows.jsonl"), "--workers", "1"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *argv], capture_output=True, text=True, cwd=ROOT, timeout=120
        )
        assert done.stdout.splitlines()[-1] == "0", done.stdout + done.stderr


SCRIPT = """
import signal, sys, time
def stop(number, frame):
    print("saved", flush=True)
    raise SystemExit(75)
signal.signal(signal.SIGINT, stop)
print("ready", flush=True)
time.sleep(60)
"""


def test_the_launcher_waits_for_a_run_that_ctrl_c_stops_and_adds_no_traceback(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    config = str(ROOT / "accelerate_configs/cpu.yaml")
    command = [
        sys.executable,
        "-m",
        "omnirl_core.launch",
        "--config_file",
        config,
        str(tmp_path / "script.py"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, cwd=ROOT
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        printed, _ = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert printed == "saved\n"
    assert process.returncode == 75


@pytest.mark.parametrize(("given", "wanted"), [(None, "passive"), ("active", "active")])
def test_threads_of_a_run_sleep_while_they_wait_unless_the_environment_says_otherwise(monkeypatch, given, wanted):
    """Set before torch is imported: torch's OpenMP reads it then."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "argv", ["grpo.py"])
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    launch.before_imports()
    assert os.environ["OMP_WAIT_POLICY"] == wanted
    for recipe in ("grpo", "sft", "evaluate"):
        code = (ROOT / "recipes" / f"{recipe}.py").read_text()
        before, _, after = code.partition("launch.before_imports()")
        assert "\nfrom omnirl_core import launch\n" in before
        assert before.count("\nfrom ") == 1, "what loads torch comes after it"
        assert "import" in after
