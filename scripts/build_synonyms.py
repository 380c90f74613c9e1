"""Rebuild omnirl_core/rewards/overlap/wordnet30_synonyms.gz from the files of WordNet 3.0: nobody has to trust it.

    apt-get install wordnet-base
    python scripts/build_synonyms.py /usr/share/wordnet            # writes the table
    python scripts/build_synonyms.py /usr/share/wordnet --check    # compares, writes nothing

The table is text, one line a lemma: part of speech (n v a r) and lemma, then the words that share a synset with it;
`!` first where the lemma is no lower-case word itself (Aa-One). After a line `#`: irregular forms and their bases.
Names with a capital or of several tokens are left out, and lemmas of several tokens too, unless an irregular word
leads to one (comics to comic_strip). Formats: man pages wndb(5WN) and morph(7WN).
"""

import argparse
import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

TABLE = Path(__file__).parents[1] / "omnirl_core" / "rewards" / "overlap" / "wordnet30_synonyms.gz"
FILES = {"a": "adj", "n": "noun", "r": "adv", "v": "verb"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wordnet", type=Path, help="folder with data.noun, index.noun, noun.exc, ...")
    parser.add_argument("--output", type=Path, default=TABLE)
    parser.add_argument("--check", action="store_true", help="compare with the output file instead of writing it")
    arguments = parser.parse_args(argv)
    table = build(arguments.wordnet)
    if arguments.check:
        same = gzip.decompress(arguments.output.read_bytes()).decode() == table
        print(f"{arguments.output}: {'the same table' if same else 'ANOTHER table'}")
        return 0 if same else 1
    with (
        arguments.output.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=9, fileobj=file, mtime=0) as packed,
    ):
        packed.write(table.encode())
    print(f"wrote {arguments.output}: {table.count(chr(10))} lines")
    return 0


def build(wordnet: Path) -> str:
    """The whole table as text."""
    lemmas = sorted(line for part in FILES for line in lemma_lines(wordnet, part))
    irregular = sorted(line for part in FILES for line in irregular_lines(wordnet, part))
    return "\n".join([*lemmas, "#", *irregular])


def lemma_lines(wordnet: Path, part: str) -> Iterator[str]:
    synsets = read_synsets(wordnet / f"data.{FILES[part]}")
    bases = {base for line in irregular_lines(wordnet, part) for base in line.split()[1:]}
    for line in (wordnet / f"index.{FILES[part]}").read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):  # the licence stands at the head of each file
            continue
        lemma, _, count, pointers, *rest = line.split()
        if "_" in lemma and lemma not in bases:
            continue
        offsets = rest[int(pointers) + 2 :]
        assert len(offsets) == int(count), line
        shared = {name for offset in offsets for name in synsets[offset]}
        names = sorted(name for name in shared - {lemma} if is_word(name))
        yield " ".join([part + lemma, *([] if lemma in shared and is_word(lemma) else ["!"]), *names])


def read_synsets(path: Path) -> dict[str, list[str]]:
    """Offset -> the names of a synset."""
    synsets = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            offset, _, _, count, *rest = line.split(" ")
            names = rest[0 : 2 * int(count, 16) : 2]
            synsets[offset] = [name.partition("(")[0] for name in names]  # galore(ip): where it may stand
    return synsets


def irregular_lines(wordnet: Path, part: str) -> Iterator[str]:
    for line in (wordnet / f"{FILES[part]}.exc").read_text(encoding="utf-8").splitlines():
        form, *bases = line.split()
        if is_word(form):
            yield " ".join([part + form, *bases])


def is_word(name: str) -> bool:
    return "_" not in name and name == name.lower()


if __name__ == "__main__":
    sys.exit(main())
