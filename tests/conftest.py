"""A random Qwen2.5-VL with its real processor, small enough to build in a second; nothing is fetched."""

import gc
import os
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# where the processes of one pytest find the server of accelerate_configs/forked.py
os.environ.setdefault("OMNIRL_FORKED", f"{tempfile.gettempdir()}/omnirl_forked_{os.getpid()}")
# what DeepSpeed compiles depends on where its sources are: two environments would overwrite each other's, each time
os.environ.setdefault("TORCH_EXTENSIONS_DIR", f"{sys.prefix}/torch_extensions")
# one ninja for every process: another version's log makes it compile all of DeepSpeed's operators again
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="omnirl_trackio_")  # read when TRL imports it

from functools import cache
from pathlib import Path

import accelerate.utils.imports
import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

settings.register_profile(
    "omnirl", deadline=None
)  # machines are shared and noisy: no test asserts a wall time
settings.load_profile("omnirl")

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PATCH = 8
LONGEST = (
    "trainer/test_distributed.py", "trainer/fault_tolerance/test_killed_rank.py",
    "accelerate_configs/test_launches.py", "recipes/test_demo.py", "trainer/test_drop_in.py",
    "trainer/shared_prefix/test_distributed.py", "trainer/fault_tolerance/test_faults_of_ranks.py",
    "recipes/test_seed_command.py", "test_kill_points.py", "test_long_run.py", "memory/test_measured.py",
    "trainer/shared_prefix/test_precision.py", "trainer/test_families.py", "trainer/test_steps.py",
    "recipes/test_real_configs.py", "report/test_browser.py", "trainer/fault_tolerance/test_checkpoint_storage.py",
    "accelerate_configs/test_multi_node.py", "trainer/shared_prefix/test_runtime.py",
    "trainer/fault_tolerance/test_resume.py", "trainer/test_matrix.py", "fuzz/test_fuzz.py",
)  # fmt: skip
"""Test files by the seconds that they take, from the most."""
_frozen = 0
"""Modules that were imported when garbage was last frozen."""
# accelerate 1.15 reads the metadata of packages at each step, which is an eighth of a test's training
accelerate.utils.imports._is_package_available = cache(accelerate.utils.imports._is_package_available)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and Qwen's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        clean_up_tokenization_spaces=False,
    )


def tiny_processor() -> Qwen2_5_VLProcessor:
    size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    images = Qwen2VLImageProcessor(size=size, patch_size=PATCH, merge_size=2, temporal_patch_size=2)
    videos = Qwen2VLVideoProcessor(size=size, patch_size=PATCH, merge_size=2, temporal_patch_size=2)
    return Qwen2_5_VLProcessor(images, tiny_tokenizer(), videos, chat_template=TEMPLATE)


def tiny_qwen(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """Random, with weights so large that positions and pixels move the log-probabilities."""
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0},
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        ),
        vision_config=dict(
            depth=2, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=32, patch_size=PATCH,
            window_size=4 * PATCH, fullatt_block_indexes=[1], tokens_per_second=2,
        ),
        tie_word_embeddings=True,
        image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"), vision_end_token_id=token("<|vision_end|>"),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3 if "embed" in name else 0.25)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of the random vision-language policy and its processor."""
    folder = tmp_path_factory.mktemp("tiny_vlm")
    processor = tiny_processor()
    processor.save_pretrained(folder)
    tiny_qwen(processor.tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_text_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random text-only policy (Llama) and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_text")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def noise_images(folder: Path) -> list[str]:
    """Paths of six noise images of six sizes."""
    random = np.random.default_rng(0)
    paths = []
    for number, (width, height) in enumerate([(32, 32), (48, 32), (32, 64), (100, 60), (16, 16), (64, 40)]):
        path = folder / f"{number}.png"
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        paths.append(str(path))
    return paths


@pytest.fixture(scope="session")
def image_files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return noise_images(tmp_path_factory.mktemp("pictures"))


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


def pytest_runtest_setup() -> None:
    """What was imported stays: accelerate collects garbage at each start of training, which took .6 s a time."""
    global _frozen
    if len(sys.modules) > _frozen + 200:
        _frozen = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)
