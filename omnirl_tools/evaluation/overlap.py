"""Generated text against references, over a whole evaluation: sample means of the rewards, and corpus BLEU.

The means are those of `omnirl_core.rewards` on the same answers, so evaluation and training agree. Corpus BLEU is
sacrebleu's, for figures to be set beside published ones.
"""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from omnirl_core.rewards import bleu, meteor, overlap, rouge
from omnirl_core.text import answer_text, reference_texts
from omnirl_core.types import Settings

METRICS = {
    "bleu": bleu,
    "rouge1": lambda answer, reference: rouge(answer, reference, variant="rouge1"),
    "rouge2": lambda answer, reference: rouge(answer, reference, variant="rouge2"),
    "rougeL": lambda answer, reference: rouge(answer, reference, variant="rougeL"),
    "meteor": meteor,
    "overlap": overlap,
}
"""Per sample, in [0, 1]; of several references the best counts."""

_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")  # kana and ideographs


@dataclass(frozen=True)
class OverlapFigures:
    """Overlap of the answers with their references."""

    n: int
    """Rows with a reference; a row without an answer counts with 0."""
    n_without_answer: int
    n_without_reference: int
    """Left out of everything."""
    samples: list[dict[str, float]]
    means: dict[str, float]
    corpus_bleu: float | None
    """sacrebleu's, in [0, 100]; None where sacrebleu is not installed."""
    signature: str | None
    """How sacrebleu counted, to be cited with the figure."""


def overlap_figures(lines: Sequence[Settings], tokenize: str = "auto") -> OverlapFigures:
    """Measure the lines of an evaluation whose solutions are texts; the answer is the body of `<answer>`.

    `tokenize` is sacrebleu's (`13a`, `zh`, `char`, ...); `auto` takes `zh` where kana and ideographs prevail in
    the references, otherwise `13a`.

    >>> line = {"completion": "<think>a cat</think><answer>a cat sat on the mat</answer>"}
    >>> overlap_figures([line | {"solution": "a cat sat on the mat"}]).means["rougeL"]
    1.0
    """
    rows = [(answer_text(line["completion"]), reference_texts(line["solution"])) for line in lines]
    judged = [(answer, references) for answer, references in rows if references is not None]
    samples = [
        {name: (metric(answer, references) or 0.0) if answer else 0.0 for name, metric in METRICS.items()}
        for answer, references in judged
    ]
    means = {name: sum(s[name] for s in samples) / len(samples) for name in METRICS} if samples else {}
    score, signature = _corpus_bleu(judged, tokenize) if judged else (None, None)
    return OverlapFigures(
        n=len(judged),
        n_without_answer=sum(answer is None for answer, _ in judged),
        n_without_reference=len(rows) - len(judged),
        samples=samples,
        means=means,
        corpus_bleu=score,
        signature=signature,
    )


def _corpus_bleu(judged: Sequence[tuple[str | None, list[str]]], tokenize: str) -> tuple[float | None, str | None]:
    if importlib.util.find_spec("sacrebleu") is None:
        return None, None
    from sacrebleu.metrics import BLEU  # optional, and not needed by anything else

    streams = list(
        zip_longest(*(references for _, references in judged))
    )  # k-th reference of each row, None if it has fewer
    metric = BLEU(tokenize=_tokenizer(judged) if tokenize == "auto" else tokenize)
    result = metric.corpus_score([answer or "" for answer, _ in judged], [list(stream) for stream in streams])
    return result.score, str(metric.get_signature())


def _tokenizer(judged: Sequence[tuple[str | None, list[str]]]) -> str:
    text = "".join(reference for _, references in judged for reference in references)
    return "zh" if 2 * len(_UNSPACED.findall(text)) > sum(map(str.isalpha, text)) else "13a"
