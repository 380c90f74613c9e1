"""GRPO on rows of any mix of text and pictures. Start at `OmniGRPOTrainer` and `OmniGRPOConfig`."""

from omnirl_core.trainer.config import OmniGRPOConfig
from omnirl_core.trainer.grpo import OmniGRPOTrainer

__all__ = ["OmniGRPOConfig", "OmniGRPOTrainer"]
