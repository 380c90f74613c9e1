"""What a tutorial notebook does first."""

import logging
import shutil
from pathlib import Path

from omnirl_tools.report.figures import style


def start(folder: str | Path) -> Path:
    """Set the figures' style, keep libraries from talking between the cells, and return an empty folder to work in.

    Call it before the trainer is imported. What an earlier run left in the folder is removed, so that a notebook
    gives the same when it is run again; nothing but `outputs/...` is taken for such a folder.

    Raises:
        ValueError: the folder is not below `outputs`.
    """
    from transformers.utils.logging import disable_progress_bar

    folder = Path(folder)
    if folder.parts[:1] != ("outputs",) or len(folder.parts) < 2 or ".." in folder.parts:
        raise ValueError(f"start({str(folder)!r}): the folder is emptied, so it has to be 'outputs/<name>'")
    style()
    disable_progress_bar()  # a bar for every file of a checkpoint
    # bitsandbytes 0.50 asks on some processors for a package of kernels that nothing here uses
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
