"""Silences warnings that no user can act on, each with its reason; imports the standard library only."""

import logging
import os
import warnings


def silence_imports() -> None:
    """Call before the libraries are imported."""
    # bitsandbytes 0.50 logs at its import that some CPUs could have a faster 4-bit kernel
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def silence_upstream_noise(use_cpu: bool = False) -> None:
    """Call when a trainer is made."""
    # TRL 1.16 and PEFT 0.21 read `model.is_gradient_checkpointing`, which transformers 5.23 has renamed
    warnings.filterwarnings("ignore", r".*gradient_checkpointing.* is deprecated", FutureWarning)
    # DeepSpeed 0.19 calls collectives by the names that torch 2.14 has replaced
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+_tensor` is deprecated", FutureWarning)
    if use_cpu:  # DeepSpeed, where it is installed, would warn that it found no accelerator
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
