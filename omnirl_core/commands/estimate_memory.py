"""How much memory a recipe needs on each GPU, from the model's config alone: no weight is fetched.

  omnirl estimate-memory recipes/mixed/demo.yaml
  omnirl estimate-memory CONFIG --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --num_processes 4 --zero 3

The prompt is as long as max_prompt_length allows; without it, 256 tokens of text and one picture of max_pixels
(--prompt_tokens, --image_tokens say otherwise). A recipe's keys can be overridden as for recipes/grpo.py.
Checked against measured peaks on the CPU (benchmarks/RESULTS.md); figures of GPUs were not measured.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from omnirl_core.commands import CannotRun
from omnirl_core.commands.config_file import read_settings
from omnirl_core.commands.recipe import Recipe, read_recipe
from omnirl_core.memory import Cluster, MemoryEstimate, Prompt, estimate_memory, model_config
from omnirl_core.trainer.quiet import silence_upstream_noise
from omnirl_core.yaml_file import YamlFault, read_yaml

TAKES_OVERRIDES = True
GIB = 2**30
TEXT_TOKENS = 256
"""Of a prompt whose length no setting bounds."""
PIXELS = 1280 * 28 * 28
"""Of a picture whose size no setting bounds: what Qwen2-VL's model card advises."""
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
    parser.add_argument(
        "--offload", action="store_true", help="optimizer, and with --zero 3 weights, on the host"
    )
    parser.add_argument(
        "--accelerate_config", metavar="FILE", help="read these three from accelerate_configs/..."
    )
    parser.add_argument("--prompt_tokens", type=int, help="tokens of the longest prompt, pictures included")
    parser.add_argument("--image_tokens", type=int, help="how many of them stand for pictures")


def run(arguments: argparse.Namespace) -> int:
    silence_upstream_noise(use_cpu=True)
    settings = {**read_settings(arguments.config), **_given(arguments.overrides)}
    recipe = read_recipe(arguments.config, arguments.overrides)
    cluster = _cluster(arguments)
    try:
        config = model_config(recipe.model_path, trust_remote_code=recipe.training.trust_remote_code)
    except (OSError, ValueError) as error:
        raise CannotRun(f"config of {recipe.model_path}: {str(error).splitlines()[0]}") from error
    prompt = _prompt(arguments, recipe)
    on_gpu = not recipe_uses_cpu(settings)
    bf16 = on_gpu if settings.get("bf16") is None else _truth(settings["bf16"])
    found = estimate_memory(
        recipe.training, recipe.model, config, prompt, bf16=bf16, cluster=cluster, on_gpu=on_gpu
    )
    print(_text(recipe, found, cluster, prompt))
    return 0


def recipe_uses_cpu(settings: Mapping[str, Any]) -> bool:
    return _truth(settings.get("use_cpu", False))


def _given(overrides: list[str]) -> dict[str, str]:
    """`--key value` and `--key=value` of the command line, as text."""
    joined = [
        part for item in overrides for part in (item.split("=", 1) if item.startswith("--") else [item])
    ]
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
    """What a file of accelerate_configs/ says of processes and sharding."""
    try:
        file = read_yaml(path).data
    except (OSError, YamlFault) as error:
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


def _prompt(arguments: argparse.Namespace, recipe: Recipe) -> Prompt:
    pixels = recipe.training.max_pixels or PIXELS
    assumed = Prompt.of_pixels(TEXT_TOKENS, 1, pixels)
    tokens = arguments.prompt_tokens or recipe.training.max_prompt_length or assumed.tokens
    image = assumed.image_tokens if arguments.image_tokens is None else arguments.image_tokens
    return Prompt(tokens, min(image, tokens))


def _text(recipe: Recipe, found: MemoryEstimate, cluster: Cluster, prompt: Prompt) -> str:
    training, model = recipe.training, recipe.model
    how = "4-bit LoRA" if model.load_in_4bit else "8-bit LoRA" if model.load_in_8bit else ""
    how = how or ("LoRA" if model.use_peft else "full fine-tuning")
    shared_out = ", FSDP2" if cluster.fsdp else f", ZeRO-{cluster.stage}" * bool(cluster.stage)
    processes = f"{cluster.num_processes} process" + "es" * (cluster.num_processes > 1)
    lines = [
        f"{model.model_name_or_path}, {how}, {processes}{shared_out}{', offload' * cluster.offload}",
        f"{training.per_device_train_batch_size} completions of {training.max_completion_length} tokens at once, "
        f"prompts of {prompt.tokens:,} tokens, {prompt.image_tokens:,} of them pictures",
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
    note = "not measured on a GPU: leave room for the CUDA context (about 1 GiB) and for fragments"
    return "\n".join([*lines, "", note])
