"""A reward by the meaning of words: cosine similarity of static embeddings (model2vec), offline and without torch."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from omnirl_core.rewards.answers.answers import best_of_references
from omnirl_core.rewards.answers.short_answers import CONTRADICTED
from omnirl_core.rewards.overlap.content import LIGHT_WEIGHT, asks, weigh
from omnirl_core.rewards.overlap.contradiction import contradictions
from omnirl_core.rewards.reward import on_answer

if TYPE_CHECKING:
    from model2vec import StaticModel

MOST_CHARACTERS = 10_000  # of an answer, unless the reference is longer


@on_answer
@asks
@best_of_references
def embedding(
    prediction: str,
    solution: str,
    *,
    model: str = "",
    floor: float = 0.3,
    threshold: float | None = None,
    needs_fact: bool = True,
    question: str,
) -> float | None:
    """Cosine similarity of answer and reference by a static embedding model, in [0, 1]; up to `floor` it is 0.0.

    `model` is the folder of a model2vec `StaticModel` (relative to the rewards.yaml): model.safetensors,
    tokenizer.json, config.json. It is read once and nothing is fetched. A text is the mean of its tokens' vectors, so
    "a puppy naps on the couch" is like "a dog sleeps on the sofa", but the order of words, a repetition and "not"
    cannot be told: combine it with a reward that can (`gated_by: keywords`). Where the question is known (columns
    `problem`, `prompt`), the words that are neither of it nor function words must be alike too, and a fact that the
    answer has otherwise (denial, number, colour, name) leaves a tenth; `needs_fact: false` is the cosine alone.
    `threshold` makes it 1.0 from that cosine on and 0.0 below. None where the model knows no token of the reference;
    an answer of over 10,000 characters, and longer than the reference, is 0.0.

    Raises:
        ValueError: `model` is not set, or no such folder.
        ImportError: model2vec is not installed.
    """
    _read(model)
    if _vector(model, solution) is None:
        return None
    if len(prediction) > max(MOST_CHARACTERS, len(solution)):
        return 0.0
    cosine, share = _cosine(model, prediction, solution), 1.0
    if question and needs_fact and cosine > floor:
        pair = weigh(prediction, solution, question, LIGHT_WEIGHT)
        if pair is not None:
            cosine = min(cosine, _cosine(model, pair.predicted.joined, pair.reference.joined))
        share = CONTRADICTED ** contradictions(prediction, solution, question)
    if threshold is not None:
        return float(share == 1.0 and cosine >= threshold)
    return share * cosine if cosine > floor else 0.0


def _cosine(model: str, prediction: str, solution: str) -> float:
    """In [0, 1]: a negative one is 0.0, as is that of a text without a known token."""
    a, b = _vector(model, prediction), _vector(model, solution)
    return 0.0 if a is None or b is None else float(np.clip(a @ b, 0.0, 1.0))


@lru_cache(maxsize=64)
def _vector(model: str, text: str) -> np.ndarray | None:
    """(dimension,): the text's vector of length 1; None where the model knows no token of it."""
    vector = _read(model).encode([text], max_length=None)[0].astype(np.float64)
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else None


@lru_cache(maxsize=4)
def _read(folder: str) -> "StaticModel":
    wanted = "the folder of a model2vec StaticModel (model.safetensors, tokenizer.json, config.json)"
    if not folder:
        raise ValueError(f"model: it is not set; set it to {wanted}")
    if find_spec("model2vec") is None:
        raise ImportError("the `embedding` reward needs model2vec: pip install -e '.[embedding]' in the checkout")
    from model2vec import StaticModel

    try:
        if not Path(folder).is_dir():
            raise FileNotFoundError("no such folder")
        return StaticModel.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"model: {folder!r} cannot be read ({error}); set it to {wanted}") from error


embedding.files = ("model",)  # type: ignore[attr-defined]  # settings that load_rewards takes relative to its file
