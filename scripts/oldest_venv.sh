#!/usr/bin/env bash
# Makes .venv-oldest: the versions of constraints-oldest.txt in front of the packages of .venv, which it reads too, so
# that torch and all that no test there is about are installed once. --no-deps: pip must not choose anything else.
set -euo pipefail
cd "$(dirname "$0")/.."
packages() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
[ -x .venv-oldest/bin/python ] || .venv/bin/python -m venv .venv-oldest
echo "import site; site.addsitedir('$(packages .venv)')" >"$(packages .venv-oldest)/newest.pth"
.venv-oldest/bin/python -m pip install -q --disable-pip-version-check --no-deps -r constraints-oldest.txt
.venv-oldest/bin/python - <<'PYTHON'
import importlib.metadata as metadata

lines = [line.strip() for line in open("constraints-oldest.txt") if line[0] != "#"]
wrong = [line for line in lines if metadata.version(line.partition("==")[0]) != line.partition("==")[2]]
raise SystemExit(f"not installed: {wrong}" if wrong else 0)
PYTHON
