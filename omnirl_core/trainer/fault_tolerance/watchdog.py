"""What each rank is doing, for when one of them stops: a small file a rank, and the end of a process that stalls."""

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

RANKS = "ranks"
"""Folder in a run's folder with one file a rank; gone after a run that ends well."""
STALLED = 70
"""Exit code of a process that made no progress: EX_SOFTWARE of sysexits.h."""
GRACE_S = 5.0
"""How much later a rank ends that only waits for others, so that theirs is the first message."""
MOST_ROWS = 16
_WAITING = (os.path.join("torch", "distributed"), os.path.join("accelerate", "utils", "operations"))


class Watchdog:
    """Told at each stage of a step; between two stages at most `stall_timeout_s` may pass.

    A thread of Python watches, which can say what stalls; where C code holds the interpreter's lock, so that no
    thread runs, faulthandler's own watchdog prints the tracebacks and ends the process a little later.

    Args:
        trainer: OmniGRPOTrainer. Without a `stall_timeout_s`, the limit is what torch allows a collective, and a single
            process has none.
    """

    def __init__(self, trainer: "OmniGRPOTrainer"):
        settings = trainer.settings
        self.rank = trainer.accelerator.process_index
        self.path = Path(str(settings.output_dir)) / RANKS / f"rank{self.rank}.json"
        self.stall_timeout_s = settings.stall_timeout_s
        if self.stall_timeout_s is None and settings.world_size > 1:
            self.stall_timeout_s = float(settings.ddp_timeout)
        self.is_watching = False
        self._last = 0.0
        self._width = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the block; an error leaves the ranks' files for a look, and carries what they say."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)  # of a run that an error ended
        ended = threading.Event()
        self.is_watching, self._last = True, time.monotonic()
        if self.stall_timeout_s is not None:
            threading.Thread(target=self._watch, args=(ended,), daemon=True, name="watchdog").start()
        try:
            yield
        except BaseException as error:  # also a user's Ctrl-C in a notebook
            error.add_note(last_seen(self.path.parent.parent))
            raise
        finally:
            self.is_watching = False
            ended.set()
            if self.stall_timeout_s is not None:
                faulthandler.cancel_dump_traceback_later()
        self.path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty yet, or gone: whoever is last takes the folder away
            self.path.parent.rmdir()

    def ping(self, doing: str, step: int, row_ids: Iterable[object] = ()) -> None:
        """Say what begins now, and for which samples."""
        if not self.is_watching:
            return
        self._last = time.monotonic()
        rows = list(dict.fromkeys(str(row) for row in row_ids))
        state = {"rank": self.rank, "doing": doing, "step": step, "row_ids": rows[:MOST_ROWS]}
        text = json.dumps(state | {"since": time.time(), "pid": os.getpid()}).encode()
        self._width = max(self._width, len(text))
        with suppress(OSError):  # a full disk is told by what has to be written
            # in one write over the last one, never shorter: nobody reads a half; a file put in its place is written
            # out by ext4 at once, which takes milliseconds
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(file, text.ljust(self._width) + b"\n", 0)
            finally:
                os.close(file)
        if self.stall_timeout_s is not None:
            faulthandler.dump_traceback_later(self.stall_timeout_s + 2 * GRACE_S, exit=True, file=2)

    def _watch(self, ended: threading.Event) -> None:
        limit = self.stall_timeout_s or 0.0
        while not ended.wait(min(1.0, limit / 4)):
            idle = time.monotonic() - self._last
            if idle > limit + (GRACE_S if _waits_for_others() else 0.0) and not ended.is_set():
                self._end(idle)

    def _end(self, idle: float) -> None:
        waits = " (it waits for another rank)" if _waits_for_others() else ""
        print(
            f"\nrank {self.rank} has made no progress for {idle:.0f} s, above stall_timeout_s "
            f"{self.stall_timeout_s:g}{waits}; ending the job\n{last_seen(self.path.parent.parent)}",
            file=sys.__stderr__,
            flush=True,
        )
        faulthandler.dump_traceback(file=2, all_threads=True)
        os._exit(STALLED)


def last_seen(folder: str | os.PathLike[str]) -> str:
    """One line a rank: what it did last, for which rows, since when. Empty where no run is under way."""
    lines = []
    for path in sorted(Path(folder, RANKS).glob("rank*.json")):
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # its last words were cut
            continue
        since = datetime.fromtimestamp(state["since"]).strftime("%H:%M:%S")
        rows = f", rows {', '.join(state['row_ids'])}" if state["row_ids"] else ""
        lines.append(f"rank {state['rank']}: {state['doing']} of step {state['step']}{rows}, since {since}")
    return "\n".join(lines)


def _waits_for_others() -> bool:
    """Whether the main thread is within a collective."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in _WAITING):
            return True
        frame = frame.f_back
    return False
