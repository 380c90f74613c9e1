"""SIGTERM and SIGINT stop a run at the next step, with a checkpoint; the same step on every rank."""

import logging
import os
import signal
import threading
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather
from transformers import TrainerCallback, TrainerControl

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class GracefulShutdown(TrainerCallback):
    """While it trains, the first signal asks for a checkpoint and the end; a second one ends the process at once.

    `enable_jit_checkpoint` of transformers 5.23 does so for SIGTERM on one process only, three seconds later, and
    also between the gradient and the step that it is for; a resumed run then draws other random numbers.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The signal that stopped the run, on whichever rank it came in."""
        self._received = 0
        self._replaced: dict[signal.Signals, Any] = {}

    def on_train_begin(self, *_: object, **__: object) -> None:
        if threading.current_thread() is threading.main_thread():  # Python takes handlers from no other
            self._replaced = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_step_end(self, args: object, state: object, control: TrainerControl, **kwargs: object) -> None:
        """Each rank asks the others at each step, so that no rank stops alone and leaves the others waiting."""
        received = torch.tensor([self._received], device=PartialState().device)
        agreed = int(gather(received).max())
        if agreed:
            self.signal = signal.Signals(agreed)
            control.should_save = control.should_training_stop = True

    def on_train_end(self, *_: object, **__: object) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, handler)
        self._replaced = {}

    def _receive(self, number: int, frame: Any) -> None:
        if self._received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received = number
