"""What check-rewards found over all rows: a line for each reward, the rows that fail, what hacks earn."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from omnirl_core.rewards.reward import Reward
from omnirl_core.types import counted
from omnirl_tools.checks.hack_advice import advice
from omnirl_tools.checks.hacks import BLIND
from omnirl_tools.checks.report_file import ReportFile
from omnirl_tools.checks.reward_check import FULL, Graded

SHOWN = 5
HIGH = 0.25
"""A hack is marked that earns more than a quarter of what a right answer adds to the right form."""


@dataclass
class RewardReport:
    """Counts, the first faults of each reward, and the largest and mean share of each hack."""

    path: Path | None
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
    payers: dict[str, Counter[str]] = field(default_factory=dict)
    """Hack -> what the rewards that gave it most gave, in thousandths."""

    def add(self, row: Graded, file: ReportFile) -> None:
        self.rows += 1
        self.bad_rows += bool(row.faults)
        self.unwritten += row.answer is None and not row.faults
        for reward in self.rewards:
            if reward.name in row.scores:
                score = row.scores[reward.name]
                wanted = 0.0 if reward.weight < 0 else 1.0
                counter = (
                    self.silent if score is None else self.full if abs(score - wanted) <= 1 - FULL else self.below
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
            self.payers.setdefault(hack, Counter())[row.payers.get(hack, "-")] += round(1000 * share)

    def __str__(self) -> str:
        parts = [self._rewards(), *self._faults()]
        if self.unwritten:
            verb = "holds" if self.unwritten == 1 else "hold"
            parts.append(
                f"{counted(self.unwritten, 'row')} {verb} no answer that could be written down (tests of a program)"
            )
        if self.shares:
            parts.append(self._hacks())
        return "\n\n".join([*parts, self._last()])

    def _last(self) -> str:
        said = [f"{counted(self.bad_rows, 'row')} or their rewards to mend"] if self.bad_rows else []
        if n := len(self._paying()):
            said.append(f"{counted(n, 'hack')} that {'pays' if n == 1 else 'pay'}")
        if said:
            return "not well yet: " + ", and ".join(said)
        return "all is well: the reference of every row earns full marks, and no hack pays"

    def _rewards(self) -> str:
        width = max(len("reward"), *(len(reward.name) for reward in self.rewards))
        lines = [f"{'reward':<{width}}  weight  {'full marks':>10}  {'below':>8}  {'no verdict':>10}"]
        for reward in self.rewards:
            name = reward.name
            lines.append(
                f"{name:<{width}}  {reward.weight:>6g}  {self.full[name]:>10,}  {self.below[name]:>8,}"
                f"  {self.silent[name]:>10,}"
            )
        lines.append(f"{counted(self.rows, 'row')}, {self.bad_rows:,} whose own reference cannot earn full marks")
        return "\n".join(lines)

    def _faults(self) -> list[str]:
        parts = []
        for reward, messages in self.shown.items():
            hidden = self.faults[reward] - len(messages)
            parts.append("\n".join([*messages, *[f"... and {hidden:,} more of {reward}"] * bool(hidden)]))
        return [*parts, f"every one of them, one a line: {self.path}"] if parts and self.path else parts

    def _hacks(self) -> str:
        paying = self._paying()
        title = f"what hacks earn, on {counted(max(map(len, self.shares.values())), 'row')}"
        lines = [f"{title:<38}  {'mean':>5}  {'most':>5}   (100 % is the reference's)"]
        for hack in BLIND:
            shares = self.shares[hack]
            mark = "  <- pays" if hack in paying else ""
            lines.append(f"  {hack:<36}  {sum(shares) / len(shares):>5.0%}  {max(shares):>5.0%}{mark}")
        lines += [advice(hack, self.payers[hack].most_common(1)[0][0]) for hack in paying]
        return "\n".join(lines)

    def _paying(self) -> list[str]:
        """The hacks that earn too much of what a right answer adds to the right form."""
        if not self.shares:
            return []
        form = max(self.shares["form only"])
        return [hack for hack in BLIND if max(self.shares[hack]) > form + HIGH * (1 - form)]
