"""On PYTHONPATH: puts vLLM's folder last on the path of the processes that vLLM starts."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[4] / ".vllm"))
