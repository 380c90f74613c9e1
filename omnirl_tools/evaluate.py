"""The parts of recipes/evaluate.py: rows, answers (made or read), judging and writing, each a function."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from transformers import AutoConfig
from trl import ModelConfig

from omnirl_core.boxes import default_space
from omnirl_core.data.dataset import routing
from omnirl_core.models import load_processor
from omnirl_core.rewards import Reward, load_rewards
from omnirl_core.rewards.coverage import Sample, coverage_error
from omnirl_core.rewards.grounding import box_reading
from omnirl_core.shapes import tiny_policy
from omnirl_core.shapes.dataset import draw_missing
from omnirl_core.trainer.completion_logging import prompt_text
from omnirl_core.types import JsonObject, Line
from omnirl_tools.evaluate_arguments import EvaluationArguments
from omnirl_tools.evaluation.generate import Generation, generate_batches, longest_first
from omnirl_tools.evaluation.generations import GenerationLog, prompt_hash, row_keys
from omnirl_tools.evaluation.grounding import PROTOCOLS, RecResult, choose_rows, judge, load_rec, rec_table
from omnirl_tools.evaluation.lines import stream_keys, write_lines
from omnirl_tools.evaluation.metrics import add_overlap, figure_table, figures, metrics, overlap_row
from omnirl_tools.evaluation.policy import adapter_base, load_trained
from omnirl_tools.evaluation.ready import qwen_resize, ready_generations
from omnirl_tools.evaluation.score import guarded_scores, score_rows
from omnirl_tools.model_settings import model_settings, quantization_settings
from omnirl_tools.report import write_evaluation
from omnirl_tools.run import PACKAGES
from omnirl_tools.samples import read_rows as checked_rows

SCORED_AT_ONCE = 256


@dataclass
class Evaluation:
    """One evaluation: its settings, its rows and what judges them."""

    arguments: EvaluationArguments
    model_config: ModelConfig
    state: PartialState
    rows: list[dict[str, Any]] = field(default_factory=list)
    rewards: list[Reward] = field(default_factory=list)
    datasets: dict[str, slice] = field(default_factory=dict)
    """Where each data set of a protocol stands in the rows."""
    space: str | None = None
    """Of the answered boxes, under a protocol."""

    @property
    def model(self) -> str | None:
        name = self.model_config.model_name_or_path
        return tiny_policy() if name == "tiny_policy" else name

    @property
    def rules(self) -> Any:
        return PROTOCOLS[self.arguments.protocol] if self.arguments.protocol else None

    @property
    def folder(self) -> Path:
        arguments = self.arguments
        if arguments.evaluation_dir:
            return Path(arguments.evaluation_dir)
        name = arguments.completions or self.model_config.model_name_or_path
        parts = [_short_name(str(name)), *([arguments.protocol] if arguments.protocol else [])]
        return Path(arguments.output_dir) / "evaluation" / "--".join(parts)


def start(arguments: EvaluationArguments) -> PartialState:
    """Join the other processes. Each holds a whole model, whatever the accelerate config shards in training."""
    for sharding in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"):
        os.environ[sharding] = "false"
    cpu = arguments.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU")
    # a process with short answers waits long for the others; torchrun ends the rest where one dies
    return PartialState(cpu=cpu, timeout=timedelta(days=2))


def read_rows(evaluation: Evaluation) -> None:
    """Fill in the rows and what judges them."""
    arguments, model = evaluation.arguments, evaluation.model
    with evaluation.state.main_process_first():
        draw_missing(arguments, ("test",))
    if evaluation.rules:
        files = arguments.annotations or [arguments.eval_dataset_name or ""]
        datasets = load_rec(files, arguments.image_root, arguments.rec_template)
        rows: list[dict[str, Any]] = []
        for name, chosen in choose_rows(evaluation.rules, datasets).items():
            chosen = chosen[: arguments.eval_rows]
            evaluation.datasets[name] = slice(len(rows), len(rows) + len(chosen))
            rows += chosen
        evaluation.space = arguments.box_space or evaluation.rules.space or _family_space(model)
    else:
        name = arguments.eval_dataset_name or ""
        dataset = checked_rows(arguments, name, arguments.seed, evaluation.folder / "bad_eval_rows.txt")
        evaluation.rewards = load_rewards(arguments.rewards or "")
        if evaluation.state.is_main_process:
            samples = [Sample(*row) for row in routing(dataset)]
            if error := coverage_error(samples, evaluation.rewards):
                print(f"Warning: {error}", file=sys.stderr)
        rows = list(dataset.select(range(min(len(dataset), arguments.eval_rows or len(dataset)))))
    evaluation.rows = rows


def _family_space(model: str | None) -> str:
    if model is None:
        raise ValueError("the protocol reads boxes as the model family writes them: set box_space")
    return default_space(AutoConfig.from_pretrained(adapter_base(model) or model).model_type)


# -- answers -----------------------------------------------------------------------------------------------------


def answers(evaluation: Evaluation) -> list[Generation]:
    """The completion of every row, on every process: read, continued where an earlier start stopped, or made."""
    arguments, state = evaluation.arguments, evaluation.state
    if arguments.completions:
        return ready_generations(arguments.completions, evaluation.rows, _resize(evaluation))
    if evaluation.model is None:
        raise ValueError("no model to ask: set model_name_or_path, or completions for answers that are there")
    log = GenerationLog(evaluation.folder, state.process_index)
    if state.is_main_process:
        changed = log.begin(_decoding(evaluation))
        if changed:
            print(f"{evaluation.folder}: made anew, put aside what other settings gave: {', '.join(changed)}")
    state.wait_for_everyone()
    keys, done = row_keys(evaluation.rows), log.read()
    open_places = [place for place, key in enumerate(keys) if key not in done]
    if open_places:
        if state.is_main_process and done:
            print(f"{len(keys) - len(open_places)} of {len(keys)} rows are answered already")
        _answer(evaluation, log, keys, open_places)
        state.wait_for_everyone()
        if state.is_main_process:
            log.join()
        state.wait_for_everyone()
        done = log.read()
    return [done[key] for key in keys]


def _answer(evaluation: Evaluation, log: GenerationLog, keys: list[str], places: list[int]) -> None:
    """Answer this process's share of the open rows and write each batch down."""
    state, arguments = evaluation.state, evaluation.arguments
    # dealt out longest first, so that all processes are done at about the same time
    order = longest_first([evaluation.rows[place] for place in places])
    share = [places[k] for k in order[state.process_index :: state.num_processes]]
    if not share:
        return
    model, processor = _load(evaluation)
    streams = stream_keys(evaluation.rows)
    batches = generate_batches(
        model,
        processor,
        [evaluation.rows[place] for place in share],
        max_new_tokens=arguments.max_new_tokens,
        batch_size=arguments.per_device_eval_batch_size,
        temperature=arguments.eval_temperature,
        seed=arguments.seed,
        keys=[streams[place] for place in share],
        checkpoint_settings=bool(evaluation.rules and evaluation.rules.checkpoint_settings),
        template_kwargs=arguments.chat_template_kwargs,  # type: ignore[arg-type]  # a mapping since __post_init__
        progress=_label("answering", state) if state.is_main_process else None,
    )
    with _precision(arguments, state.device):
        for chosen, generations in batches:
            log.append([keys[share[k]] for k in chosen], generations)


def _label(what: str, state: PartialState) -> str:
    return what if state.num_processes == 1 else f"{what} (share of {state.num_processes})"


def _precision(arguments: EvaluationArguments, device: torch.device) -> Any:
    """Mixed precision as the Trainer has it: bfloat16 on a GPU unless the YAML says otherwise."""
    if device.type == "cpu" or arguments.bf16 is False:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _load(evaluation: Evaluation) -> tuple[Any, Any]:
    settings = model_settings(evaluation.model_config)
    quantization = quantization_settings(evaluation.model_config)
    device = evaluation.state.device
    if quantization is None:
        model = load_trained(str(evaluation.model), **settings).to(device)
    else:
        placed = {"quantization_config": quantization, "device_map": {"": device}}
        model = load_trained(str(evaluation.model), **settings, **placed)
    return model, _processor(evaluation)


def _processor(evaluation: Evaluation) -> Any:
    arguments, model = evaluation.arguments, str(evaluation.model)
    base = adapter_base(model)
    source = base if base and not (Path(model) / "tokenizer_config.json").exists() else model
    pixels = (None, None) if _is_vlmr1(evaluation) else (arguments.min_pixels, arguments.max_pixels)
    return load_processor(source, *pixels)


def _is_vlmr1(evaluation: Evaluation) -> bool:
    """VLM-R1's rules fix the image sizes too: the checkpoint's own."""
    return bool(evaluation.rules and evaluation.rules.vlmr1_parser)


def _resize(evaluation: Evaluation) -> Any:
    """How the policy saw images, where boxes are read in that space."""
    spaces = [evaluation.space, *(box_reading(reward).get("space") for reward in evaluation.rewards)]
    if "resized" not in spaces or evaluation.model is None:
        return None
    return qwen_resize(_processor(evaluation))


def _decoding(evaluation: Evaluation) -> dict[str, Any]:
    """All that decides what the policy answers to a prompt; a folder holds completions of one such setting."""
    arguments, config = evaluation.arguments, evaluation.model_config
    sampled = arguments.eval_temperature > 0
    return {
        "model": evaluation.model_config.model_name_or_path,
        "weights": _weights(str(evaluation.model)),
        "revision": config.model_revision,
        "dtype": config.dtype,
        "quantized": {"4bit": config.load_in_4bit, "8bit": config.load_in_8bit},
        "bf16": arguments.bf16,
        "max_new_tokens": arguments.max_new_tokens,
        "temperature": arguments.eval_temperature,
        "seed": arguments.seed if sampled else None,
        "pixels": [arguments.min_pixels, arguments.max_pixels],
        "chat_template_kwargs": arguments.chat_template_kwargs,
        "checkpoint_settings": bool(evaluation.rules and evaluation.rules.checkpoint_settings),
    }


def _weights(model: str) -> list[list[Any]]:
    """Name, size and time of a local model's weight files: a folder may have been trained on since."""
    files = [path for path in sorted(Path(model).glob("*")) if path.suffix in (".safetensors", ".bin")]
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def _short_name(name: str) -> str:
    """Folder name for a model or file: `Qwen--Qwen2.5-VL-3B-Instruct`, `mixed_demo--checkpoint-100`, `answers`."""
    path = Path(name)
    if path.is_file():
        return path.stem
    parts = path.parts
    keep = 2 if not path.exists() or path.name.startswith("checkpoint-") else 1
    return "--".join(parts[-keep:])


# -- judging -----------------------------------------------------------------------------------------------------


def judged(evaluation: Evaluation, generations: Sequence[Generation]) -> tuple[list[Line], dict[str, RecResult]]:
    """A line for each row, and REC's results under a protocol. Rewards are shared out over the processes."""
    rows, state = evaluation.rows, evaluation.state
    if evaluation.rules:
        results = {
            name: judge(name, rows[own], generations[own], evaluation.rules, str(evaluation.space))
            for name, own in evaluation.datasets.items()
        }
        return [line for result in results.values() for line in result.lines], results
    share = range(state.process_index, len(rows), state.num_processes)
    lines = []
    for first in range(0, len(share), SCORED_AT_ONCE):
        part = share[first : first + SCORED_AT_ONCE]
        scored = score_rows(
            [rows[k] for k in part], [generations[k] for k in part], evaluation.rewards, guarded_scores
        )
        lines += list(zip(part, scored, strict=True))
    return [line for _, line in sorted(gather_object(lines), key=lambda pair: pair[0])], {}


def write(evaluation: Evaluation, lines: list[dict[str, object]], results: dict[str, RecResult]) -> JsonObject:
    """Write predictions.jsonl and metrics.json, print the figures and name the files; return the metrics."""
    overlap = add_overlap(lines, evaluation.rewards)
    found = figures(lines)
    facts = _facts(evaluation) | metrics(lines, found)
    facts |= {"overlap": overlap} if overlap else {}
    facts |= {"rec": {name: result.figures() for name, result in results.items()}} if results else {}
    folder = evaluation.folder
    paths = [write_lines(folder / "predictions.jsonl", lines), folder / "metrics.json"]
    paths[1].write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{rec_table(results) if results else figure_table(found)}")
    if overlap:
        print(overlap_row(overlap))
    unread = f"{facts['parse_failure_rate']:.1%} of the answers could not be read"
    print(f"{unread}, {facts['clipped_rate']:.1%} hit the limit of {facts['max_new_tokens']} tokens")
    paths.append(write_evaluation(folder))
    print("\nLook at")
    for path in paths:
        print(f"  {path}")
    return facts


def _facts(evaluation: Evaluation) -> dict[str, Any]:
    """What the figures rest on."""
    arguments, rows = evaluation.arguments, evaluation.rows
    made = {} if arguments.completions else _decoding(evaluation)
    return {
        "model": evaluation.model_config.model_name_or_path if made else None,
        "completions": arguments.completions,
        "data": arguments.annotations or arguments.eval_dataset_name,
        "rewards": arguments.rewards if not evaluation.rules else None,
        "protocol": arguments.protocol,
        "box_space": evaluation.space,
        "prompt_hash": prompt_hash(rows),
        "first_prompt": prompt_text(rows[0]["prompt"]) if rows else None,
        "seed": arguments.seed,
        "max_new_tokens": arguments.max_new_tokens,
        "temperature": arguments.eval_temperature,
        "decoding": made,
        "processes": evaluation.state.num_processes,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
