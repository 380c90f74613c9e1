"""What mixed-safety costs a forward without images: Qwen2.5-VL-3B's vision tower on the smallest image.

    python benchmarks/vision_anchor.py

Random weights, fp32, the CPU time of a forward and backward pass. Measured on 4 of the tower's 32 blocks, one of
the language model's 36 layers, and its head, and counted up: whole, they need more memory than a small machine has.
Rollouts and the optimizer are left out, so the share of a real step is smaller than the one printed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLDecoderLayer,
    Qwen2_5_VLRotaryEmbedding,
)

BLOCKS, MEASURED_BLOCKS = 32, 4
LAYERS, HIDDEN, VOCABULARY = 36, 2048, 151_936
CONFIG = Qwen2_5_VLConfig(  # Qwen/Qwen2.5-VL-3B-Instruct, config.json
    text_config=dict(
        hidden_size=HIDDEN, intermediate_size=11_008, num_hidden_layers=1, num_attention_heads=16,
        num_key_value_heads=2, vocab_size=VOCABULARY, max_position_embeddings=128_000,
        rope_parameters={"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1_000_000.0},
    ),
    vision_config=dict(
        depth=MEASURED_BLOCKS, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=HIDDEN,
        patch_size=14, window_size=112, fullatt_block_indexes=[MEASURED_BLOCKS - 1], tokens_per_second=2,
    ),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512, help="of a text-only sequence, prompt and completion")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    tower = Qwen2_5_VisionTransformerPretrainedModel(CONFIG.vision_config)
    anchor = BLOCKS / MEASURED_BLOCKS * seconds(lambda: encode(tower, 2), args.repeats)
    language = LAYERS * seconds(layer_pass(args.tokens), args.repeats) + seconds(head_pass(args.tokens), args.repeats)
    print(f"fp32, {torch.get_num_threads()} thread(s) of a CPU, forward and backward")
    print(f"vision tower, smallest image (4 patches)   {anchor:8.2f} s")
    print(f"language model, one sequence of {args.tokens} tokens {language:8.2f} s")
    for rows in (1, 8):
        print(f"anchor's share of a micro-batch of {rows}: {anchor / (anchor + rows * language):.1%}")


def encode(tower: torch.nn.Module, side: int) -> None:
    pixels = torch.zeros(side * side, 3 * 2 * 14 * 14)  # (patches, values of a patch)
    tower(pixels, torch.tensor([[1, side, side]])).pooler_output.sum().backward()


def layer_pass(tokens: int) -> Callable[[], None]:
    CONFIG.text_config._attn_implementation = "sdpa"
    layer = Qwen2_5_VLDecoderLayer(CONFIG.text_config, layer_idx=0)
    rotary = Qwen2_5_VLRotaryEmbedding(CONFIG.text_config)
    hidden = torch.randn(1, tokens, HIDDEN, requires_grad=True)
    places = torch.arange(tokens).expand(3, 1, tokens)

    def run() -> None:
        output = layer(hidden, position_embeddings=rotary(hidden, places))
        (output[0] if isinstance(output, tuple) else output).sum().backward()

    return run


def head_pass(tokens: int) -> Callable[[], None]:
    head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False)
    hidden = torch.randn(tokens, HIDDEN, requires_grad=True)
    return lambda: torch.log_softmax(head(hidden), -1)[:, 0].sum().backward()


def seconds(run: Callable[[], None], repeats: int) -> float:
    """CPU time of a run, the median; the first is warm-up."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
