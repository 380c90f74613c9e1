"""Forward and backward over a group of each family that shares prefixes: plain rows against a pack.

    python benchmarks/shared_families.py [--families InternVL ...] [--repeats 5] [--write]

Random policies of scripts/model_families.py with a larger language model (six layers of width 256), their own
processors, one prompt of 512 tokens with two images, eight completions of 32 and of 128 tokens, fp32, one thread. Both
passes alternate in one process; figures are medians of CPU seconds, and the largest difference between the two passes'
log-probabilities. Must hold: 2.5 times as fast where the prompt has at least four times a completion's tokens.
`--write` renews the section of benchmarks/RESULTS.md.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image
from sections import publish, software
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from omnirl_core.models import unpadded
from omnirl_core.trainer.shared_prefix.packing import Prompt, encode_prompts, pack, packed_log_probs
from omnirl_core.trainer.shared_prefix.runtime import plain_fields
from scripts import family_parts, model_families, newer_families

START, END = "<!-- made by benchmarks/shared_families.py -->", "<!-- end of benchmarks/shared_families.py -->"
FAMILIES = (
    "Qwen2.5-VL", "Qwen3-VL-MoE", "InternVL", "InternVL3.5", "LLaVA-NeXT", "Mistral 3", "Idefics3", "SmolVLM",
    "Gemma 3", "GLM-4.1V",
)  # fmt: skip
GROUP, PROMPT, COMPLETIONS = 8, 512, (32, 128)
WIDTH = 256
SIZES = dict(
    hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=6, num_attention_heads=WIDTH // 8,
    num_key_value_heads=8, max_position_embeddings=4096,
)  # fmt: skip


def policy(family: str) -> tuple[Any, Any]:
    """Processor and model, in training mode."""
    torch.manual_seed(0)
    processor, model = model_families.FAMILIES[family]()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return processor, model.train()


def enlarge() -> None:
    """The language models of all families, and what their vision towers hand to them."""
    family_parts.TEXT.update(SIZES)
    newer_families.QWEN3_VISION["out_hidden_size"] = WIDTH
    qwen2_5 = model_families.qwen

    def qwen(kind: str, vision: dict[str, Any], **settings: Any) -> Any:
        wide = {"out_hidden_size": WIDTH} if "out_hidden_size" in vision else {}
        layers = {"layer_types": ["full_attention"] * 6} if kind == "Qwen2_5_VL" else {}
        return qwen2_5(kind, vision | wide, **settings | layers)

    model_families.qwen = qwen


def prompt(processor: Any, model: Any) -> Prompt:
    """Two images of noise, and text up to the wanted length."""
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2)]

    def encoded(n_words: int) -> Prompt:
        text = "a " * n_words
        blocks = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
        with unpadded(processor):
            found = processor.apply_chat_template(
                [[{"role": "user", "content": blocks}]], tokenize=True, return_dict=True, add_generation_prompt=True
            )
        fields = {name: value for name, value in found.items() if name not in ("input_ids", "attention_mask")}
        return encode_prompts(model.base_model, found["input_ids"], fields, [len(images)])[0]

    return encoded(max(0, PROMPT - len(encoded(0)) + 1) // 2)


def rows(model: Any, prompts: list[Prompt], ids: Tensor) -> Tensor:
    """Log-probabilities as TRL computes them: the prompt and its images in every row."""
    tokens = torch.cat([torch.stack([prompt.token_ids for prompt in prompts]), ids], 1)
    fields = plain_fields(prompts, *tokens.shape[1:], ids.shape[1])
    inputs = {name: value for name, value in fields.items() if not name.startswith("num_")}
    labels = tokens.clone()
    labels[:, : -ids.shape[1]] = -100
    output = model(
        input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=labels, fused_lm_head=True, **inputs
    )
    return output.log_probs[:, -ids.shape[1] :]


def measure(family: str, n_tokens: int, repeats: int) -> dict[str, Any]:
    processor, model = policy(family)
    own = prompt(processor, model)
    ids = torch.randint(40, 80, (GROUP, n_tokens), generator=torch.Generator().manual_seed(1))
    passes: dict[str, Callable[[], Tensor]] = {
        "rows": lambda: rows(model, [own] * GROUP, ids),
        "pack": lambda: packed_log_probs(model, model.base_model, pack([own] * GROUP, ids, torch.ones_like(ids)))[0],
    }
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    values: dict[str, Tensor] = {}
    for repeat in range(repeats + 1):  # the first is a warm-up
        for name in list(passes) if repeat % 2 else list(passes)[::-1]:
            model.zero_grad()
            begun = time.process_time()
            values[name] = passes[name]()
            values[name].sum().backward()
            seconds[name].append(time.process_time() - begun)
    medians = {name: statistics.median(spent[1:]) for name, spent in seconds.items()}
    difference = (values["rows"] - values["pack"]).abs().max().item()
    return {"family": family, "prompt": len(own), "completion": n_tokens, "difference": difference, **medians}


def section(lines: list[dict[str, Any]], repeats: int) -> str:
    head = ["family", "P", "C", "bound", "rows", "pack", "ratio", "largest difference"]
    table = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for one in lines:
        p, c = one["prompt"], one["completion"]
        bound = GROUP * (p + c) / (p + GROUP * c)
        table.append(
            f"| {one['family']} | {p} | {c} | {bound:.2f} | {one['rows']:.2f} s | {one['pack']:.2f} s "
            f"| **{one['rows'] / one['pack']:.2f}x** | {one['difference']:.0e} |"
        )
    return "\n".join([
        START,
        "## A shared prefix in other families",
        "",
        f"`python benchmarks/shared_families.py`: forward and backward over a group of {GROUP}, plain rows against a "
        f"pack, alternating in one process, medians of {repeats}, CPU seconds on one thread; random weights, two "
        "images in the prompt. `bound` is the ratio of tokens in the language model. Must hold: 2.5x where P >= 4C.",
        "",
        *table,
        "",
        f"{software()}.",
        END,
    ])  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="renew the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    enlarge()
    lines = []
    for family in arguments.families:
        for n_tokens in COMPLETIONS:
            lines.append(measure(family, n_tokens, arguments.repeats))
            print(lines[-1], file=sys.stderr, flush=True)
    made = section(lines, arguments.repeats)
    publish(made, START, END, arguments.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
