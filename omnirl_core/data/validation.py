"""What is done about bad rows, and how far images are looked at before training."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from omnirl_core.data.image_checks import LEVELS, with_checked_images
from omnirl_core.data.record import DataError, Record
from omnirl_core.type_checks import check_choice

ON_BAD_SAMPLE = ("error", "skip")


@dataclass(frozen=True)
class RowRules:
    """How strict reading is.

    `on_bad_sample`: `error` refuses the data, `skip` leaves bad rows out. `check_images`: `exists`, `header` or
    `pixels`; `skip` always looks at all pixels, since an image that turned out bad during training could not be
    left out without changing what every process draws after it. `allow_outside_image_root`: images may lie
    anywhere. `bad_rows`: what `find_bad_rows` found, on all processes together; exactly these rows are then left
    out, and no image is looked at again.
    """

    on_bad_sample: str = "error"
    check_images: str = "exists"
    allow_outside_image_root: bool = False
    bad_rows: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        check_choice("on_bad_sample", self.on_bad_sample, ON_BAD_SAMPLE)
        check_choice("check_images", self.check_images, LEVELS)

    def settled(self, rows: Iterable[Record | DataError]) -> Iterator[Record | DataError]:
        """The rows, each bad one as a DataError."""
        if self.bad_rows is None:
            yield from with_checked_images(
                rows, "pixels" if self.on_bad_sample == "skip" else self.check_images
            )
            return
        for row in rows:
            row_id = row.source if isinstance(row, Record) else row.row_id
            if row_id in self.bad_rows:
                yield DataError(self.bad_rows[row_id], row_id)
            elif isinstance(row, DataError):  # another process, or a moment ago, found it good
                raise DataError(f"{row}; the check before found no fault: did the data change?", row_id)
            else:
                yield row
