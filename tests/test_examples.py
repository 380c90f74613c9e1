"""Every Python example of the documents runs as it stands: only model ids and data paths are stood in for."""

import doctest
import re
from pathlib import Path

import pytest
import torch

from omnirl_core.shapes import tiny_policy, write_dataset
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("recipes/*/*.md"))]
BLOCKS = [
    (document.relative_to(ROOT), number, block)
    for document in DOCUMENTS
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", document.read_text("utf-8"), re.DOTALL))
]
MODEL_IDS = r'"Qwen/Qwen2\.5-VL-\w+-Instruct"'


@pytest.fixture
def stood_in(tmp_path):
    """The block with its model and its data replaced by ones that are here."""
    data = write_dataset(tmp_path / "data", "mixed", n=14, seed=0)

    def make(block: str) -> str:
        block = re.sub(MODEL_IDS, repr(tiny_policy()), block)
        block = re.sub(r'"train\.jsonl?"', repr(str(data)), block)
        block = block.replace('image_root="images"', f"image_root={str(data.parent)!r}")
        return block.replace('"outputs/', f'"{tmp_path}/outputs/')

    return make


@pytest.fixture
def trained(monkeypatch):
    """The trainers that an example makes, each of two steps of short completions, on the CPU."""
    trainers = []
    finish, train = OmniGRPOConfig.__post_init__, OmniGRPOTrainer.train

    def short(self):
        self.max_steps, self.max_completion_length, self.use_cpu = 2, 16, True
        finish(self)

    monkeypatch.setattr(OmniGRPOConfig, "__post_init__", short)
    monkeypatch.setattr(OmniGRPOTrainer, "train", lambda self: (trainers.append(self), train(self))[1])
    return trainers


@pytest.mark.parametrize(
    ("document", "number", "block"), BLOCKS, ids=[f"{document}-{number}" for document, number, _ in BLOCKS]
)
def test_a_python_example_runs(document, number, block, stood_in, trained, monkeypatch):
    monkeypatch.chdir(ROOT)
    if ">>>" in block:
        flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
        examples = doctest.DocTestParser().get_doctest(block, _names_before(document, number), str(document), None, 0)
        assert doctest.DocTestRunner(optionflags=flags).run(examples).failed == 0
        return
    exec(compile(stood_in(block), f"{document}, example {number}", "exec"), {"__name__": "example"})
    for trainer in trained:
        assert trainer.state.global_step == 2
        assert trainer.args.bf16  # TRL's defaults, as is float32
        assert trainer.model.dtype == torch.float32
        assert trainer.shared_prefix is not None
    assert len(trained) == block.count("trainer.train()")


def _names_before(document: Path, number: int) -> dict:
    """What the earlier examples of a page import: doctests of one page go on from each other."""
    names: dict = {}
    for other, place, block in BLOCKS:
        if other == document and place < number:
            for line in re.findall(r"^>>> (from .*)$", block, re.MULTILINE):
                exec(line.partition("#")[0], names)
    return names


def test_the_readme_trains():
    assert sum("trainer.train()" in block for document, _, block in BLOCKS if document.name == "README.md") >= 1
