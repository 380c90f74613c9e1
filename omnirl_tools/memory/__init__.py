"""How much memory a run needs, from configs alone. Start at `estimate_memory`; docs/memory.md says what is in it."""

from omnirl_tools.memory.estimate import Cluster, MemoryEstimate, estimate_memory
from omnirl_tools.memory.model_size import model_config
from omnirl_tools.memory.workload import Prompt

__all__ = ["Cluster", "MemoryEstimate", "Prompt", "estimate_memory", "model_config"]
