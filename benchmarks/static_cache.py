"""Seconds of a rollout with transformers' dynamic cache, its static cache, and the static cache compiled, on a CPU.

    python benchmarks/static_cache.py [--policies tiny_policy outputs/smollm2_135m] [--repeats 5] [--write]

Greedy answers of 32 tokens to 8 prompts of 128 tokens by `generate`, one thread, the three ways one after the other in
each repeat, medians of processor seconds; the first call of each, which compiles, is shown by itself. Answers must be
the dynamic cache's. `--write` renews the section of benchmarks/RESULTS.md.
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from sections import processor, publish, software
from transformers import CompileConfig

from omnirl_core.models import load_policy
from omnirl_core.shapes import POLICIES

START, END = "<!-- made by benchmarks/static_cache.py -->", "<!-- end of benchmarks/static_cache.py -->"
N_PROMPTS, N_TOKENS, N_NEW = 8, 128, 32


def ways() -> dict[str, dict[str, Any]]:
    """Name -> what `generate` is given."""
    compiled = CompileConfig(fullgraph=False)
    compiled._compile_all_devices = True  # transformers 5.24 compiles on GPUs alone, unless a test asks for it
    return {
        "dynamic": {},
        "static": {"cache_implementation": "static", "disable_compile": True},
        "static, compiled": {"cache_implementation": "static", "compile_config": compiled},
    }


def seconds_of(model: Any, given: dict[str, Any], prompts: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Processor seconds of one rollout, and its answers, (B, N_NEW)."""
    start = time.process_time()
    with torch.no_grad():
        out = model.generate(prompts, do_sample=False, min_new_tokens=N_NEW, max_new_tokens=N_NEW, **given)
    return time.process_time() - start, out[:, prompts.shape[1] :]


def measure(name: str, repeats: int) -> list[str]:
    """Lines of the table for one policy."""
    model = load_policy(POLICIES[name]() if name in POLICIES else name, dtype=torch.float32).eval()
    torch.manual_seed(0)
    prompts = torch.randint(50, model.get_input_embeddings().num_embeddings, (N_PROMPTS, N_TOKENS))
    first = {way: seconds_of(model, given, prompts) for way, given in ways().items()}
    expected = first["dynamic"][1]
    seconds: dict[str, list[float]] = {way: [] for way in first}
    for _ in range(repeats):
        for way, given in ways().items():
            seconds[way].append(seconds_of(model, given, prompts)[0])
    plain = statistics.median(seconds["dynamic"])
    lines = []
    for way, (start, answers) in first.items():
        own = statistics.median(seconds[way])
        same = "yes" if torch.equal(answers, expected) else "no"
        lines.append(
            f"| `{os.path.basename(name)}` | {way} | {start:.2f} s | {own:.2f} s | {own / plain:.2f} | {same} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", default=["tiny_policy", "outputs/smollm2_135m"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="renew the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    section = "\n".join([
        START,
        "## Static and compiled caches",
        "",
        f"`python benchmarks/static_cache.py`: `generate` on {N_PROMPTS} prompts of {N_TOKENS} tokens, {N_NEW} new "
        "ones each, greedy, float32, processor seconds of one thread, medians. The first call of each shape of a batch "
        "compiles, where that is asked, and batches of images and text have many shapes: neither cache is offered.",
        "",
        "| policy | cache | first call | later calls | over dynamic | same answers |",
        "|---|---|---|---|---|---|",
        *[line for name in arguments.policies for line in measure(name, arguments.repeats)],
        "",
        f"{processor()}; {software()}.",
        END,
    ])  # fmt: skip
    publish(section, START, END, arguments.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
