"""What check-rewards found over all rows: a line for each reward, the rows that fail, what hacks earn."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from omnirl_core.checks.reward_check import FULL, Graded
from omnirl_core.rewards.hacks import BLIND
from omnirl_core.rewards.reward import Reward

SHOWN = 5
HIGH = 0.25
"""A hack is marked that earns more than a quarter of what a right answer adds to the right form."""


@dataclass
class RewardReport:
    """Counts, the first faults of each reward, and the largest and mean share of each hack."""

    path: Path
    rewards: list[Reward]
    rows: int = 0
    bad_rows: int = 0
    unwritten: int = 0
    full: Counter[str] = field(default_factory=Counter)
    below: Counter[str] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)
    shown: dict[str, list[str]] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    shares: dict[str, list[float]] = field(default_factory=dict)

    def add(self, row: Graded, file: TextIO) -> None:
        self.rows += 1
        self.bad_rows += bool(row.faults)
        self.unwritten += row.answer is None and not row.faults
        for reward in self.rewards:
            if reward.name in row.scores:
                score = row.scores[reward.name]
                wanted = 0.0 if reward.weight < 0 else 1.0
                counter = (
                    self.silent
                    if score is None
                    else self.full
                    if abs(score - wanted) <= 1 - FULL
                    else self.below
                )
                counter[reward.name] += 1
        for fault in row.faults:
            self.faults[fault.reward] += 1
            first = self.shown.setdefault(fault.reward, [])
            if len(first) < SHOWN:
                first.append(str(fault))
            file.write(f"{fault}\n".replace("\n", " ").rstrip() + "\n")
        for hack, share in row.hacks.items():
            self.shares.setdefault(hack, []).append(share)

    def __str__(self) -> str:
        parts = [self._rewards(), *self._faults()]
        if self.unwritten:
            parts.append(
                f"{self.unwritten:,} rows hold no answer that could be written down (tests of a program)"
            )
        if self.shares:
            parts.append(self._hacks())
        return "\n\n".join(parts)

    def _rewards(self) -> str:
        width = max(len("reward"), *(len(reward.name) for reward in self.rewards))
        lines = [f"{'reward':<{width}}  weight  {'full marks':>10}  {'below':>8}  {'no verdict':>10}"]
        for reward in self.rewards:
            name = reward.name
            lines.append(
                f"{name:<{width}}  {reward.weight:>6g}  {self.full[name]:>10,}  {self.below[name]:>8,}"
                f"  {self.silent[name]:>10,}"
            )
        lines.append(f"{self.rows:,} rows, {self.bad_rows:,} whose own gold answer cannot earn full marks")
        return "\n".join(lines)

    def _faults(self) -> list[str]:
        parts = []
        for reward, messages in self.shown.items():
            hidden = self.faults[reward] - len(messages)
            parts.append("\n".join([*messages, *[f"... and {hidden:,} more of {reward}"] * bool(hidden)]))
        return [*parts, f"every one of them, one a line: {self.path}"] if parts else []

    def _hacks(self) -> str:
        form = max(self.shares["form only"])
        high = form + HIGH * (1 - form)
        n_rows = max(map(len, self.shares.values()))
        lines = [
            f"{f'what hacks earn, on {n_rows} rows':<38}  {'mean':>5}  {'most':>5}   (100 % is the gold's)"
        ]
        for hack in BLIND:
            shares = self.shares[hack]
            mark = "  <- pays" if max(shares) > high else ""
            lines.append(f"  {hack:<36}  {sum(shares) / len(shares):>5.0%}  {max(shares):>5.0%}{mark}")
        return "\n".join(lines)
