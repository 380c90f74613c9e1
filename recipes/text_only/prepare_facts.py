"""Data to text: a few facts in, one sentence out. Rows for a text-only policy, written by this module.

    python recipes/text_only/prepare_facts.py --out data/facts   # data/facts/train.json (400 rows) and test.json (100)

Four subjects, each with its fields and two or three ways to say them, all of which are references. Whether a set of
facts belongs to the training or the test split follows from a hash of the facts, so no test row can be met in training.
"""

import argparse
import json
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omnirl_core.shapes.dataset import write_new


@dataclass(frozen=True)
class Subject:
    """Fields with their values, and sentences with a place for each field."""

    fields: dict[str, tuple[str, ...]]
    sentences: tuple[str, ...]


SUBJECTS = {
    "restaurant": Subject(
        {
            "name": ("Blue Door", "The Anchor", "Casa Lima", "Green Olive", "Old Mill", "Seven Spoons"),
            "food": ("Greek", "Italian", "Indian", "Thai", "French", "Mexican"),
            "price": ("cheap", "pricey", "mid-priced"),
            "near": ("the station", "the river", "the old market", "the city park", "the harbour"),
        },
        (
            "{name} is a {price} {food} restaurant near {near}.",
            "Near {near}, {name} serves {price} {food} food.",
            "{name} near {near} serves {price} {food} food.",
        ),
    ),
    "train": Subject(
        {
            "from": ("Berlin", "Vienna", "Prague", "Zurich", "Milan", "Lyon"),
            "to": ("Warsaw", "Budapest", "Geneva", "Turin", "Munich", "Paris"),
            "leaves": ("at 6:40", "at 8:15", "at 11:05", "at 14:30", "at 19:50"),
            "platform": ("2", "4", "7", "9", "12"),
        },
        (
            "The train from {from} to {to} leaves {leaves} from platform {platform}.",
            "From platform {platform}, the train to {to} leaves {from} {leaves}.",
        ),
    ),
    "weather": Subject(
        {
            "city": ("Oslo", "Lisbon", "Dublin", "Athens", "Helsinki", "Madrid"),
            "day": ("Monday", "Tuesday", "Thursday", "Friday", "Sunday"),
            "sky": ("sunny", "cloudy", "rainy", "foggy", "windy"),
            "high": ("4", "9", "15", "21", "28"),
        },
        (
            "On {day} it will be {sky} in {city}, with a high of {high} degrees.",
            "{city} will be {sky} on {day}, with a high of {high} degrees.",
        ),
    ),
    "book": Subject(
        {
            "title": ("The Long Winter", "Paper Boats", "A Quiet Sea", "Glass Houses", "North of Here"),
            "author": ("Anna Berg", "Tom Reyes", "Li Chen", "Sara Novak", "Omar Haddad"),
            "kind": ("novel", "mystery", "memoir", "travel book"),
            "year": ("1987", "1999", "2008", "2015", "2021"),
        },
        (
            "{title} is a {kind} by {author}, published in {year}.",
            "{author} published the {kind} {title} in {year}.",
            "The {kind} {title} by {author} was published in {year}.",
        ),
    ),
}
ASK = "Write one short sentence that tells these facts. {facts}"


def write_facts(folder: str | Path, n: int, seed: int = 0, split: str = "train") -> Path:
    """Write `n` rows, no two alike, to `folder/<split>.json`; returns its path.

    Raises:
        ValueError: unknown split.
        FileExistsError: the file is there and holds other rows; it is never replaced.

    >>> import tempfile
    >>> row = json.loads(write_facts(tempfile.mkdtemp(), 1).read_text())[0]
    >>> row["problem"]
    'Write one short sentence that tells these facts. restaurant | name: Blue Door | food: Mexican | ...'
    >>> row["solution"][0]
    'Blue Door is a mid-priced Mexican restaurant near the old market.'
    """
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}; 'train' or 'test'")
    rng = random.Random(f"{seed}/{split}")
    rows: dict[str, dict] = {}
    while len(rows) < n:
        subject = list(SUBJECTS)[len(rows) % len(SUBJECTS)]
        values = {name: rng.choice(known) for name, known in SUBJECTS[subject].fields.items()}
        facts = " | ".join([subject, *(f"{name}: {value}" for name, value in values.items())])
        if _split_of(facts) == split:
            said = [sentence.format(**values) for sentence in SUBJECTS[subject].sentences]
            rows[facts] = {"problem": ASK.format(facts=facts), "solution": said, "task": subject}
    name = f"{split}.json"
    write_new(folder, {name: ("[\n" + ",\n".join(json.dumps(row) for row in rows.values()) + "\n]\n").encode()})
    return Path(folder) / name


def _split_of(facts: str) -> str:
    return "test" if zlib.crc32(facts.encode()) % 5 == 0 else "train"


def main(argv: Sequence[str] | None = None) -> None:
    """Write both splits to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="data/facts")
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--test", type=int, default=100)
    arguments = parser.parse_args(argv)
    for split, n in (("train", arguments.train), ("test", arguments.test)):
        try:
            print(write_facts(arguments.out, n, split=split))
        except OSError as error:
            parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
