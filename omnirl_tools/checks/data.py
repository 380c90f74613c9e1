"""The check of whole data files: every row streamed through the data layer's own checks and `RowCheck`."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from omnirl_core.data import DataError
from omnirl_core.data.record import Record
from omnirl_core.data.sources import Source, checked_rows
from omnirl_core.types import counted
from omnirl_tools.checks.duplicates import EvaluationRows
from omnirl_tools.checks.parallel import chunks, in_order
from omnirl_tools.checks.report_file import ReportFile
from omnirl_tools.checks.row_check import KINDS, Checked, Fault, RowCheck

CHUNK = 64
LEAKED = "duplicate"
"""The kind of a fault that a good row has."""
SHOWN = 5
"""Faults of each kind that are printed; the report has them all."""


@dataclass
class DataReport:
    """What was found: counts, the first faults of each kind, and every one in the file `path`, if there is one."""

    path: Path | None
    rows: Counter[str] = field(default_factory=Counter)
    bad_rows: Counter[str] = field(default_factory=Counter)
    leaked: Counter[str] = field(default_factory=Counter)
    """Training rows that are good in themselves, and in the evaluation rows too."""
    n_images: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    shown: dict[str, list[str]] = field(default_factory=dict)

    def add(self, split: str, row: Checked, file: ReportFile) -> None:
        self.rows[split] += 1
        bad = any(fault.kind != LEAKED for fault in row.faults)
        self.bad_rows[split] += bad
        self.leaked[split] += bool(row.faults) and not bad
        self.n_images[split] += len(row.images)
        for fault in row.faults:
            self.faults[fault.kind] += 1
            first = self.shown.setdefault(fault.kind, [])
            if len(first) < SHOWN:
                first.append(fault.message)
            message = fault.message.replace("\n", " ")
            file.write(f"{message} [{fault.kind}]\n")

    def __str__(self) -> str:
        width = max(map(len, self.rows), default=0)
        lines = [
            f"{split:<{width}}  {_column(self.rows[split], 9, 'row')}  {_column(self.n_images[split], 9, 'image')}  "
            f"{_column(self.bad_rows[split], 7, 'bad row')}"
            + (f"  {self.leaked[split]:,} leaked" if self.leaked[split] else "")
            for split in self.rows
        ]
        for kind in [kind for kind in KINDS if self.faults[kind]]:
            lines += ["", f"{self.faults[kind]:,} x {kind}: {KINDS[kind]}"]
            lines += [f"  {message}" for message in self.shown[kind]]
            hidden = self.faults[kind] - len(self.shown[kind])
            lines += [f"  ... and {hidden:,} more"] * bool(hidden)
        lines.append("")
        if not self.faults:
            return "\n".join([*lines, "all is well: every row can be read, and every image that it names"])
        hidden = any(self.faults[kind] > SHOWN for kind in self.faults)
        if self.path is not None:
            lines.append(f"every fault, one a line: {self.path}")
        elif hidden:
            lines.append("--report FILE writes every fault to a file, one a line")
        lines.append(self._last())
        return "\n".join(lines)

    def _last(self) -> str:
        bad, leaked = self.bad_rows.total(), self.leaked.total()
        said = [f"{counted(bad, 'row')} to mend or leave out (on_bad_sample: skip)"] if bad else []
        said += [f"{counted(leaked, 'row')} to take out of one of the two files"] if leaked else []
        return "not well yet: " + ", and ".join(said)


def check_data(
    splits: dict[str, list[Source]],
    check: RowCheck,
    report: Path | None,
    *,
    asked: bool = False,
    workers: int = 1,
    seed: int = 0,
    allow_outside_image_root: bool = False,
    on_row: Callable[[], object] = lambda: None,
) -> DataReport:
    """Check all rows of the splits, the last of which is looked up for duplicates of the ones before it.

    Writes every fault to the file `report`, which is made without any only where it was `asked` for; `on_row` is
    called after each row. Reads as a stream: memory holds a few chunks of rows, and eight bytes and the paths of
    each row of the last split where there are several.
    """
    found = DataReport(report)
    check.keys = len(splits) > 1
    evaluation = EvaluationRows()
    with ReportFile(report, asked) as file:
        for split in reversed(splits):  # the evaluation rows first: the others are compared with them
            is_last = split == list(splits)[-1]
            rows = checked_rows(
                splits[split], seed=seed, read_on=True, allow_outside_image_root=allow_outside_image_root
            )
            for row in _checked(rows, check, workers):
                if check.keys and is_last:
                    evaluation.add(row)
                elif check.keys:
                    duplicate = evaluation.duplicate(row)
                    row = _with(row, duplicate) if duplicate else row
                found.add(split, row, file)
                on_row()
    return found


def _column(n: int, width: int, noun: str) -> str:
    return f"{n:>{width},} {noun}{' ' if n == 1 else 's'}"


def _checked(rows: Iterable[Record | DataError], check: RowCheck, workers: int) -> Iterator[Checked]:
    for chunk in in_order(_Chunk(check), chunks(rows, CHUNK), workers):
        yield from chunk


@dataclass
class _Chunk:
    """The check of a chunk as a worker takes it: rows that the data layer refused keep their place."""

    check: RowCheck

    def __call__(self, rows: list[Record | DataError]) -> list[Checked]:
        good = iter(self.check.many([row for row in rows if isinstance(row, Record)]))
        return [next(good) if isinstance(row, Record) else _refused(row) for row in rows]


def _refused(error: DataError) -> Checked:
    return Checked(error.row_id, (), (Fault("row", str(error)),))


def _with(row: Checked, fault: Fault) -> Checked:
    return Checked(row.row_id, row.images, (*row.faults, fault), row.key)
