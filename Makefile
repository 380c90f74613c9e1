PYTHON ?= python3
BIN := .venv/bin
# one thread: as fast as two on a free machine for a policy this small, and the least slowed by other processes
RUN := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m omnirl_core.launch
# whole files to a worker, in the order of tests/conftest.py: the longest first, so that all workers end together
PYTEST := HF_HUB_OFFLINE=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with notebooks/sanitize.cfg

TRAINER_TESTS := $(addprefix tests/trainer/,test_seams.py test_matrix.py test_dummy_image.py test_model_reuse.py test_multimodal.py \
  shared_prefix/test_packing.py shared_prefix/test_rollout.py shared_prefix/test_support.py)

.PHONY: help setup setup-vllm demo ops test test-vllm test-all test-repeat test-oldest test-newest lint fmt notebooks docs fuzz bench
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(BIN)/.complete  ## make .venv with the tested versions (constraints.txt)

$(BIN)/.complete: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "OmniRL needs Python 3.11 or later: make setup PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup-vllm: setup  ## vLLM's engine for CPUs in .vllm (0.9 GB), for the tests marked vllm
	scripts/setup_vllm.sh

demo: setup  ## train the tiny policy on mixed rows on the CPU (two to five minutes) and show what it learned
	@$(RUN) --config_file accelerate_configs/cpu.yaml recipes/grpo.py --config recipes/mixed/demo.yaml; \
	code=$$?; case $$code in 75|130) exit 0;; *) exit $$code;; esac  # stopped by Ctrl-C: it has said how to go on

test: setup  ## lint, types, import rules, then every test and every notebook
	@$(MAKE) --no-print-directory -j 2 lint ops
	$(PYTEST) -m 'not repeat and not vllm' $(NBVAL) notebooks tests omnirl_core omnirl_tools
	@$(MAKE) --no-print-directory test-vllm

# vLLM changes the process that it is imported in: no other test runs there
test-vllm: setup  ## rollouts on vLLM's own engine; skipped without `make setup-vllm`
	$(PYTEST) -m 'vllm and not repeat' tests/trainer/vllm_cpu

ops: setup  # DeepSpeed compiles these on the first launch, which takes minutes: not within a test that has a time limit
	@PATH=$(CURDIR)/.venv/bin:$$PATH DS_ACCELERATOR=cpu TORCH_EXTENSIONS_DIR=$(CURDIR)/.venv/torch_extensions $(BIN)/python -c \
	  'from deepspeed.comm.torch import build_shm_op as a; from deepspeed.ops.op_builder import CPUAdamBuilder as B; a(), B().load()' >/dev/null 2>&1 || true

test-all: test test-repeat  ## the same, then what repeats a check with other draws and engines

test-repeat: setup
	$(PYTEST) -m 'repeat and not vllm'
	$(PYTEST) -m 'repeat and vllm' tests/trainer/vllm_cpu

test-oldest: setup  ## the trainer's tests with the oldest versions allowed (constraints-oldest.txt), in .venv-oldest
	scripts/oldest_venv.sh
	HF_HUB_OFFLINE=1 .venv-oldest/bin/python -m pytest -n auto --dist load $(TRAINER_TESTS)

test-newest:  ## the trainer's tests with the newest versions allowed, without constraints.txt, in .venv-newest
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install -q --disable-pip-version-check --upgrade --upgrade-strategy eager -e '.[dev]'
	HF_HUB_OFFLINE=1 .venv-newest/bin/python -m pytest -n auto --dist load $(TRAINER_TESTS)

lint: setup  ## ruff, mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: setup  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: setup  ## run the tutorial notebooks, each in a new process, and compare what they print with what they keep
	OMP_NUM_THREADS=1 $(PYTEST) $(NBVAL) notebooks

docs: setup  ## build the documentation site into site/; to read and search it: python -m http.server -d site
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q

fuzz: setup  ## fuzz every reader of answers and data, one minute each (SECONDS=60); findings in fuzz_findings/
	for target in tags boxes json_value jsonl json_list yaml_text record rewards mixture config; do \
	  $(BIN)/python tests/fuzz/coverage_guided.py $$target --seconds $(or $(SECONDS),60) || exit 1; done

bench: setup  ## measure against the libraries; the figures of benchmarks/RESULTS.md
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done
