"""Attention by parts is attention under the dense mask; whatever else would read the mask fails loudly."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omnirl_core.trainer.shared_prefix.packing import PackMask, Span

SPANS = {
    "equal": [Span(0, 7, (4, 4, 4))],
    "ragged": [Span(0, 7, (3, 1, 5))],
    "no branches": [Span(0, 5, ())],
    "several groups": [Span(0, 7, (3, 1, 5)), Span(16, 4, ()), Span(20, 1, (2, 2)), Span(25, 9, (4,))],
    "one token": [Span(0, 1, ())],
    "prompts of one token": [Span(0, 1, (1, 2)), Span(4, 1, (3,))],
}


def dense(spans: list[Span], window: int | None = None) -> Tensor:
    """Token by token: of its own group, the prompt, or itself, up to itself; images whole; what a window leaves."""
    n = spans[-1].end
    group, branch, block = (torch.full((n,), -1) for _ in range(3))
    index = torch.arange(n)  # in the row that a completion would have alone
    for number, span in enumerate(spans):
        group[span.start : span.end] = number
        if span.blocks is not None:
            block[span.start : span.split] = span.blocks
        index[span.start : span.split] = torch.arange(span.prompt)
        place = span.split
        for own, length in enumerate(span.branches):
            branch[place : place + length] = own
            index[place : place + length] = torch.arange(span.prompt, span.prompt + length)
            place += length
    seen = torch.ones(n, n).tril().bool() | ((block[:, None] == block) & (block >= 0))
    seen &= (group[:, None] == group) & ((branch == -1) | (branch[:, None] == branch))
    if window is not None:
        seen &= index > index[:, None] - window
    return seen[None, None]


IMAGES = [Span(0, 9, (3, 1, 5), torch.tensor([-1, 0, 0, 0, -1, 1, 1, 1, -1])), Span(18, 4, (2,))]
"""Prompts with two images of three tokens, and with none."""


@pytest.mark.parametrize("window", [None, 1, 2, 3, 5, 8, 30])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("name", [*SPANS, "images"])
def test_parts_equal_the_dense_mask(name, heads, window):
    spans = SPANS.get(name, IMAGES)
    shapes = [(1, n, spans[-1].end, 8) for n in (heads[0], heads[1], heads[1])]
    q, k, v = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    settings = {"scale": 0.3, "enable_gqa": heads[0] != heads[1]}
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=PackMask.of(spans, q.device, window), **settings)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=dense(spans, window), **settings)
    assert torch.allclose(found, expected, atol=1e-12, rtol=0)
    weights = torch.randn_like(expected)
    moves = [torch.autograd.grad((output * weights).sum(), (q, k, v)) for output in (found, expected)]
    for ours, theirs in zip(*moves, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12, rtol=0)


def test_the_mask_takes_no_memory():
    mask = PackMask.of([Span(0, 4000, (500,) * 8)], torch.device("cpu"))
    assert mask.shape == (1, 1, 8000, 8000)
    assert mask.dtype == torch.bool
    with torch._C.DisableTorchFunctionSubclass():
        assert mask.untyped_storage().nbytes() == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda mask: torch.zeros(9, 9) + mask,
        lambda mask: mask.to(torch.float32),
        lambda mask: mask[..., :4],
        lambda mask: torch.where(mask, 0.0, 1.0),
        lambda mask: mask.cpu(),
    ],
)
def test_attention_that_does_not_know_the_mask_is_refused(use):
    with pytest.raises(NotImplementedError, match="attn_implementation: sdpa"):
        use(PackMask.of([Span(0, 3, (2, 4))], torch.device("cpu")))


def test_dropout_is_refused():
    mask = PackMask.of([Span(0, 3, (2, 4))], torch.device("cpu"))
    states = torch.randn(1, 2, 9, 4)
    with pytest.raises(NotImplementedError, match="disable_dropout"):
        F.scaled_dot_product_attention(states, states, states, attn_mask=mask, dropout_p=0.1)
