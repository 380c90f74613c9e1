"""What recipes/evaluate.py calls: the samples of a protocol, the model, answers on disk, scores and figures."""

import os
import platform
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import nn
from transformers import AutoConfig, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils.logging import disable_progress_bar
from trl import ModelConfig

from omnirl_core.boxes import default_space
from omnirl_core.data.dataset import routing
from omnirl_core.models import load_processor
from omnirl_core.rewards import Reward
from omnirl_core.rewards.grounding import box_reading
from omnirl_core.rewards.load import Sample as Routed
from omnirl_core.rewards.load import coverage_error
from omnirl_core.trainer.completion_logging import prompt_text
from omnirl_core.types import JsonObject, Line, Sample
from omnirl_tools.evaluate_arguments import EvaluationArguments
from omnirl_tools.evaluation.generate import Generation, longest_first
from omnirl_tools.evaluation.generations import GenerationLog, prompt_hash, row_keys
from omnirl_tools.evaluation.grounding import RecResult, choose_rows, judge, load_rec, rec_table
from omnirl_tools.evaluation.metrics import Figure, figure_table, overlap_row
from omnirl_tools.evaluation.policy import adapter_base, load_trained
from omnirl_tools.evaluation.ready import Resize, qwen_resize
from omnirl_tools.evaluation.score import guarded_scores, score_rows
from omnirl_tools.model_settings import model_settings, policy_path, quantization_settings
from omnirl_tools.run import PACKAGES
from omnirl_tools.samples import read_rows

SCORED_AT_ONCE = 256


def join_processes(arguments: EvaluationArguments) -> PartialState:
    """Join the other processes, and show no bars of loading.

    Each process holds a whole model, whatever the accelerate config shards in training.
    """
    disable_progress_bar()
    for sharding in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"):
        os.environ[sharding] = "false"
    cpu = arguments.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU")
    # a process with short answers waits long for the others; torchrun ends the rest where one dies
    return PartialState(cpu=cpu, timeout=timedelta(days=2))


def evaluation_folder(arguments: EvaluationArguments, model: ModelConfig) -> Path:
    """Where the evaluation writes: `evaluation_dir`, or a folder of the model's or file's name in the run's."""
    if arguments.evaluation_dir:
        return Path(arguments.evaluation_dir)
    name = arguments.completions or model.model_name_or_path
    parts = [_short_name(str(name)), *([arguments.protocol] if arguments.protocol else [])]
    return Path(arguments.output_dir) / "evaluation" / "--".join(parts)


# -- samples -----------------------------------------------------------------------------------------------------


def held_out_samples(arguments: EvaluationArguments, rewards: list[Reward], folder: Path) -> list[Sample]:
    """The first `eval_rows` samples of the data; a warning where no reward judges the answers of some."""
    name = arguments.eval_dataset_name or ""
    dataset = read_rows(arguments, name, arguments.seed, folder / "bad_eval_rows.txt")
    if PartialState().is_main_process and (
        error := coverage_error([Routed(*row) for row in routing(dataset)], rewards)
    ):
        print(f"Warning: {error}", file=sys.stderr)
    return list(dataset.select(range(min(len(dataset), arguments.eval_rows or len(dataset)))))


@dataclass(frozen=True)
class RecData:
    """The samples of REC data sets that a protocol chooses, and the space that their answered boxes are read in."""

    samples: list[Sample]
    parts: dict[str, slice]
    """Data set -> where its samples are."""
    space: str

    @classmethod
    def load(cls, arguments: EvaluationArguments, model: ModelConfig) -> "RecData":
        assert arguments.rules is not None
        files = arguments.annotations or [arguments.eval_dataset_name or ""]
        datasets = load_rec(files, arguments.image_root, arguments.rec_template)
        samples: list[Sample] = []
        parts = {}
        for name, chosen in choose_rows(arguments.rules, datasets).items():
            chosen = chosen[: arguments.eval_rows]
            parts[name] = slice(len(samples), len(samples) + len(chosen))
            samples += chosen
        return cls(samples, parts, arguments.box_space or arguments.rules.space or _family_space(model))


def _family_space(model: ModelConfig) -> str:
    if model.model_name_or_path is None:
        raise ValueError("the protocol reads boxes as the model family writes them: set box_space")
    policy = policy_path(model)
    return default_space(AutoConfig.from_pretrained(adapter_base(policy) or policy).model_type)


# -- model -------------------------------------------------------------------------------------------------------


def load_model(model: ModelConfig, device: torch.device) -> nn.Module:
    """The model on this process's device; under a quantization, as it is placed there."""
    settings, quantization = model_settings(model), quantization_settings(model)
    if quantization is None:
        return load_trained(policy_path(model), **settings).to(device)
    placed = {"quantization_config": quantization, "device_map": {"": device}}
    return load_trained(policy_path(model), **settings, **placed)


def processor_of(arguments: EvaluationArguments, model: ModelConfig) -> ProcessorMixin | PreTrainedTokenizerBase:
    """The model's processor, for an adapter without one its base model's.

    VLM-R1's rules fix the image sizes too: the checkpoint's own.
    """
    policy = policy_path(model)
    base = adapter_base(policy)
    source = base if base and not (Path(policy) / "tokenizer_config.json").exists() else policy
    is_vlmr1 = arguments.rules is not None and arguments.rules.vlmr1_parser
    return load_processor(source, *((None, None) if is_vlmr1 else (arguments.min_pixels, arguments.max_pixels)))


def resize_of(
    arguments: EvaluationArguments, model: ModelConfig, rec: RecData | None, rewards: Sequence[Reward]
) -> Resize | None:
    """How the policy saw images, where boxes are read in that space."""
    spaces = [rec.space if rec else None, *(box_reading(reward).get("space") for reward in rewards)]
    if "resized" not in spaces or model.model_name_or_path is None:
        return None
    return qwen_resize(processor_of(arguments, model))


def precision(arguments: EvaluationArguments, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision as the Trainer has it: bfloat16 on a GPU unless the YAML says otherwise."""
    if device.type == "cpu" or arguments.bf16 is False:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


# -- answers -----------------------------------------------------------------------------------------------------


def decoding(arguments: EvaluationArguments, model: ModelConfig) -> JsonObject:
    """All that decides what the policy answers to a prompt; a folder holds completions of one such setting."""
    return {
        "model": model.model_name_or_path,
        "weights": _weights(policy_path(model)),
        "revision": model.model_revision,
        "dtype": model.dtype,
        "quantized": {"4bit": model.load_in_4bit, "8bit": model.load_in_8bit},
        "bf16": arguments.bf16,
        "max_new_tokens": arguments.max_new_tokens,
        "temperature": arguments.eval_temperature,
        "seed": arguments.seed if arguments.eval_temperature > 0 else None,
        "pixels": [arguments.min_pixels, arguments.max_pixels],
        "chat_template_kwargs": arguments.chat_template_kwargs,
        "checkpoint_settings": arguments.rules is not None and arguments.rules.checkpoint_settings,
    }


def share_of_open(log: GenerationLog, samples: Sequence[Sample], settings: JsonObject) -> list[int]:
    """Indices of the samples that this process has to answer, once all have seen which are answered already."""
    state = PartialState()
    if state.is_main_process and (changed := log.begin(settings)):
        print(f"{log.folder}: made anew, put aside what other settings gave: {', '.join(changed)}")
    state.wait_for_everyone()
    done = log.read()
    unanswered = [index for index, key in enumerate(row_keys(samples)) if key not in done]
    if state.is_main_process and done and unanswered:
        print(f"{len(samples) - len(unanswered)} of {len(samples)} rows are answered already")
    # dealt out longest first, so that all processes are done at about the same time
    order = longest_first([samples[index] for index in unanswered])
    return [unanswered[k] for k in order[state.process_index :: state.num_processes]]


def joined(log: GenerationLog, samples: Sequence[Sample]) -> list[Generation]:
    """The completion of every sample, on every process, once all have answered their share."""
    state = PartialState()
    state.wait_for_everyone()
    if state.is_main_process:
        log.join()
    state.wait_for_everyone()
    done = log.read()
    return [done[key] for key in row_keys(samples)]


def _weights(model: str) -> list[list[str | int]]:
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


# -- scores and figures ------------------------------------------------------------------------------------------


def score(samples: Sequence[Sample], generations: Sequence[Generation], rewards: list[Reward]) -> list[Line]:
    """A line for each sample, on every process; each process scores its share."""
    state = PartialState()
    share = range(state.process_index, len(samples), state.num_processes)
    lines: list[tuple[int, Line]] = []
    for first in range(0, len(share), SCORED_AT_ONCE):
        part = share[first : first + SCORED_AT_ONCE]
        scored = score_rows([samples[k] for k in part], [generations[k] for k in part], rewards, guarded_scores)
        lines += list(zip(part, scored, strict=True))
    return [line for _, line in sorted(gather_object(lines), key=lambda pair: pair[0])]


def score_rec(
    arguments: EvaluationArguments, rec: RecData, generations: Sequence[Generation]
) -> tuple[list[Line], dict[str, RecResult]]:
    """A line for each sample, and the result of each data set, by the protocol's rules."""
    assert arguments.rules is not None
    results = {
        name: judge(name, rec.samples[part], generations[part], arguments.rules, rec.space)
        for name, part in rec.parts.items()
    }
    return [line for result in results.values() for line in result.lines], results


def facts_of(
    arguments: EvaluationArguments, model: ModelConfig, samples: Sequence[Sample], rec: RecData | None
) -> JsonObject:
    """What the figures of metrics.json rest on."""
    made = {} if arguments.completions else decoding(arguments, model)
    return {
        "model": model.model_name_or_path if made else None,
        "completions": arguments.completions,
        "data": arguments.annotations or arguments.eval_dataset_name,
        "rewards": None if rec else arguments.rewards,
        "protocol": arguments.protocol,
        "box_space": rec.space if rec else None,
        "prompt_hash": prompt_hash(samples),
        "first_prompt": prompt_text(samples[0]["prompt"]) if samples else None,
        "seed": arguments.seed,
        "max_new_tokens": arguments.max_new_tokens,
        "temperature": arguments.eval_temperature,
        "decoding": made,
        "processes": PartialState().num_processes,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def rare_facts(overlap: JsonObject | None, results: dict[str, RecResult]) -> JsonObject:
    """What metrics.json holds only where rewards of overlap, or a protocol's rules, have judged."""
    rec = {name: result.figures() for name, result in results.items()}
    return ({"overlap": overlap} if overlap else {}) | ({"rec": rec} if rec else {})


def show(facts: JsonObject, found: Sequence[Figure], results: dict[str, RecResult], paths: Sequence[Path]) -> None:
    """Print the figures, and name every file, last."""
    print(f"\n{rec_table(results) if results else figure_table(found)}")
    if "overlap" in facts:
        print(overlap_row(facts["overlap"]))
    unread = f"{facts['parse_failure_rate']:.1%} of the answers could not be read"
    print(f"{unread}, {facts['clipped_rate']:.1%} hit the limit of {facts['max_new_tokens']} tokens")
    print("\nLook at")
    for path in paths:
        print(f"  {path}")
