"""The Markdown page of what `benchmarks/gpu_check` has measured on a card."""

from collections.abc import Iterable
from typing import Any

PHASES = ("rollout", "log-probabilities", "forward+backward", "step")
SHOWN = ("torch", "transformers", "trl", "accelerate", "peft", "bitsandbytes", "flash-attn", "vllm")


def markdown(known: dict[str, Any]) -> str:
    parts = known["parts"]
    sections = [_head(known)]
    for title, make, names in (
        ("A GRPO step: TRL's trainer and ours with a shared prefix", _steps, ("steps",)),
        ("Peak memory, against `omnirl estimate-memory`", _peaks, ("steps",)),
        ("Ways to train", _tuning, ("tuning",)),
        ("The gradient of the shared prefix in bf16", _gradients, ("gradients",)),
        ("Attention", _attention, ("attention",)),
        ("The tiny policy on the GPU", _agreement, ("agreement", "demo")),
        ("Text-only passes of a mixed run", _anchor, ("anchor",)),
        ("vLLM in the training process", _colocate, ("colocate",)),
    ):  # fmt: skip
        items = {key: item for name in names for key, item in parts.get(name, {}).get("items", {}).items()}
        right = {key: item for key, item in items.items() if item["status"] != "failed"}
        failed = [
            f"- {key}: failed: {item['reason'].splitlines()[0]}" for key, item in items.items() if key not in right
        ]
        if items:
            lines = [*(make(right) if right else []), *([""] if right and failed else []), *failed]
            sections.append("\n".join([f"## {title}", "", *lines]))
    rows = [
        (name, part.get("status", "not started"), len(part.get("items", {})), part.get("seconds", 0))
        for name, part in parts.items()
    ]
    sections.append("\n".join(["## What was run", "", *_table(("part", "status", "items", "seconds"), rows)]))
    return "\n\n".join(sections) + "\n"


def _head(known: dict[str, Any]) -> str:
    machine = known["machine"]
    versions = [f"{name} {machine['versions'][name]}" for name in SHOWN if machine["versions"].get(name)]
    missing = [name for name in SHOWN if not machine["versions"].get(name)]
    memory = f", {machine['memory_gib']} GiB" if "memory_gib" in machine else ""
    policy = "A randomly initialised Qwen2.5-VL-3B" if known["preset"] == "3b" else "A tiny Qwen2.5-VL"
    return (
        f"# {machine['device']}\n\n"
        "Made by `scripts/gpu_check.sh`; `python benchmarks/gpu_check --help` says how to run it. "
        f"{policy} in bf16, bf16 autocast as TRL has it by default, one prompt a step, the optimizer step included; "
        "no gradient checkpointing unless a line says so. Random weights: the figures are of time, memory and "
        "equality, and say nothing about learning.\n\n"
        f"{machine['device']}{memory}; Python {machine['python']}, {', '.join(versions)}."
        + (f" Not installed: {', '.join(missing)}." if missing else "")
    )


def _table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> list[str]:
    names = [str(name) for name in head]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]


def _gib(mib: float | None) -> str:
    return "" if mib is None else f"{mib / 1024:.1f} GiB"


def _measured(item: dict[str, Any]) -> bool:
    return item["status"] == "measured"


def peak_mib(item: dict[str, Any]) -> float | None:
    """Of rollout and training, the larger."""
    peaks = [item[key] for key in ("rollout_peak_mib", "training_peak_mib") if key in item]
    return max(peaks) if peaks else None


def difference(item: dict[str, Any]) -> str:
    """Of the estimate from the measured peak."""
    measured, estimated = peak_mib(item), item["estimated_mib"]
    return f"{estimated['peak'] / measured - 1:+.0%}" if measured and estimated else ""


def _estimated(item: dict[str, Any]) -> str:
    return _gib(item["estimated_mib"]["peak"]) if item["estimated_mib"] else "failed"


def _steps(items: dict[str, Any]) -> list[str]:
    head = ("prompt", "P", "C", "G", "bound", *PHASES, "TRL's step", "our step", "same completions")
    rows = []
    for item in items.values():
        theirs, ours = item["trl"], item["ours"]
        both = _measured(theirs) and _measured(ours)
        rows.append((
            item["kind"], item["P"], item["C"], item["G"], f"{item['bound']:.2f}",
            *(f"{theirs['seconds'][p] / ours['seconds'][p]:.2f}x" if both else "" for p in PHASES),
            *(f"{one['seconds']['step']:.2f} s" if _measured(one) else one["status"] for one in (theirs, ours)),
            f"{item['equal_completions']} of {item['G']}" if both else "",
        ))  # fmt: skip
    return [
        "Medians of three steps; TRL's seconds over ours, phase by phase. `bound` is "
        "G(P+C)/(P+GC), the ratio of tokens in the language model. Completions of the last step from the same seed.",
        "",
        *_table(head, rows),
    ]


def _peaks(items: dict[str, Any]) -> list[str]:
    head = (
        "prompt",
        "P",
        "C",
        "TRL",
        "estimated",
        "difference",
        "ours",
        "estimated",
        "difference",
        "ours / TRL",
    )
    rows = []
    for item in items.values():
        row: list[Any] = [item["kind"], item["P"], item["C"]]
        for one in (item["trl"], item["ours"]):
            shown = _gib(peak_mib(one)) if _measured(one) else one["status"]
            row += [shown, _estimated(one), difference(one)]
        theirs, ours = peak_mib(item["trl"]), peak_mib(item["ours"])
        rows.append([*row, f"{ours / theirs:.2f}" if theirs and ours else ""])
    return [
        "Peak of `torch.cuda.max_memory_allocated`, weights and optimizer states included, without the CUDA context.",
        "",
        *_table(head, rows),
    ]


def _tuning(items: dict[str, Any]) -> list[str]:
    head = ("way", "step", "rollout", "forward+backward", "peak", "estimated", "difference", "reserved")
    rows = []
    for name, item in items.items():
        if not _measured(item):
            rows.append((name, f"{item['status']}: {item.get('reason', '')}".rstrip(": "), *[""] * 6))
            continue
        seconds = item["seconds"]
        rows.append((
            name, *(f"{seconds[phase]:.2f} s" for phase in ("step", "rollout", "forward+backward")),
            _gib(peak_mib(item)), _estimated(item), difference(item), _gib(item.get("reserved_mib")),
        ))  # fmt: skip
    return [
        "Our trainer, `shared_prefix: on` unless a line says so; G 8, one image of 512 x 512, P 512, C 32. "
        "`reserved` is what the allocator keeps from the device.",
        "",
        *_table(head, rows),
    ]


def _gradients(items: dict[str, Any]) -> list[str]:
    names = list(next(iter(items.values()))["gradient"])
    rows = [(key, *(f"{item['gradient'][name]:.4f}" for name in names)) for key, item in items.items()]
    passes = list(next(iter(items.values()))["log_probs"])
    logps = [(key, *(f"{item['log_probs'][name]:.5f}" for name in passes)) for key, item in items.items()]
    return [
        "Relative distance of gradients in bf16, all parameters together. `all at once` and `one by one` are plain "
        "passes over G samples; float32 has the same weights.",
        "",
        *_table(("cell", *names), rows),
        "",
        "Mean distance of log-probabilities:",
        "",
        *_table(("cell", *passes), logps),
    ]


def _attention(items: dict[str, Any]) -> list[str]:
    checks = {key: item for key, item in items.items() if "relative_error" in item}
    rows = [
        (
            key, *(f"{value:.1e}" for value in item["relative_error"].values()),
            *("yes" if isinstance(found, float) else "no" for found in item["kernels"].values()),
        )
        for key, item in checks.items()
    ]  # fmt: skip
    first = next(iter(checks.values()))
    lines = _table(("pack", *first["relative_error"], *first["kernels"]), rows)
    lines = [
        "Relative error against float64 with a dense mask, and which kernels take the parts.",
        "",
        *lines,
        "",
    ]
    for key, item in items.items():
        if "by parts" in item:
            text = (
                f"{name} {1000 * item[name]['seconds']:.2f} ms, peak {_gib(item[name].get('peak_mib')) or 'not read'}"
                for name in ("by parts", "dense mask")
            )
            lines.append(f"- One layer of {key}, forward and backward: {'; '.join(text)}.")
        elif key not in checks:
            seconds = f"{item['seconds']['step']:.2f} s, peak {_gib(peak_mib(item))}" if _measured(item) else ""
            lines.append(f"- {key}, `shared_prefix: off`: {seconds or item.get('reason', item['status'])}.")
    return lines


def _agreement(items: dict[str, Any]) -> list[str]:
    lines = []
    for key, item in items.items():
        if "equal" in item:
            scores = ", ".join(f"{device} {score:.3f}" for device, score in item["mean_score"].items())
            text = f"{item['equal']} of {item['answers']} equal; mean score: {scores}"
        elif "same_bits" in item:
            text = "the same bits" if item["same_bits"] else f"largest difference {item['largest_difference']:.1e}"
        elif "result" in item:
            text = f"{item['steps']} steps in {item['seconds']:.0f} s, start and evaluations included"
        else:
            text = f"{item['steps']} steps ran"
        lines.append(f"- {key}: {text}.")
    return lines


def _anchor(items: dict[str, Any]) -> list[str]:
    (item,) = items.values()
    rows = [(name, f"{1000 * seconds:.0f} ms") for name, seconds in item["seconds"].items()]
    text = f"Forward and backward over {item['samples']} text-only samples of {item['tokens']} tokens."
    return [text, "", *_table(("vision tower", "forward+backward"), rows)]


def _colocate(items: dict[str, Any]) -> list[str]:
    return [
        f"- {key}: " + (f"step {item['seconds']['step']:.2f} s, rollout {item['seconds']['rollout']:.2f} s."
        if _measured(item) else f"{item['status']}: {item.get('reason', '')}.")
        for key, item in items.items()
    ]  # fmt: skip
