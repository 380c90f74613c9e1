"""Programs as answers: the reward, its test cases, and the sandbox that runs them."""

from omnirl_core.rewards.code.code import code
from omnirl_core.rewards.code.isolation import isolation_level
from omnirl_core.rewards.code.sandbox import Limits, LocalSandbox, Outcome, Sandbox, SandboxError

__all__ = ["Limits", "LocalSandbox", "Outcome", "Sandbox", "SandboxError", "code", "isolation_level"]
