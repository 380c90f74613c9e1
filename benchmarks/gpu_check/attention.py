"""Part `attention`: which kernels take the parts of a pack, how right they are, and a step with flash attention.

The reference is the same attention in float64 with a dense mask, on the CPU.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from policy import DEVICE
from presets import Preset
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from training import Run, measured, median_seconds, release

from omnirl_core.trainer.shared_prefix.packing import PackMask, Span

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
HEADS, SIZE = 4, 64
SPANS = {
    "equal branches": (Span(0, 70, (16, 16)), Span(102, 30, (8,) * 4)),
    "ragged": (Span(0, 70, (3, 16, 9)),),
}


def attention(preset: Preset) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for dtype in (torch.bfloat16, torch.float32):
        for name, spans in SPANS.items():
            yield f"pack, {name}, {str(dtype).removeprefix('torch.')}", partial(check_pack, spans, dtype)
    yield "the pack of `Ways to train`", lambda: time_pack(preset)
    for implementation in ("sdpa", "flash_attention_2"):
        yield f"step, {implementation}", partial(step, implementation, preset)


def step(implementation: str, preset: Preset) -> dict[str, Any]:
    """Of our trainer without a shared prefix, which other implementations than sdpa do not have."""
    if DEVICE == "cpu" or find_spec("flash_attn") is None:
        return {"status": "skipped", "reason": "flash-attn is not installed, or there is no GPU"}
    run = Run(preset.tuning_cell, training={"shared_prefix": "off"}, attention=implementation)
    found = measured(run, preset)
    found.pop("completions", None)
    return found


def states(spans: tuple[Span, ...], dtype: torch.dtype, heads: int = HEADS, size: int = SIZE) -> list[Tensor]:
    """Query, key and value of a pack, (1, heads, N, size), that want gradients."""
    random = torch.Generator().manual_seed(0)
    shape = (1, heads, spans[-1].end, size)
    made = [torch.randn(shape, generator=random).to(DEVICE, dtype) for _ in range(3)]
    return [tensor.requires_grad_() for tensor in made]


def dense(spans: tuple[Span, ...]) -> Tensor:
    """(N, N) bool, which token sees which: the specification, written out."""
    seen = torch.zeros(spans[-1].end, spans[-1].end, dtype=torch.bool)
    for span in spans:
        place = span.split
        for length in (span.prompt, *span.branches):
            start = span.start if length == span.prompt and place == span.split else place
            rows = torch.arange(start, start + length)
            seen[rows[:, None], rows[None]] = rows[:, None] >= rows[None]
            if start != span.start:
                seen[rows, span.start : span.split] = True
                place += length
    return seen


def run_pack(query: Tensor, key: Tensor, value: Tensor, spans: tuple[Span, ...]) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients."""
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=PackMask.of(spans, query.device))
    output.float().square().sum().backward()
    moves = [tensor.grad for tensor in (query, key, value)]
    for tensor in (query, key, value):
        tensor.grad = None
    return output.detach(), moves  # type: ignore[return-value]


def check_pack(spans: tuple[Span, ...], dtype: torch.dtype) -> dict[str, Any]:
    """Relative error of output and gradients, with whatever kernel is chosen, and the kernels that take it."""
    given = states(spans, dtype)
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in given]
    expected = F.scaled_dot_product_attention(*exact, attn_mask=dense(spans))
    expected.square().sum().backward()
    output, moves = run_pack(*given, spans)
    wanted = [expected.detach(), *(tensor.grad for tensor in exact)]
    errors = [relative(found, right) for found, right in zip([output, *moves], wanted, strict=True)]
    takes: dict[str, Any] = {}
    for name, backend in BACKENDS.items():
        try:
            with sdpa_kernel(backend):
                takes[name] = relative(run_pack(*given, spans)[0], expected.detach())
        except RuntimeError as error:
            takes[name] = str(error).splitlines()[0][:200]
    limit = 2e-2 if dtype == torch.bfloat16 else 1e-3
    status = "measured" if max(errors) < limit else "wrong"
    names = ("output", "query gradient", "key gradient", "value gradient")
    return {"status": status, "relative_error": dict(zip(names, errors, strict=True)), "kernels": takes}


def relative(found: Tensor, expected: Any) -> float:
    return ((found.cpu().double() - expected).norm() / expected.norm()).item()


def time_pack(preset: Preset) -> dict[str, Any]:
    """Seconds and peak MiB of one layer's attention, forward and backward: by parts, and with a dense mask."""
    cell = preset.tuning_cell
    spans = (Span(0, cell.prompt, (cell.completion,) * preset.group),)
    heads = preset.text["num_attention_heads"]
    given = states(spans, torch.bfloat16, heads, preset.text["hidden_size"] // heads)
    mask = dense(spans).to(DEVICE)

    def masked() -> None:
        F.scaled_dot_product_attention(*given, attn_mask=mask).float().square().sum().backward()

    found: dict[str, Any] = {"status": "measured"}
    for name, run in {"by parts": lambda: run_pack(*given, spans), "dense mask": masked}.items():
        release()
        found[name] = {"seconds": median_seconds(run, 10)}
        if DEVICE == "cuda":
            found[name]["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found
