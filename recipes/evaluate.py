"""Answer a recipe's held-out samples with any model and judge the answers by the recipe's rewards.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/evaluate.py \\
        --config recipes/mixed/demo.yaml --model_name_or_path outputs/mixed_demo

The model is a hub id, a run's folder, a checkpoint or a LoRA adapter; `--completions FILE` judges answers that
are there already. docs/evaluation.md says what is written and how REC's protocols are chosen.
"""

from omnirl_core import launch

if __name__ == "__main__":
    launch.before_imports()  # they take seconds

import json
from pathlib import Path

from accelerate import PartialState
from trl import ModelConfig

from omnirl_core.rewards import load_rewards
from omnirl_core.types import JsonObject, Sample
from omnirl_tools.drawing import draw_missing
from omnirl_tools.evaluate import (
    RecData,
    decoding,
    evaluation_folder,
    facts_of,
    held_out_samples,
    join_processes,
    joined,
    load_model,
    precision,
    processor_of,
    rare_facts,
    resize_of,
    score,
    score_rec,
    share_of_open,
    show,
)
from omnirl_tools.evaluate_arguments import EvaluationArguments, parse_evaluation
from omnirl_tools.evaluation.generate import Generation, generate_batches
from omnirl_tools.evaluation.generations import GenerationLog, row_keys
from omnirl_tools.evaluation.lines import stream_keys, write_lines
from omnirl_tools.evaluation.metrics import add_overlap, figures, metrics
from omnirl_tools.evaluation.pass_rates import pass_rates
from omnirl_tools.evaluation.ready import ready_generations
from omnirl_tools.report import write_evaluation


def main(argv: list[str] | None = None) -> JsonObject:
    """Run the evaluation that `argv` (default: the command line) names; return what metrics.json holds."""
    # Arguments: a YAML's keys, and what the command line overrides
    arguments, model_args = parse_evaluation(argv, check_files=True)
    state = join_processes(arguments)
    folder = evaluation_folder(arguments, model_args)

    # Data and rewards; a protocol of REC brings both
    with state.main_process_first():
        draw_missing(arguments, ("test",))
    rec = RecData.load(arguments, model_args) if arguments.protocol else None
    rewards = [] if rec else load_rewards(str(arguments.rewards))
    samples = rec.samples if rec else held_out_samples(arguments, rewards, folder)
    samples = [sample for sample in samples for _ in range(arguments.num_samples)]

    # Answers: of a file, or the model's own
    if arguments.completions:
        generations = ready_generations(arguments.completions, samples, resize_of(arguments, model_args, rec, rewards))
    else:
        generations = generate(arguments, model_args, samples, folder, state)

    # Score: each process its share, or REC's rules on whole data sets
    lines, results = score_rec(arguments, rec, generations) if rec else (score(samples, generations, rewards), {})

    # Write and report; of several answers to each sample their pass rates, and the figures of the first ones
    facts: JsonObject = {}
    if state.is_main_process:
        written = []
        if arguments.num_samples > 1:
            written = [write_lines(folder / "pass_rates.jsonl", pass_rates(samples, lines))]
            samples, lines = samples[:: arguments.num_samples], lines[:: arguments.num_samples]
        overlap, found = add_overlap(lines, rewards), figures(lines)
        facts = facts_of(arguments, model_args, samples, rec) | metrics(lines, found) | rare_facts(overlap, results)
        paths = [write_lines(folder / "predictions.jsonl", lines), folder / "metrics.json"]
        paths[1].write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        show(facts, found, results, [*paths, *written, write_evaluation(folder)])
    state.wait_for_everyone()
    return facts


def generate(
    arguments: EvaluationArguments, model_args: ModelConfig, samples: list[Sample], folder: Path, state: PartialState
) -> list[Generation]:
    """The model's completion of each sample, on every process; what an earlier start has answered is kept."""
    if model_args.model_name_or_path is None:
        raise ValueError("no model to ask: set model_name_or_path, or completions for answers that are there")
    log = GenerationLog(folder, state.process_index)
    share = share_of_open(log, samples, decoding(arguments, model_args))
    if share:
        keys, streams = row_keys(samples), stream_keys(samples)
        batches = generate_batches(
            load_model(model_args, state.device),
            processor_of(arguments, model_args),
            [samples[index] for index in share],
            max_new_tokens=arguments.max_new_tokens,
            batch_size=arguments.per_device_eval_batch_size,
            temperature=arguments.eval_temperature,
            seed=arguments.seed,
            keys=[streams[index] for index in share],
            checkpoint_settings=arguments.rules is not None and arguments.rules.checkpoint_settings,
            template_kwargs=arguments.chat_template_kwargs,  # type: ignore[arg-type]  # a mapping since __post_init__
            progress=f"answering (share 1 of {state.num_processes})" if state.is_main_process else None,
        )
        with precision(arguments, state.device):
            for chosen, generations in batches:
                log.append([keys[share[k]] for k in chosen], generations)
    return joined(log, samples)


if __name__ == "__main__":
    launch.start(main)
