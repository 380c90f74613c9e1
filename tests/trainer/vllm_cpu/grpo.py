"""recipes/grpo.py with vLLM's engine for CPUs, which `make setup-vllm` installs: the same arguments."""

import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "PYTHONPATH": str(Path(__file__).parent / "site"),  # vLLM looks into a model's class in a process of its own
    "TORCHDYNAMO_DISABLE": "1",  # the first answer would compile for a minute
}

if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    sys.path += [
        str(ROOT / ".vllm"),
        str(Path(__file__).parent),
    ]  # last: the project's own packages come first
    sys.path.insert(0, str(ROOT))
    from omnirl_core import launch

    launch.before_imports()
    import cpu_backend

    with cpu_backend.engines_kept():
        sys.argv[0] = str(ROOT / "recipes" / "grpo.py")
        runpy.run_path(sys.argv[0], run_name="__main__")
