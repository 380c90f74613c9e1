"""Environment, order and fixtures of the tests.

xdist's first process, which runs no test, reads this too: what takes seconds to import is imported where it is used.
"""

import gc
import os
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# where the processes of one pytest find the server of distributed/forked.py
os.environ.setdefault("OMNIRL_FORKED", f"{tempfile.gettempdir()}/omnirl_forked_{os.getpid()}")
# what DeepSpeed compiles depends on where its sources are: two environments would overwrite each other's, each time
os.environ.setdefault("TORCH_EXTENSIONS_DIR", f"{sys.prefix}/torch_extensions")
# one ninja for every process: another version's log makes it compile all of DeepSpeed's operators again
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="omnirl_trackio_")  # read when TRL imports it

from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("omnirl", deadline=None)  # machines are shared and noisy: no test asserts a wall time
settings.load_profile("omnirl")

LONGEST = (
    "memory/test_measured.py", "rewards/test_fuzz.py", "recipes/test_real_configs.py", "scripts/test_kill_points.py",
    "recipes/test_demo.py", "trainer/fault_tolerance/test_faults_of_ranks.py", "report/test_browser.py",
    "accelerate_configs/test_launches.py", "evaluation/test_agreement.py", "rewards/test_code_hostile.py",
    "accelerate_configs/test_multi_node.py",
    "trainer/shared_prefix/test_precision.py", "recipes/test_smollm2.py",
    "trainer/fault_tolerance/test_killed_rank.py", "trainer/shared_prefix/test_distributed.py",
    "report/test_figures_of_a_run.py", "trainer/fault_tolerance/test_resume.py",
    "trainer/test_dynamic_sampling.py", "trainer/test_families.py", "rewards/test_code_cpp.py",
    "trainer/test_drop_in.py", "trainer/fault_tolerance/test_checkpoint_storage.py", "recipes/test_evaluate.py",
    "recipes/test_seed_command.py", "trainer/shared_prefix/test_runtime.py", "scripts/test_long_run.py",
    "rewards/test_sandbox.py", "memory/test_estimate.py", "trainer/test_steps.py", "core/test_log_filters.py",
    "recipes/test_own_data.py", "trainer/test_model_reuse.py", "trainer/test_determinism.py",
)  # fmt: skip
"""Test files by the seconds that they take, from the most."""
_frozen = 0
"""Modules that were imported when garbage was last frozen."""


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of the random vision-language policy and its processor."""
    from tiny_models import tiny_processor, tiny_qwen

    folder = tmp_path_factory.mktemp("tiny_vlm")
    processor = tiny_processor()
    processor.save_pretrained(folder)
    tiny_qwen(processor.tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_text_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random text-only policy (Llama) and its tokenizer."""
    from tiny_models import tiny_llama, tiny_tokenizer

    folder = tmp_path_factory.mktemp("tiny_text")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    tiny_llama(tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def image_files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    from tiny_models import noise_images

    return noise_images(tmp_path_factory.mktemp("pictures"))


def pytest_xdist_auto_num_workers() -> int:
    """Two workers more than processors: tests of processes, browsers and time limits wait two fifths of theirs."""
    return (os.cpu_count() or 1) + 2


def pytest_configure(config: pytest.Config) -> None:
    """Kernels of notebooks are forks; the first notebook's is a process, which shows that it imports what it needs."""
    if not config.getoption("nbval", False):
        return
    from forked import kernel
    from ipykernel import kernelspec

    of_process = kernelspec.get_kernel_dict()
    kernelspec.get_kernel_dict = lambda: (
        of_process if "/01_" in os.environ["PYTEST_CURRENT_TEST"] else kernel(of_process)
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest come first: a worker that begins one last would leave the others idle.

    Before them the notebooks, whose kernels get the environment as no test has changed it.
    """
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    if missing := [str(path) for path in places if not path.exists()]:
        raise pytest.UsageError(f"tests/conftest.py: LONGEST names files that are not there: {missing}")
    items.sort(key=lambda item: -1 if item.path.suffix == ".ipynb" else places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    from accelerate.utils import imports

    # accelerate 1.15 reads the metadata of packages at each step, which is an eighth of a test's training
    imports._is_package_available = cache(imports._is_package_available)


def pytest_runtest_setup() -> None:
    """What was imported stays: accelerate collects garbage at each start of training, which took .6 s a time."""
    global _frozen
    if len(sys.modules) > _frozen + 200:
        _frozen = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def _same_start() -> None:
    import torch

    torch.manual_seed(0)
