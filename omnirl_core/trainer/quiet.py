"""Silences the warnings of a run that no one can act on, each with its reason; nothing else."""

import os
import warnings


def silence_upstream_noise(use_cpu: bool = False) -> None:
    """Called when a trainer is made, never at import: importing changes nothing."""
    # TRL 1.16 and PEFT 0.21 read `model.is_gradient_checkpointing`, which transformers 5.23 has renamed
    warnings.filterwarnings("ignore", r".*gradient_checkpointing.* is deprecated", FutureWarning)
    # DeepSpeed 0.19 calls collectives by the names that torch 2.14 has replaced
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+_tensor` is deprecated", FutureWarning)
    if use_cpu:  # DeepSpeed, where it is installed, would warn that it found no accelerator
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
