"""GRPO on rows of any mix of text and pictures. Start at `OmniGRPOTrainer` and `OmniGRPOConfig`."""

from omnirl_core.quiet_imports import silence_imports

silence_imports()

from omnirl_core.trainer.config import OmniGRPOConfig  # noqa: E402
from omnirl_core.trainer.grpo import OmniGRPOTrainer  # noqa: E402

__all__ = ["OmniGRPOConfig", "OmniGRPOTrainer"]
