"""OmniRL: rewards and a mixed-modality GRPO trainer for vision-language models, on top of TRL.

Importing this package does nothing. Start at `omnirl_core.rewards`, `omnirl_core.data`, `omnirl_core.trainer`
or `omnirl_core.shapes`.
"""

__version__ = "0.1.0"
