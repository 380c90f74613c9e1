"""From the wheel alone, outside the checkout: the demo from `omnirl init` to the report."""

import json
import os
import re
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from launching import finish, start

ROOT = Path(__file__).parents[2]
SHORT = [
    "--max_steps", "1", "--per_device_train_batch_size", "8", "--eval_rows", "7", "--logging_steps", "1",
    "--draw_shapes", "{task: mixed, train: 28, test: 14, seed: 0}",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a venv that has the wheel, and what it needs from this environment, but no checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    kept = (
        "omnirl_core",
        "omnirl_tools",
        "recipes",
        "accelerate_configs",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "NOTICE",
    )
    for name in tracked:
        if name.startswith(kept) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=120)
    shutil.rmtree(source)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    own = next((folder / "venv" / "lib").glob("python*/site-packages"))
    install = [
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
        "--target",
        str(own),
        str(wheel),
    ]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=120)
    # packages of this environment by their folders, not by its .pth files, which would bring the checkout
    (own / "others.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder


def omnirl(place: Path, *words: str) -> str:
    """What the installed command prints; it runs outside of the checkout, and sees none."""
    return printed(place, "omnirl_tools.cli", *words)


def printed(place: Path, module: str, *words: str) -> str:
    """What `python -m module` of the venv prints."""
    given = {"PATH": os.environ["PATH"], "HOME": str(place), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [str(place / "venv" / "bin" / "python"), "-m", module, *words]
    code, said = finish(start(command, place, given), 400)
    assert code == 0, said[-4000:]
    return said


def test_the_packages_are_the_wheels(place):
    code = (
        "import omnirl_core as c, omnirl_tools.recipes as r; print(c.__file__, r.FOLDER, r.accelerate_config('zero3'))"
    )
    found = subprocess.run(
        [place / "venv" / "bin" / "python", "-c", code], cwd=place, capture_output=True, text=True, check=True
    ).stdout.split()
    assert all(Path(path).is_relative_to(place / "venv") for path in found)
    shipped = Path(found[1])
    assert {"grpo.py", "sft.py", "evaluate.py", "mixed", "rewards"} <= {path.name for path in shipped.iterdir()}


@pytest.mark.slow
def test_the_demo_goes_from_init_to_the_report(place):
    assert "omnirl train demo/config.yaml" in omnirl(place, "init", "demo")
    steps = re.findall(r"^\d+\. `omnirl (.+)`$", (place / "demo" / "README.md").read_text(), re.MULTILINE)
    assert [step.split()[0] for step in steps] == ["check-data", "check-rewards", "train", "evaluate", "report"]
    for step in steps:
        name, *words = step.split()
        short = {"train": SHORT, "evaluate": ["--eval_rows", "7"], "report": []}
        said = omnirl(place, name, *words, *short.get(name, SHORT[-2:]))
        if name == "train":
            assert "95 % interval" in said
            assert said.split()[-1] == "demo/run/completions.html"
    assert (place / "demo" / "run" / "curves.png").stat().st_size > 1000
    assert list((place / "demo" / "run" / "evaluation").glob("*/metrics.json"))


@pytest.mark.repeat
def test_accelerate_launches_the_recipe_as_a_module_on_two_processes(place):
    """The launch that the command stands for, as a user's own script would write it."""
    omnirl(place, "init", "two")
    [config] = (place / "venv" / "lib").glob("python*/site-packages/**/accelerate_configs/ddp.yaml")
    processes = ["--config_file", str(config), "--num_processes", "2", "--main_process_port", "0"]
    recipe = ["--module", "omnirl_tools.recipes.grpo", "--config", "two/config.yaml", *SHORT]
    said = printed(place, "accelerate.commands.launch", *processes, *recipe)
    assert "95 % interval" in said
    facts = json.loads((place / "two" / "run" / "run.json").read_text())
    assert (facts["processes"], facts["engine"]) == (2, "ddp")
    lines = [json.loads(line) for line in (place / "two" / "run" / "metrics.jsonl").open()]
    assert {line["step"] for line in lines} == {1}
    assert (place / "two" / "run" / "model.safetensors").is_file()
