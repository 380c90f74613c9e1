"""Run a recipe script on a config, from the repository or from an installed package alike.

  omnirl train CONFIG        recipes/grpo.py: GRPO
  omnirl sft CONFIG          recipes/sft.py: a warm start by imitation
  omnirl evaluate CONFIG     recipes/evaluate.py: judge a model, a checkpoint or a file of answers

Each key of CONFIG can be overridden: omnirl train CONFIG --max_steps 20. Paths in CONFIG start at the folder that the
command runs in. One process on one GPU, or on the CPU; more of them with a config of accelerate_configs, by its name
or as a file of your own:

  omnirl train CONFIG --accelerate_config zero3 --num_processes 8

which is accelerate launch --config_file zero3.yaml ... --module omnirl_tools.recipes.grpo --config CONFIG.
All settings: python -m omnirl_tools.recipes.grpo --help (or .sft, .evaluate).
"""

import argparse
import os
import runpy
import sys
from pathlib import Path

from omnirl_core import launch
from omnirl_core.types import nearest_file
from omnirl_tools.commands import CannotRun
from omnirl_tools.recipes import accelerate_config

TAKES_OVERRIDES = True
SCRIPTS = {"train": "grpo", "sft": "sft", "evaluate": "evaluate"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="CONFIG", help="a recipe's YAML; also as --config CONFIG")
    parser.add_argument("--config", dest="config", help=argparse.SUPPRESS)
    parser.add_argument("--accelerate_config", help="processes: ddp, zero2, zero3, ..., or a file")
    parser.add_argument("--num_processes", type=int, help="GPUs; with --accelerate_config")


def run(arguments: argparse.Namespace) -> int:
    module = f"omnirl_tools.recipes.{SCRIPTS[arguments.command]}"
    config = _config(arguments)
    words = [*(["--config", config] if config else []), *arguments.overrides]
    if arguments.accelerate_config is None:
        if arguments.num_processes is not None:
            raise CannotRun("--num_processes wants --accelerate_config, which says what they share: ddp, zero3")
        _run_here(module, words)
    else:
        _run_launched(module, words, arguments.accelerate_config, arguments.num_processes)
    return 0


def _config(arguments: argparse.Namespace) -> str | None:
    """None where the command line has all settings itself."""
    if arguments.source is None and arguments.config is None and arguments.overrides:
        return None
    if (arguments.source is None) == (arguments.config is None):
        raise CannotRun(f"give one config: omnirl {arguments.command} CONFIG, then what overrides it")
    config: str = arguments.source or arguments.config
    if os.path.isdir(config):
        inside = Path(config, "config.yaml")
        raise CannotRun(f"{config} is a folder; give a YAML" + f": {inside}" * inside.is_file())
    if not os.path.isfile(config):
        raise CannotRun(f"{config}: no such file{nearest_file(config)}")
    return config


def _run_here(module: str, words: list[str]) -> None:
    """In this process, as `python -m` does it: the script's own message and exit code where it fails."""
    # with several GPUs in sight, transformers' Trainer would split each batch among them in one process
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    given = sys.argv
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.argv = given


def _run_launched(module: str, words: list[str], name: str, n: int | None) -> None:
    try:
        path = accelerate_config(name)
    except ValueError as error:
        raise CannotRun(f"--accelerate_config {error}") from None
    processes = [] if n is None else ["--num_processes", str(n)]
    launch.main(["--config_file", str(path), *processes, "--module", module, *words])
