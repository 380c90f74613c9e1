#!/usr/bin/env bash
# Makes .vllm: vLLM's engine for CPUs, and of what it needs that which .venv has not. Beside the environment, not in it:
# vLLM asks for an earlier torch and transformers, and works with these. --no-deps: pip must not choose anything else.
set -euo pipefail
cd "$(dirname "$0")/.."
[ .vllm/.complete -nt constraints-vllm.txt ] && exit
rm -rf .vllm
.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --target .vllm -r constraints-vllm.txt
touch .vllm/.complete
