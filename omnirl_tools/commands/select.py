"""The samples that a policy solves now and then, as data to train on: neither always nor never right.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/evaluate.py --config CONFIG \\
        --eval_dataset_name TRAIN.json --num_samples 8 --eval_temperature 1.0
    omnirl select outputs/run/evaluation/MODEL data/selected.yaml

RATES is the pass_rates.jsonl of such an evaluation, or its folder. OUTPUT is a mixture, the `dataset_name` of a run;
the samples lie beside it as JSONL, with their `pass_rate`.
"""

import argparse
from pathlib import Path

from omnirl_core.types import nearest_file
from omnirl_tools.commands import CannotRun
from omnirl_tools.evaluation.lines import read_lines
from omnirl_tools.evaluation.pass_rates import histogram, write_mixture

FILE = "pass_rates.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rates", metavar="RATES", help=f"{FILE}, or the folder of an evaluation")
    parser.add_argument("output", metavar="OUTPUT", help="the mixture to write, a .yaml file")
    parser.add_argument("--low", type=float, default=0.05, help="least pass rate (0.05)")
    parser.add_argument("--high", type=float, default=0.95, help="most pass rate (0.95)")
    parser.add_argument("--curriculum", action="store_true", help="train in the order of the pass rates, easy to hard")


def run(arguments: argparse.Namespace) -> int:
    source, output = Path(arguments.rates), Path(arguments.output)
    source = source / FILE if source.is_dir() else source
    rows = [
        row for row in read_lines(source) if isinstance(rate := row.get("pass_rate"), int | float) and 0 <= rate <= 1
    ]
    if not rows:
        hint = nearest_file(arguments.rates)
        raise CannotRun(f"{source}: no pass rates{hint}; evaluate with --num_samples 8 --eval_temperature 1.0")
    if output.suffix not in (".yaml", ".yml"):
        raise CannotRun(f"{output} is no .yaml file; name the mixture to write")
    if there := [str(path) for path in (output, output.with_suffix(".jsonl")) if path.exists()]:
        raise CannotRun(f"{' and '.join(there)}: there already; name another file, or remove it")
    low, high = arguments.low, arguments.high
    kept = [row for row in rows if low <= row["pass_rate"] <= high]
    print(f"Samples by pass rate; * within {low:g} .. {high:g}\n")
    print(histogram([row["pass_rate"] for row in rows], low, high))
    if not kept:
        raise CannotRun(f"no sample has a pass rate within {low:g} .. {high:g}; widen --low and --high")
    print(f"\n{len(kept)} of {len(rows)} samples kept\n\nLook at")
    for path in write_mixture(kept, output, arguments.curriculum):
        print(f"  {path}")
    return 0
