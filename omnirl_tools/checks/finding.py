"""One thing that a check found, and how bad it is."""

from dataclasses import dataclass

BROKEN, WARNING = "broken", "warning"


@dataclass(frozen=True)
class Finding:
    """`broken` stops a run, `warning` may spoil one; `source` is where it is known from."""

    level: str
    what: str
    fix: str
    source: str = ""

    def __str__(self) -> str:
        source = f"\n         {self.source}" if self.source else ""
        return f"{self.level:<7}  {self.what}\n         fix: {self.fix}{source}"
