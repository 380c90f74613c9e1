"""Answer a recipe's held-out samples with any model and judge the answers by the recipe's rewards.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/evaluate.py \\
        --config recipes/mixed/demo.yaml --model_name_or_path outputs/mixed_demo

The model is a hub id, a run's folder, a checkpoint or a LoRA adapter; `--completions FILE` judges answers that
are there already. docs/evaluation.md says what is written and how REC's protocols are chosen.
"""

from omnirl_core import launch

if __name__ == "__main__":
    launch.before_imports()  # they take seconds

from typing import Any

from transformers.utils.logging import disable_progress_bar

from omnirl_tools.evaluate import Evaluation, answers, judged, read_rows, start, write
from omnirl_tools.evaluate_arguments import parse_evaluation


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the evaluation that `argv` (default: the command line) names; return what metrics.json holds."""
    # Arguments: a YAML's keys, and what the command line overrides
    arguments, model_config = parse_evaluation(argv, check_files=True)
    disable_progress_bar()

    # Data and rewards, or the fixed rules of a protocol
    evaluation = Evaluation(arguments, model_config, start(arguments))
    read_rows(evaluation)

    # Answers: read from a file, continued where an earlier start stopped, or made by the model
    generations = answers(evaluation)

    # Judge, each process its share
    lines, results = judged(evaluation, generations)

    # Report: predictions.jsonl, metrics.json, completions.html
    metrics: dict[str, Any] = {}
    if evaluation.state.is_main_process:
        metrics = write(evaluation, lines, results)
    evaluation.state.wait_for_everyone()
    return metrics


if __name__ == "__main__":
    launch.start(main)
