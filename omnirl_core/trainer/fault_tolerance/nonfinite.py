"""What a run does about numbers that are none: stop before they reach the weights, or leave the step out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from torch import Tensor

GRADIENT = "gradient norm"


class NonFiniteError(RuntimeError):
    """A loss, gradient norm or log-probability is NaN or infinite; names the rank and the rows."""


@dataclass(frozen=True)
class NonFinite:
    """One number that is none, and the rows of the micro-batch that it came from; picklable."""

    what: str
    """loss, gradient norm, or log-probability"""
    value: str
    rows: tuple[dict[str, Any], ...]
    """Lines as completions.jsonl has them: row, completion and rewards."""
    rank: int = 0

    def __str__(self) -> str:
        ids = sorted({str(row.get("row_id")) for row in self.rows})
        return f"{self.what} {self.value} on rank {self.rank}, rows {', '.join(ids) or 'unknown'}"

    def line(self) -> dict[str, Any]:
        """As faults.jsonl has it."""
        ids = [row.get("row_id") for row in self.rows]
        return {
            "kind": self.what,
            "value": self.value,
            "rank": self.rank,
            "row_ids": ids,
            "rows": list(self.rows),
        }


class Divergence:
    """Collects what is non-finite on this rank, and lets all ranks know at a place that all of them reach."""

    def __init__(self, rank: int, device: torch.device):
        self.rank = rank
        self.device = device
        self.in_a_row = 0
        """Steps left out since the last one that was taken."""
        self.skipped = 0
        self._found: list[NonFinite] = []

    def look_at(
        self, what: str, values: Tensor, rows: Sequence[dict[str, Any]], mask: Tensor | None = None
    ) -> None:
        """Note the rows of `values` (), (B,) or (B, C) that are not finite where `mask` is 1."""
        is_bad = ~values.detach().isfinite()
        if mask is not None:
            is_bad &= mask.bool()
        if not is_bad.any():
            return
        bad = values.detach()[is_bad][0].item()
        if is_bad.ndim and len(rows) == len(is_bad):
            rows = [
                row for row, is_one in zip(rows, is_bad.flatten(1).any(1).tolist(), strict=True) if is_one
            ]
        self._found.append(NonFinite(what, str(bad), tuple(rows), self.rank))

    def agreed(self) -> list[NonFinite]:
        """What any rank has found since the last call, on every rank; a collective that all of them must reach."""
        found, self._found = self._found, []
        n_found = torch.tensor([len(found)], device=self.device)
        if not int(gather(n_found).sum()):
            return []
        everywhere: list[NonFinite] = gather_object(found)
        causes = [one for one in everywhere if one.what != GRADIENT]
        return causes or everywhere  # a gradient that a loss has spoiled says nothing of its own
