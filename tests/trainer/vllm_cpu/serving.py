"""vLLM's API server on this machine, for as long as a test needs it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from scripts.ports import free_port

OF_COLOCATE = {"VLLM_ENABLE_V1_MULTIPROCESSING", "RANK", "LOCAL_RANK", "WORLD_SIZE"}


@contextmanager
def serving(engine: Path, checkpoint: str, log: Path, max_pixels: int | None) -> Iterator[int]:
    """Port of a server of the checkpoint, its images of at most so many pixels."""
    port = free_port()
    budget = [] if max_pixels is None else ["--mm-processor-kwargs", f'{{"max_pixels": {max_pixels}}}']
    command = [sys.executable, Path(__file__).parent / "serve.py", engine, checkpoint, port, *budget]
    environment = {name: value for name, value in os.environ.items() if name not in OF_COLOCATE}
    environment["VLLM_SERVER_DEV_MODE"] = "1"
    with (
        log.open("w") as output,
        subprocess.Popen(
            list(map(str, command)),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        try:
            _wait_until_up(process, port, log)
            yield port
        finally:
            process.terminate()
            process.wait(60)


def _wait_until_up(process: subprocess.Popen, port: int, log: Path, limit_s: float = 400) -> None:
    """What the server printed is the error where it does not come up."""
    end = time.monotonic() + limit_s
    while process.poll() is None and time.monotonic() < end:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return
        time.sleep(1)
    pytest.fail(log.read_text()[-4000:])
