"""GRPO on samples of any mix of text and images. Start at `OmniGRPOTrainer` and `OmniGRPOConfig`."""

from omnirl_core.launch import silence_imports

silence_imports()

from omnirl_core.trainer.grpo_config import OmniGRPOConfig  # noqa: E402
from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer  # noqa: E402

__all__ = ["OmniGRPOConfig", "OmniGRPOTrainer"]
