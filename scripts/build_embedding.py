"""A small static embedding model from WordNet's synonyms: to try the `embedding` reward without a download.

    python scripts/build_embedding.py static_model    # 35 MB; then settings: {model: static_model}

The vector of a word is the mean of random vectors of the words that share a meaning with it, so synonyms are alike and
other words are not; function words are short, as in models that weigh words by how rare they are. It knows nothing else
of a language: take a trained one (`StaticModel.from_pretrained("minishlab/potion-base-8M").save_pretrained(folder)`).
"""

import argparse
import atexit
import shutil
import sys
import tempfile
from collections.abc import Collection
from functools import cache
from pathlib import Path

import numpy as np
from model2vec import StaticModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from omnirl_core.rewards.overlap.content import FUNCTION_WORDS
from omnirl_core.rewards.overlap.words import wordnet

DIMENSIONS = 128
LIGHT = 0.1  # length of a function word's vector; the others have 1


def words_up_to(letters: int) -> list[str]:
    """Words of the table of at most so many letters."""
    return [word for word in wordnet().lemmas() if len(word) <= letters]


def build(words: Collection[str]) -> StaticModel:
    """The model of these words and of the English function words."""
    table, light = wordnet(), FUNCTION_WORDS["en"]
    known = sorted({*light, *words})
    random = np.random.default_rng(0).standard_normal((len(known), DIMENSIONS))
    place = {word: k for k, word in enumerate(known)}
    vectors = np.zeros((len(known) + 1, DIMENSIONS), np.float32)  # the last is for unknown words
    for k, word in enumerate(known):
        shared = [place[other] for other in sorted(table[word] | {word}) if other in place]
        mean = random[[k] if word in light else shared].mean(0)
        vectors[k] = (LIGHT if word in light else 1.0) * mean / np.linalg.norm(mean)
    tokenizer = Tokenizer(models.WordLevel(place | {"[UNK]": len(known)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return StaticModel(vectors, tokenizer)


@cache
def demo_folder() -> str:
    """For tables and tests: a folder with the model of the words of up to seven letters, until the process ends."""
    folder = tempfile.mkdtemp(prefix="static-model-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    build(words_up_to(7)).save_pretrained(folder)
    return folder


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most_letters", type=int, default=20, help="of a word (default %(default)s)")
    arguments = parser.parse_args(argv)
    build(words_up_to(arguments.most_letters)).save_pretrained(arguments.folder)
    print(f"{arguments.folder}: set it as `model` of the reward `embedding`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
