"""Count in how many samples each n-gram of the references is: the file that the reward `cider` weighs by.

    python scripts/caption_frequencies.py data/captions.jsonl recipes/captions/frequencies.json

Count the training data once and keep the file beside the rewards.yaml that names it.
"""

import argparse
import json
import sys
from pathlib import Path

from omnirl_core.data import load_records
from omnirl_core.rewards.overlap.captions import document_frequencies


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the training data")
    parser.add_argument("out", type=Path, help="a JSON file that is not there yet")
    arguments = parser.parse_args(argv)
    if arguments.out.exists():
        parser.error(f"{arguments.out} is there already; give another name")
    counted = document_frequencies(record.solution for record in load_records(arguments.data))
    arguments.out.write_text(json.dumps(counted, ensure_ascii=False), encoding="utf-8")
    print(f"{arguments.out}: {len(counted['ngrams']):,} n-grams of {counted['documents']:,} samples")
    return 0


if __name__ == "__main__":
    sys.exit(main())
