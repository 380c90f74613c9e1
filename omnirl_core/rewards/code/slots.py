"""How many programs run at a time, over all answers of this process."""

import contextlib
import functools
import threading
from collections.abc import Iterator


class Slots:
    """Places for runs. A run of an answer that was slow before waits for those of answers that were not."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._quick_waiting = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, slow: bool = False) -> Iterator[None]:
        """Hold a place, waiting for one."""
        with self._changed:
            self._quick_waiting += not slow
            self._changed.wait_for(lambda: self._free > 0 and not (slow and self._quick_waiting))
            self._quick_waiting -= not slow
            self._free -= 1
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()


@functools.cache
def slots_of(pid: int, count: int) -> Slots:
    """The places of a process: a fork starts with places of its own, whatever was held at that moment."""
    return Slots(count)
