"""The settings of a run and of its warm start, each with its reason, as the text of a YAML."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from omnirl_core.types import counted
from omnirl_tools.checks.path_checks import MERGED
from omnirl_tools.init.data import Data
from omnirl_tools.init.model import Fit, Model
from omnirl_tools.memory.fitting import GIB

Line: TypeAlias = tuple[str, Any, str]
"""(key, value, reason)."""
Sections: TypeAlias = Mapping[str, list[Line]]
TINY_PIXELS = 160 * 128
GPU_PIXELS = 512 * 512
THOUGHT = "<think>I look.</think><answer>{solution}</answer>"
REASONS = {
    "use_peft": "LoRA: all weights do not fit",
    "lora_r": "rank, alpha, targets and rate of VLM-R1's run_grpo_rec_lora.sh, which freezes the vision tower too",
    "lora_alpha": "",
    "lora_target_modules": "",
    "freeze_vision_tower": "",
    "load_in_4bit": "QLoRA: the language model in 4 bits; the vision tower stays in bf16",
    "use_bnb_nested_quant": "0.4 bits a parameter less (QLoRA, section 3)",
}


@dataclass(frozen=True)
class Plan:
    """All that the YAMLs are written from; paths in them start at the folder that the command runs in."""

    folder: str
    data: Data
    model: Model
    fit: Fit
    prompt_tokens: int
    max_pixels: int | None
    template: str | None
    answer_tokens: int
    warm_start: str | None
    """Why a warm start is advised; None where it is not."""

    @property
    def on_cpu(self) -> bool:
        return self.fit.gpu is None

    @property
    def run(self) -> str:
        return f"{self.folder}/run"

    @property
    def taught(self) -> str:
        """What the warm start saves."""
        return f"{self.folder}/warm_start"

    @property
    def start(self) -> str:
        """What GRPO starts from after the warm start: with LoRA, the adapter merged into its model."""
        return f"{self.taught}/{MERGED}" if self.fit.settings.get("use_peft") else self.taught


def config_text(plan: Plan) -> str:
    """config.yaml."""
    start = f" --model_name_or_path {plan.start}" if plan.warm_start else ""
    head = [
        f"GRPO on {plan.data.given}, written by `omnirl init`.",
        f"  omnirl train {plan.folder}/config.yaml{start}",
    ]
    return _text(head, {
        "Model": _model(plan),
        "Data": [*_data(plan), *_prompts(plan)],
        "Rewards": [("rewards", f"{plan.folder}/rewards.yaml", "chosen by what the answers look like")],
        "Optimization": _optimization(plan),
        "Hardware": _hardware(plan),
        "Output": _output(plan, plan.run),
    })  # fmt: skip


def sft_text(plan: Plan) -> str:
    """sft.yaml."""
    head = [f"Warm start before GRPO on {plan.data.given}: {plan.warm_start}", f"  omnirl sft {plan.folder}/sft.yaml"]
    return _text(head, {
        "Model": _model(plan),
        "Data": _data(plan) + _pixels(plan) + _template(plan),
        "Rewards": [
            ("rewards", f"{plan.folder}/rewards.yaml", "of the held-out table; imitation itself has none"),
            ("response_template", THOUGHT, "the form that think_format wants; the answers come without thoughts"),
        ],
        "Optimization": _imitation(plan),
        "Hardware": _hardware(plan),
        "Output": _output(plan, plan.taught),
    })  # fmt: skip


def _model(plan: Plan) -> list[Line]:
    billions = plan.model.parameters / 1e9
    size = f"{billions:.1f} billion" if billions >= 0.1 else f"{billions * 1000:.1f} million"
    source = "by its config" if plan.model.is_read else "by its name: its config could not be read"
    lines: list[Line] = [("model_name_or_path", plan.model.name, f"{size} parameters, {source}")]
    own = {name: value for name, value in plan.fit.settings.items() if name in REASONS}
    return lines + [(name, value, REASONS[name]) for name, value in own.items()]


def _data(plan: Plan) -> list[Line]:
    data = plan.data
    n_train, n_test = len(data.train), len(data.held_out)
    lines: list[Line] = [
        ("dataset_name", f"{plan.folder}/data/train.jsonl", f"{counted(n_train, 'sample')} of {data.given}"),
        (
            "eval_dataset_name",
            f"{plan.folder}/data/test.jsonl",
            f"{counted(n_test, 'sample')} that training never sees",
        ),
    ]
    if data.image_root is not None:
        lines.append(("image_root", data.image_root, "the images stay where they are"))
    return lines


def _prompts(plan: Plan) -> list[Line]:
    lines = _template(plan)
    if not plan.on_cpu:
        most = -(-int(1.5 * plan.prompt_tokens) // 256) * 256
        longest = f"the longest has about {plan.prompt_tokens:,} tokens, image tokens included"
        lines += [
            ("max_prompt_length", most, longest),
            ("on_long_prompt", "drop", "one that is longer is left out and counted"),
        ]
    return lines + _pixels(plan)


def _template(plan: Plan) -> list[Line]:
    if plan.template is None:
        return []
    why = {"choice": "lists the options with their letters, and asks for one", "rec_r1": "VLM-R1's prompt for boxes"}
    reason = why.get(plan.template, "the tiny policy has never read an instruction")
    return [("templates", {"default": plan.template}, reason)]


def _pixels(plan: Plan) -> list[Line]:
    if plan.max_pixels is None:
        return []
    why = (
        "the size of the images that it has learned to see"
        if plan.model.is_tiny
        else "512 x 512: larger images are scaled down"
    )
    return [("max_pixels", plan.max_pixels, why)]


def _optimization(plan: Plan) -> list[Line]:
    thought = (
        "max_completion_length",
        plan.answer_tokens,
        "tokens of thought and answer; a longer one is cut, and earns nothing",
    )
    if plan.model.is_tiny:
        return [
            ("per_device_train_batch_size", 64, "one step = 8 prompts x num_generations (8) completions"),
            thought,
            ("learning_rate", 3e-4, "for 1.4 million parameters; real models want 1e-6"),
            ("lr_scheduler_type", "constant_with_warmup", "few steps: no time for a decay"),
            ("warmup_steps", 5, "until Adam's averages are filled"),
            ("max_steps", 160, "minutes on a CPU; more go on learning"),
            ("seed", 0, "the same run again"),
        ]
    lines: list[Line] = []
    rows = plan.fit.settings.get("per_device_train_batch_size", 8)
    if rows != 8:
        lines.append(("per_device_train_batch_size", rows, "completions at once: eight do not fit"))
    accumulation = plan.fit.settings.get("gradient_accumulation_steps", 8)
    prompts = rows * accumulation // 8
    lines.append(("gradient_accumulation_steps", accumulation, f"{prompts} prompts a step, 8 completions each"))
    lines.append(thought)
    if plan.fit.how != "full":
        lines.append(("learning_rate", 1e-5, "VLM-R1's for LoRA"))
    steps = max(50, min(500, 2 * len(plan.data.train) // prompts))
    return [*lines, ("max_steps", steps, f"{steps * prompts / len(plan.data.train):.1f} passes over the samples")]


def _imitation(plan: Plan) -> list[Line]:
    rows = 16 if plan.model.is_tiny else min(8, plan.fit.settings.get("per_device_train_batch_size", 8))
    most = max(60, min(150, 4 * len(plan.data.train) // rows))
    passes = most * rows / len(plan.data.train)
    rate = 1e-3 if plan.model.is_tiny else 1e-5 if plan.fit.how == "full" else 1e-4
    return [
        ("per_device_train_batch_size", rows, "samples a step"),
        ("max_completion_length", plan.answer_tokens, "tokens of an answer to a held-out sample"),
        ("learning_rate", rate, "imitation bears more than GRPO"),
        ("lr_scheduler_type", "constant_with_warmup", "few steps: no time for a decay"),
        ("warmup_steps", 5, "until Adam's averages are filled"),
        ("max_steps", most, f"at most: {passes:.1f} passes over the samples"),
        ("stop_at_accuracy", 0.5, "of training samples: half right, from where groups teach GRPO most"),
        ("seed", 0, "the same run again"),
    ]  # fmt: skip


def _hardware(plan: Plan) -> list[Line]:
    if plan.on_cpu:
        return [
            ("use_cpu", True, "no GPU is here, and the model is small"),
            ("bf16", False, "fp32, on a CPU"),
            ("gradient_checkpointing", False, "memory is no concern here, and it costs a second forward pass"),
            ("per_device_eval_batch_size", 64, "held-out samples answered at once; they need no gradients"),
        ]
    gpu = plan.fit.gpu or 0
    estimate = (
        f"{plan.fit.how} needs {plan.fit.needed / GIB:.1f} GiB of {gpu / GIB:.0f} GiB by `omnirl estimate-memory`"
    )
    if plan.fit.how == "full":
        return [("dtype", "float32", f"steps of 1e-6 would be lost in bf16 weights; {estimate}")]
    return [("dtype", "bfloat16", f"weights in bf16, the adapter stays in fp32; {estimate}")]


def _output(plan: Plan, folder: str) -> list[Line]:
    lines: list[Line] = [("output_dir", folder, "")]
    if plan.on_cpu:
        lines += [
            ("logging_steps", 5, "the bar and the curves"),
            ("save_strategy", "no", "the model is saved at the end; checkpoints of a short run only take space"),
        ]
    return lines


# -- YAML --------------------------------------------------------------------------------------------------------


def _text(head: list[str], sections: Sections) -> str:
    blocks = ["\n".join(f"# {line}" for line in head)]
    for name, lines in sections.items():
        blocks.append("\n".join([f"# {name}", *map(yaml_line, lines)]))
    return "\n\n".join(blocks) + "\n"


def yaml_line(line: Line) -> str:
    """A setting with its reason.

    >>> yaml_line(("learning_rate", 1e-5, "VLM-R1's"))
    "learning_rate: 1.0e-05  # VLM-R1's"
    """
    key, value, reason = line
    if "\n" in str(value):
        return f"{key}: {json.dumps(value, ensure_ascii=False)}" + f"  # {reason}" * bool(reason)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    text = text.removesuffix("\n").removesuffix("\n...")
    return f"{key}: {text}" + f"  # {reason}" * bool(reason)
