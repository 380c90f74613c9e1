#!/usr/bin/env bash
# Measures on one GPU what the tests check on a CPU only: at most 10 minutes, a second call goes on with what is missing.
# Writes benchmarks/gpu/<card>.json and <card>.md. `--preset tiny` runs all of it on a CPU. Options: --help.
cd "$(dirname "$0")/.." && exec "${PYTHON:-python3}" benchmarks/gpu_check "$@"
