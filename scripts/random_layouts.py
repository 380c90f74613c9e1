"""Random layouts of rows over 2 to 4 processes, each held to the single process: hangs and wrong results, counted.

    python scripts/random_layouts.py --layouts 200 --first_seed 1000

Rows of random kinds (text-only, one to three images), a random engine (DDP, ZeRO-2, ZeRO-3, FSDP2) and random
settings; gloo on the CPU, a tiny random Qwen2.5-VL. A watchdog ends a layout that makes no progress. Prints what
is wrong with each layout that is wrong, then a table by engine; the exit code says whether all were right.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "trainer"), str(TESTS / "distributed")]
from distributed_layouts import ENGINES, Layout, random_layout  # noqa: E402
from distributed_verdicts import verdicts  # noqa: E402
from tiny_models import noise_images, tiny_processor, tiny_qwen  # noqa: E402

KINDS = ("right", "hung", "failed", "wrong")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", type=int, default=200)
    parser.add_argument("--first_seed", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=3, help="watchdog over all of it")
    args = parser.parse_args(argv)
    layouts = [random_layout(args.first_seed + place) for place in range(args.layouts)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint, images = write_checkpoint(folder / "policy"), noise_images(folder)
        found = verdicts(layouts, checkpoint, images, folder / "layouts", args.hours * 3600)
    for layout, wrong in found.items():
        if wrong:
            print(f"{layout}\n  {wrong}\n")
    print(table(found))
    return int(any(found.values()))


def table(found: dict[Layout, str]) -> str:
    """Layouts by engine and by what became of them."""
    counts = Counter((layout.engine, kind(wrong)) for layout, wrong in found.items())
    lines = [f"{'':10}" + "".join(f"{name:>8}" for name in KINDS)]
    for engine in ENGINES:
        lines.append(f"{engine:10}" + "".join(f"{counts[engine, name]:>8}" for name in KINDS))
    sums = [sum(counts[engine, name] for engine in ENGINES) for name in KINDS]
    return "\n".join([*lines, f"{'all':10}" + "".join(f"{number:>8}" for number in sums)])


def kind(wrong: str) -> str:
    """Which of KINDS a verdict is."""
    return next((name for name in ("hung", "failed") if wrong.startswith(f"{name}: ")), "wrong" if wrong else "right")


def write_checkpoint(folder: Path) -> str:
    """The tests' random policy, whose weights are large enough that positions and pixels matter."""
    processor = tiny_processor()
    processor.save_pretrained(folder)
    tiny_qwen(processor.tokenizer).save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    sys.exit(main())
