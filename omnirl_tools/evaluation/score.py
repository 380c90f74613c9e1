"""Held-out evaluation with the rewards of training: one line per row, ready for `compare` and the report."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from omnirl_core.data.record import modality
from omnirl_core.rewards.grounding import box_reading
from omnirl_core.rewards.reward import Reward, signature_of
from omnirl_core.trainer.fault_tolerance.reward_guard import GuardedReward, RewardError, RewardFault, listed
from omnirl_core.types import Line, Sample
from omnirl_tools.evaluation.generate import Generation, generate
from omnirl_tools.evaluation.lines import weighted_mean

logger = logging.getLogger(__name__)

NOT_COLUMNS = ("prompt", "completion", "completion_ids", "images", "image_sizes", "resized_sizes")


def plain_scores(reward: Reward, **columns: Any) -> list[float | None]:
    """What the reward gives, or raises."""
    return reward(**columns)


def guarded_scores(
    reward: Reward,
    *,
    timeout_s: float | None = None,
    on_error: str = "stop",
    rank: int = 0,
    **columns: object,
) -> list[float | None]:
    """What the reward gives, held to the contract that it has in training.

    Raises:
        RewardError: it broke the contract, and `on_error` is not `abstain`, which gives None there and warns.
    """
    faults: list[RewardFault] = []
    name, abstains = str(getattr(reward, "__name__", reward)), on_error == "abstain"
    guarded: Any = GuardedReward(reward, name, timeout_s, abstains, rank, faults).guarded()
    scores = guarded(**columns)
    if faults and not abstains:
        remedy = "fix the function, or set on_reward_error: abstain, which scores None there"
        raise RewardError(f"held-out samples: {listed(faults, then=remedy)}")
    if faults:
        logger.warning("held-out samples: %s", listed([replace(fault, trace=None) for fault in faults]))
    return scores


def evaluate(
    model: object,
    processor: object,
    rows: Sequence[Sample],
    rewards: Sequence[Reward],
    *,
    max_new_tokens: int,
    batch_size: int = 16,
    temperature: float = 0.0,
    seed: int = 0,
    progress: str | None = None,
    call: Callable[..., list[float | None]] = plain_scores,
) -> list[Line]:
    """Answer each row and grade the answer; return the lines of `before.jsonl` and `after.jsonl`.

    Rows are what `omnirl_core.data.load_dataset` draws. See `generate` for the settings of generation and
    `score_rows` for what a line holds.
    """
    rows = list(rows)
    generations = generate(
        model,
        processor,
        rows,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        temperature=temperature,
        seed=seed,
        progress=progress,
    )
    return score_rows(rows, generations, rewards, call)


def score_rows(
    rows: Sequence[dict[str, object]],
    generations: Sequence[Generation],
    rewards: Sequence[Reward],
    call: Callable[..., list[float | None]] = plain_scores,
) -> list[Line]:
    """Grade completions that are already there; one line per row.

    `rewards` holds each reward's value, null where it does not judge the row; `score` is their mean under
    `weights`, null where none judges it. On rows that a box reward judges, `boxes` says how it read them.
    `call(reward, **columns)` calls a reward, and may guard it.
    """
    values = {reward.__name__: _call(reward, rows, generations, call) for reward in rewards}
    weights = {reward.__name__: float(reward.weight) for reward in rewards}
    form = [reward.__name__ for reward in rewards if not _reads_solution(reward)]
    readings = {reward.__name__: box_reading(reward) for reward in rewards}
    lines = []
    for place, (row, generation) in enumerate(zip(rows, generations, strict=True)):
        own = {name: column[place] for name, column in values.items()}
        line = describe_row(row, generation, place)
        line |= {
            "rewards": own,
            "weights": weights,
            "format_rewards": form,
            "score": weighted_mean(own, weights),
        }
        reading = next((readings[name] for name in own if own[name] is not None and readings[name]), None)
        lines.append(line | ({"boxes": reading} if reading else {}))
    return lines


def _reads_solution(reward: Any) -> bool:
    """Whether a reward compares with the solution; one that does not judges form or length."""
    scorer = getattr(reward, "scorer", None)
    return scorer is None or signature_of(scorer).takes_solution


def _call(
    reward: Reward,
    rows: Sequence[dict],
    generations: Sequence[Generation],
    call: Callable[..., list[float | None]],
) -> list[float | None]:
    """Call a reward as the trainer does: a list per column, a completion is a list of one message."""
    names = dict.fromkeys(name for row in rows for name in row if name not in NOT_COLUMNS)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return call(
        reward,
        prompts=[row["prompt"] for row in rows],
        completions=[[{"role": "assistant", "content": generation.text}] for generation in generations],
        # of ready answers without a count nothing is known: None has a length reward count words
        completion_ids=[list(generation.token_ids) or None for generation in generations],
        images=[row.get("images") or [] for row in rows],
        image_sizes=[_as_list(generation.image_sizes) for generation in generations],
        resized_sizes=[_as_list(generation.resized_sizes) for generation in generations],
        log_metric=_ignore,
        log_extra=_ignore,
        **columns,
    )


def describe_row(row: dict, generation: Generation, place: int) -> Line:
    """Return a line without its grades: the row, the completion, and the sizes of its images."""
    images = row.get("images") or []
    return {
        "row_id": row.get("row_id") or f"row:{place}",
        "task": row.get("task"),
        "modality": modality(row),
        "images": [image for image in images if isinstance(image, str)],
        "image_sizes": _as_list(generation.image_sizes),
        "resized_sizes": _as_list(generation.resized_sizes),
        "problem": row.get("problem"),
        "solution": row.get("solution"),
        "completion": generation.text,
        "clipped": generation.clipped,
        "n_tokens": generation.n_tokens,
    }


def _as_list(sizes: tuple | None) -> list | None:
    return None if sizes is None else [list(size) for size in sizes]


def _ignore(name: str, value: Any) -> None:
    """Stand in for the trainer's metric log: a held-out line holds its nulls itself, so nothing is lost."""
