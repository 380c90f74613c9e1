"""Batch arithmetic: refused exactly where TRL refuses it, and what is advised is taken."""

import itertools
import re

import pytest
from trl import GRPOConfig

from omnirl_core.trainer.grpo_config import BatchSizes, OmniGRPOConfig, evaluation_faults, nearest_divisors

GRID = list(itertools.product((1, 3, 6, 8), (1, 3), (2, 7, 8), (1, 4), (None, 3), (None, 6, 24)))


def trl_says(batches: BatchSizes, **more) -> str | None:
    try:
        GRPOConfig(
            "x", use_cpu=True, bf16=False, per_device_train_batch_size=batches.per_device,
            gradient_accumulation_steps=batches.gradient_accumulation_steps,
            steps_per_generation=batches.steps_per_generation, num_generations=batches.num_generations,
            generation_batch_size=batches.generation_batch_size, **more,
        )  # fmt: skip
    except ValueError as error:
        return str(error)
    return None


def test_refused_exactly_where_trl_refuses_and_advice_is_taken(monkeypatch):
    """On one process and, as TRL counts them, on three."""
    refused = advised = 0
    for per_device, processes, generations, accumulation, steps, size in GRID:
        monkeypatch.setattr(GRPOConfig, "world_size", property(lambda self, n=processes: n))
        batches = BatchSizes(per_device, processes, generations, accumulation, steps, size)
        theirs = trl_says(batches)
        ours = batches.faults()
        if theirs and "both configured" in theirs:
            assert not ours
            continue
        assert bool(theirs) == bool(ours), batches
        if not theirs:
            continue
        refused += 1
        assert ours[0].startswith(theirs.rstrip("."))
        for name, numbers in re.findall(r"(?:fit: |or )(\w+) ([\d or]+?)(?=;|$)", ours[0]):
            for number in numbers.split(" or "):
                field = {"per_device_train_batch_size": "per_device"}.get(name, name)
                assert trl_says(BatchSizes(**{**vars(batches), field: int(number)})) is None, (
                    ours[0],
                    name,
                    number,
                )
                advised += 1
    assert refused >= 60
    assert advised >= 200


@pytest.mark.parametrize(("per_device", "processes", "generations"), [(6, 1, 4), (1, 2, 8), (5, 3, 2), (8, 2, 8)])
def test_evaluation_batches(monkeypatch, per_device, processes, generations):
    monkeypatch.setattr(GRPOConfig, "world_size", property(lambda self: processes))
    whole = BatchSizes(8, processes, 8)
    evaluation = dict(eval_strategy="steps", eval_steps=1, do_eval=True)
    theirs = trl_says(whole, **evaluation, per_device_eval_batch_size=per_device, num_generations_eval=generations)
    ours = evaluation_faults(per_device, processes, generations)
    assert bool(theirs) == bool(ours)
    if theirs:
        assert ours[0].startswith(theirs.rstrip("."))
        size = int(re.search(r"per_device_eval_batch_size (\d+)", ours[0])[1])
        assert trl_says(whole, **evaluation, per_device_eval_batch_size=size, num_generations_eval=generations) is None
        fewer = int(re.search(r"num_generations_eval (\d+)", ours[0])[1])
        assert trl_says(whole, **evaluation, per_device_eval_batch_size=per_device, num_generations_eval=fewer) is None


def test_the_config_says_both_kinds_at_once(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ValueError, match="nearest that fit") as error:
        OmniGRPOConfig(
            "x", use_cpu=True, bf16=False, per_device_train_batch_size=6, num_generations=4, max_pixels=0,
            eval_strategy="steps", eval_steps=1, do_eval=True, per_device_eval_batch_size=6,
        )  # fmt: skip
    assert str(error.value).splitlines() == [
        "max_pixels 0 is not a whole number above 0",
        "generation_batch_size (6) must be divisible by num_generations (4). It is per_device_train_batch_size 6 x "
        "1 process x gradient_accumulation_steps 1; the nearest that fit: per_device_train_batch_size 4 or 8; or "
        "gradient_accumulation_steps 2; or num_generations 3 or 6",
        "The global eval batch size (6 * 1) must be divisible by the number of generations used for evaluation (4); "
        "the nearest that fit: per_device_eval_batch_size 4 or 8; or num_generations_eval 3 or 6",
    ]


def test_a_prime_has_no_divisor_but_itself():
    assert nearest_divisors(7, 8) == [7]
    assert nearest_divisors(1, 8) == []
