"""Which checkpoint a run goes on from: whether one is whole, and the newest that is."""

import json
import logging
import os
from pathlib import Path

from omnirl_core.trainer.fault_tolerance.checkpoint_storage import CONTENTS, STATE, numbered_checkpoints
from omnirl_core.yaml_loader import ConfigError

logger = logging.getLogger(__name__)


def resume_path(asked: str | bool | None, run_folder: str | os.PathLike[str]) -> str | None:
    """The checkpoint that `resume_from_checkpoint` means: a path, `auto`, or true.

    `auto` takes the newest whole one, or none where there is none.

    Raises:
        ConfigError: the checkpoint is not there or not whole; with true, none is.
    """
    if asked is None or str(asked).lower() in ("", "false", "none"):
        return None
    if str(asked).lower() in ("auto", "true"):
        newest = newest_checkpoint(run_folder)
        if newest is None and str(asked).lower() == "true":
            raise ConfigError(
                [f"resume_from_checkpoint: true, but {run_folder} holds no whole checkpoint; `auto` would start anew"]
            )
        return None if newest is None else str(newest)
    fault = checkpoint_fault(str(asked))
    if fault is not None:
        raise ConfigError([
            f"resume_from_checkpoint: {asked} cannot be resumed: {fault}; give `auto` for the newest whole checkpoint "
            f"in {run_folder}"
        ])  # fmt: skip
    return str(asked)


def checkpoint_fault(folder: str | os.PathLike[str]) -> str | None:
    """What is missing from a checkpoint, None if it is whole.

    A checkpoint of another trainer has no list of its contents; there the trainer's state, which transformers
    writes last, has to be readable.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return "it does not exist"
    try:
        json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"its {STATE} is missing or torn ({error})"
    if not (folder / CONTENTS).exists():
        return None
    try:
        sizes = json.loads((folder / CONTENTS).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {CONTENTS} is torn ({error})"
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes in place of {size:,}"
    return None


def newest_checkpoint(run_folder: str | os.PathLike[str]) -> Path | None:
    """The whole checkpoint of the most steps; each newer one that is not whole is named in a warning."""
    for _, path in sorted(numbered_checkpoints(run_folder), reverse=True):
        fault = checkpoint_fault(path)
        if fault is None:
            return path
        logger.warning("%s is passed over: %s", path, fault)
    return None
