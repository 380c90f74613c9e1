"""Whether a recipe fits a GPU, and what it needs there, from the model's config alone: no weight is fetched.

  omnirl estimate-memory recipes/mixed/demo.yaml
  omnirl estimate-memory CONFIG --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --num_processes 4 --zero 3

The verdict is about this machine's GPU, or one of --gpu_memory GiB; where the run does not fit, the exit code is 1 and
the cheapest changes that make it fit are listed. The prompt is the longest of the data set; where that is not here, as
long as max_prompt_length allows, or 256 tokens of text and one image of max_pixels (--prompt_tokens,
--image_tokens say otherwise). A recipe's keys can be overridden as for recipes/grpo.py.
Checked against measured peaks on CPUs and one H100 (benchmarks/RESULTS.md); not on several GPUs.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from omnirl_core.data import DataError
from omnirl_core.launch import silence_upstream_noise
from omnirl_core.yaml_loader import YamlFault, read_yaml
from omnirl_tools.commands import CannotRun
from omnirl_tools.commands.config_file import read_settings
from omnirl_tools.commands.recipe import Recipe, read_recipe
from omnirl_tools.memory import Cluster, MemoryEstimate, Prompt, model_config
from omnirl_tools.memory.fitting import CONTEXT, GIB, TIGHT, Plan, Step, single_changes, steps_to_fit
from omnirl_tools.memory.prompts import MAX_PIXELS, longest_prompt
from omnirl_tools.recipes import accelerate_config

TAKES_OVERRIDES = True
TEXT_TOKENS = 256
"""Of a prompt whose length no setting bounds."""
NAMES = {
    "weights": "weights",
    "reference": "reference model (beta > 0)",
    "optimizer": "optimizer states",
    "gradients": "gradients",
    "activations": "activations of a micro-batch",
    "head": "log-probability head",
    "kv_cache": "KV cache of the rollout",
    "rollout": "rollout: logits, one layer, gathered weights",
    "inputs": "pixels",
    "communication": "buckets of data parallel",
}
KINDS = ("NO", "MULTI_GPU", "MULTI_CPU", "DEEPSPEED", "FSDP")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a recipe's YAML")
    parser.add_argument("--num_processes", type=int, help="GPUs that share the run (default 1)")
    parser.add_argument("--zero", type=int, choices=range(4), help="DeepSpeed's ZeRO stage (default 0)")
    parser.add_argument("--offload", action="store_true", help="optimizer, and with --zero 3 weights, on the host")
    parser.add_argument("--accelerate_config", metavar="FILE", help="read these three from accelerate_configs/...")
    parser.add_argument("--prompt_tokens", type=int, help="tokens of the longest prompt, images included")
    parser.add_argument("--image_tokens", type=int, help="how many of them stand for images")
    parser.add_argument("--gpu_memory", type=float, metavar="GIB", help="of the GPU to fit (default: this machine's)")


def run(arguments: argparse.Namespace) -> int:
    silence_upstream_noise(use_cpu=True)
    settings = {**read_settings(arguments.config), **_given(arguments.overrides)}
    recipe = read_recipe(arguments.config, arguments.overrides)
    cluster = _cluster(arguments)
    try:
        config = model_config(recipe.model_path, trust_remote_code=recipe.training.trust_remote_code)
    except (OSError, ValueError) as error:
        raise CannotRun(f"config of {recipe.model_path}: {str(error).splitlines()[0]}") from error
    if arguments.gpu_memory is not None and arguments.gpu_memory <= 0:
        raise CannotRun(f"--gpu_memory {arguments.gpu_memory:g}: GiB of a GPU, above 0")
    prompt, source = _prompt(arguments, recipe, config)
    on_gpu = arguments.gpu_memory is not None or not recipe_uses_cpu(settings)
    bf16 = on_gpu if settings.get("bf16") is None else _truth(settings["bf16"])
    plan = Plan(recipe.training, recipe.model, prompt, cluster, config, bf16)
    print(_text(recipe, plan.estimate(on_gpu), cluster, prompt, source))
    if not on_gpu:
        return 0
    gpu = _gpu_memory(arguments.gpu_memory)
    if gpu is None:
        print("no GPU here: --gpu_memory 24 says whether it fits one of 24 GiB")
        return 0
    verdict, fits = judged(plan, gpu)
    print(f"\n{verdict}")
    return int(not fits)


def judged(plan: Plan, gpu: int) -> tuple[str, bool]:
    """The verdict in words, with the changes that make the run fit, and whether it does without them."""
    needed = plan.needed(gpu)
    sum_of = f"{needed / GIB:.2f} of {gpu / GIB:.2f} GiB with {CONTEXT / GIB:.0f} GiB for CUDA"
    if plan.training.use_vllm and plan.training.vllm_mode == "colocate":
        sum_of += f" and {plan.training.vllm_gpu_memory_utilization:.0%} for vLLM"
    if needed <= gpu:
        tight = "" if needed <= TIGHT * gpu else "; tight, since fragments of memory come on top"
        return f"fits: {sum_of}, {(gpu - needed) / GIB:.2f} GiB free{tight}", True
    steps, fits = steps_to_fit(plan, gpu)
    lines = [f"does not fit: {sum_of}, {(needed - gpu) / GIB:.2f} GiB too much"]
    lines.append("the cheapest changes that make it fit:" if fits else "not even with all of these:")
    lines += [_step(step, gpu, "" if place == 0 else "and ") for place, step in enumerate(steps)]
    alone = [step for step in single_changes(plan, gpu) if step.change not in [one.change for one in steps[:1]]]
    if alone:
        lines += ["each of these alone does, too:", *(_step(step, gpu) for step in alone)]
    return "\n".join(lines), False


def _step(step: Step, gpu: int, joined: str = "") -> str:
    mark = "fits" if step.needed <= gpu else f"{(step.needed - gpu) / GIB:.2f} GiB too much"
    return f"  {joined + step.change:<86} {step.needed / GIB:>7.2f} GiB  {mark}"


def _gpu_memory(gib: float | None) -> int | None:
    """Bytes of the GPU in question, None where there is none."""
    if gib is not None:
        return int(gib * GIB)
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def recipe_uses_cpu(settings: Mapping[str, object]) -> bool:
    return _truth(settings.get("use_cpu", False))


def _given(overrides: list[str]) -> dict[str, str]:
    """`--key value` and `--key=value` of the command line, as text."""
    joined = [part for item in overrides for part in (item.split("=", 1) if item.startswith("--") else [item])]
    return {key.removeprefix("--"): value for key, value in pairwise(joined) if key.startswith("--")}


def _truth(value: Any) -> bool:
    return str(value).lower() in ("true", "1", "yes", "on")


def _cluster(arguments: argparse.Namespace) -> Cluster:
    found = _accelerate(arguments.accelerate_config) if arguments.accelerate_config else Cluster()
    given: dict[str, Any] = {"offload": found.offload or arguments.offload}
    if arguments.num_processes is not None:
        given["num_processes"] = arguments.num_processes
    if arguments.zero is not None:
        given |= {"zero_stage": arguments.zero, "fsdp": False}
    cluster = replace(found, **given)
    if cluster.num_processes < 1:
        raise CannotRun(f"--num_processes {cluster.num_processes}: at least 1")
    if cluster.offload and not cluster.stage:
        raise CannotRun("--offload moves what ZeRO shares out; add --zero 2 or --zero 3")
    return cluster


def _accelerate(path: str) -> Cluster:
    """What a file of accelerate_configs/, or one of that name, says of processes and sharding."""
    try:
        file = read_yaml(accelerate_config(path)).data
    except (OSError, YamlFault, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CannotRun(f"--accelerate_config {path}: {reason}; give one of accelerate_configs/") from None
    kind = str(file.get("distributed_type") if isinstance(file, dict) else None)
    if kind not in KINDS:
        raise CannotRun(f"--accelerate_config {path}: distributed_type is {kind}, none of {', '.join(KINDS)}")
    zero, fsdp = file.get("deepspeed_config") or {}, file.get("fsdp_config") or {}
    return Cluster(
        num_processes=int(file.get("num_processes", 1)),
        zero_stage=int(zero.get("zero_stage", 2)) if kind == "DEEPSPEED" else 0,
        offload="cpu" in str(zero.get("offload_optimizer_device")) or bool(fsdp.get("fsdp_offload_params")),
        fsdp=kind == "FSDP",
    )


def _prompt(arguments: argparse.Namespace, recipe: Recipe, config: Any) -> tuple[Prompt, str]:
    """The longest prompt, and where that is known from."""
    training, found, source = recipe.training, None, "as assumed"
    if arguments.prompt_tokens is None and arguments.image_tokens is None:
        try:
            found = longest_prompt(recipe.data, config, training.min_pixels, training.max_pixels)
        except (DataError, OSError) as error:
            source = f"as assumed: {str(error).splitlines()[0]}"
    if found is not None:
        tokens = min(found.tokens, training.max_prompt_length or found.tokens)
        return Prompt(tokens, min(found.image_tokens, tokens)), f"the longest of {recipe.data.dataset_name}"
    assumed = Prompt.of_pixels(TEXT_TOKENS, 1, training.max_pixels or MAX_PIXELS)
    tokens = arguments.prompt_tokens or training.max_prompt_length or assumed.tokens
    image = assumed.image_tokens if arguments.image_tokens is None else arguments.image_tokens
    return Prompt(tokens, min(image, tokens)), source


def _text(recipe: Recipe, found: MemoryEstimate, cluster: Cluster, prompt: Prompt, source: str) -> str:
    training, model = recipe.training, recipe.model
    how = "4-bit LoRA" if model.load_in_4bit else "8-bit LoRA" if model.load_in_8bit else ""
    how = how or ("LoRA" if model.use_peft else "full fine-tuning")
    shared_out = ", FSDP2" if cluster.fsdp else f", ZeRO-{cluster.stage}" * bool(cluster.stage)
    processes = f"{cluster.num_processes} process" + "es" * (cluster.num_processes > 1)
    lines = [
        f"{model.model_name_or_path}, {how}, {processes}{shared_out}{', offload' * cluster.offload}",
        f"{training.per_device_train_batch_size} completions of {training.max_completion_length} tokens at once, "
        f"prompts of {prompt.tokens:,} tokens, {prompt.image_tokens:,} of them images ({source})",
        "",
        *(
            f"  {NAMES[name]:<46} {size / GIB:>8.2f} GiB"
            for name, size in found.parts().items()
            if name in NAMES and size
        ),
        "",
        f"  {'peak of the rollout':<46} {found.rollout_peak / GIB:>8.2f} GiB",
        f"  {'peak of training':<46} {found.training_peak / GIB:>8.2f} GiB",
        f"  {'needed on each device':<46} {found.peak / GIB:>8.2f} GiB",
    ]
    if found.host:
        lines.append(f"  {'and in the host, of each process':<46} {found.host / GIB:>8.2f} GiB")
    if training.use_vllm:
        lines.append("  without what vLLM takes: vllm_gpu_memory_utilization of a GPU that it runs on")
    note = (
        "within 8 % of peaks on one H100, LoRA 29 % above; leave room for the CUDA context (about 1 GiB) "
        "and for fragments"
    )
    return "\n".join([*lines, "", note])
