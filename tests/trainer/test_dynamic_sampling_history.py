"""Prompts that had no signal before are answered seldom: by what rule, and that a run keeps it up and resumes it."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
from conftest import letters, row
from distributed_sampling import SAMPLES, Stub
from hypothesis import given
from hypothesis import strategies as st

from omnirl_core.trainer.dynamic_sampling import INDEX, DynamicSampling, IndexedSamples, SignalHistory


def history_of(size=10, state=None):
    trainer = SimpleNamespace(
        train_dataset=range(size), state=SimpleNamespace(stateful_callbacks={} if state is None else state)
    )
    return SignalHistory(trainer), trainer.state.stateful_callbacks


def admitted(history, index, n=4000):
    draw = random.Random(0)
    return sum(history.admits(index, draw) for _ in range(n)) / n


@pytest.mark.parametrize(("streak", "expected"), [(0, 1.0), (1, 0.5), (2, 0.25), (3, 0.125), (7, 0.01), (300, 0.01)])
def test_the_chance_is_the_exploration_to_the_power_of_the_streak(streak, expected):
    history, _ = history_of()
    for _ in range(streak):
        history.note([3], [False])
    assert admitted(history, 3) == pytest.approx(expected, abs=0.02 if streak < 7 else 0.005)
    assert admitted(history, 4) == 1.0


def test_one_group_with_signal_brings_a_sample_back():
    history, state = history_of()
    history.note([3, 4, 3], [False, False, False])
    history.note([3, 5], [True, True])
    assert state["SignalHistory"]["streaks"] == {"4": 1}
    assert admitted(history, 3) == 1.0


@given(st.lists(st.floats(0, 1), max_size=60))
def test_exploration_follows_the_rejected_share_within_bounds(shares):
    history, state = history_of()
    for share in shares:
        before = history._state["explore"]
        history.adapt(share)
        after = state["SignalHistory"]["explore"]
        assert 0.05 <= after <= 0.95
        assert (after <= before) if share > 0.25 else (after >= before)


def test_a_checkpoint_keeps_it_and_another_data_set_begins_anew():
    history, state = history_of()
    history.note([0, 1, 1], [False] * 3)
    history.adapt(0.9)
    again, _ = history_of(state=json.loads(json.dumps(state)))
    assert again._state == history._state
    draws = [random.Random(1), random.Random(1)]
    pairs = [(history.admits(i % 3, draws[0]), again.admits(i % 3, draws[1])) for i in range(50)]
    assert all(one == other for one, other in pairs)
    other, _ = history_of(size=11, state=json.loads(json.dumps(state)))
    assert other._state == {"samples": 11, "explore": 0.5, "streaks": {}}


def rehearse(kind, steps, seed=0, awake=()):
    """Groups of each step by whether they had signal, and how often each sample was answered before and after `awake`.

    Four groups of four a step, out of `SAMPLES` samples of which two thirds are dull; those of `awake` no longer are
    after half of the steps.
    """
    stub = Stub(0, 1, None, 4, 0.5, 4, seed, kind)
    sampling, data, shares = DynamicSampling(stub), IndexedSamples(stub.train_dataset), []
    answered, generate = [{}, {}], stub._generate

    def counting(prompts):
        counts = answered[stub._step >= steps // 2]
        for prompt in prompts[::4]:
            counts[prompt] = counts.get(prompt, 0) + 1
        return generate(prompts)

    stub._generate = counting
    order = []
    for step in range(steps):
        if step == steps // 2:
            stub.dull -= {f"sample {i}" for i in awake}
        order = order or random.Random(f"{seed} {step}").sample(range(SAMPLES), SAMPLES)
        first, order = order[:4], order[4:]
        stub._step = stub.state.global_step = step
        sampling.draw([data[i] for i in first for _ in range(4)])
        sampling.rewards()
        shares.append(stub._metrics["train"]["dynamic_sampling/rejected_share"][-1])
    return shares, *answered


@pytest.mark.parametrize("kind", ["predict", "resample"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rejected_groups_become_a_quarter(kind, seed):
    shares, before, after = rehearse(kind, 120, seed)
    assert sum(shares[:3]) / 3 > 0.4
    assert 0.1 < sum(shares[60:]) / 60 < 0.35
    total = sum(after.values())
    dull = [after.get(f"sample {i}", 0) for i in range(SAMPLES) if i % 3]
    lively = [after.get(f"sample {i}", 0) for i in range(SAMPLES) if i % 3 == 0]
    assert total == sum(dull) + sum(lively)
    assert sum(dull) / len(dull) < 0.4 * sum(lively) / len(lively), "dull samples are seldom answered"
    assert sum(n > 0 for n in dull) > len(dull) / 4, "and explored now and then"
    assert min(lively) > 0, "all others are"
    assert all(before.get(f"sample {i}", 0) > 0 for i in range(SAMPLES)), "each was answered once"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_samples_that_begin_to_have_signal_come_back(seed):
    awake = [1, 4, 7, 10, 13]
    _, _, asleep = rehearse("predict", 400, seed)
    _, before, after = rehearse("predict", 400, seed, awake)
    often = [after.get(f"sample {i}", 0) for i in awake]
    assert sum(often) > 2 * sum(asleep.get(f"sample {i}", 0) for i in awake)
    assert sum(often) > 2 * sum(before.get(f"sample {i}", 0) for i in awake) - len(awake)
    assert sum(n > 3 for n in often) >= 3


def some(prompts, completions, **columns):
    """The same for every completion of a dull prompt."""
    assert INDEX not in columns
    dull = ["dull" in str(prompt) for prompt in prompts]
    return [0.5 if one else value for one, value in zip(dull, letters(completions), strict=True)]


@pytest.fixture
def few(image_files):
    """Every third of twelve samples has signal; one image, none, two."""
    kinds = [image_files[:1], [], image_files[1:3]]
    return [row(f"Row {i}, {'dull' if i % 3 else 'lively'}.", kinds[i // 3 % 3], f"r:{i}") for i in range(12)]


SMALL = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "reward": some, "dynamic_sampling": "predict"}


def logged(worker, name):
    return [
        line[f"dynamic_sampling/{name}"] for line in worker.state.log_history if f"dynamic_sampling/{name}" in line
    ]


def test_a_run_rejects_less_and_less(trainer, few):
    worker = trainer(few, max_steps=36, **SMALL)
    worker.train()
    rejected = logged(worker, "rejected_share")
    assert sum(rejected[:6]) / 6 == pytest.approx(2 / 3)  # the first epoch, in which nothing is known
    assert sum(rejected[18:]) / 18 < 0.45
    assert logged(worker, "rounds") == [0.0] * 36
    assert logged(worker, "replaced_share")[:6] == [0.0] * 6
    assert sum(logged(worker, "replaced_share")[18:]) / 18 > 0.3
    assert logged(worker, "kept_groups") == [2 * (1 - share) for share in rejected]
    streaks = worker.state.stateful_callbacks["SignalHistory"]["streaks"]
    assert {int(index) for index in streaks} == {i for i in range(12) if i % 3}


@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient_accumulation_steps": 2, "num_iterations": 2}, {"dynamic_sampling": "resample"}],
    ids=str,
)
def test_resumed_is_uninterrupted(trainer, few, settings, tmp_path):
    """In the third epoch, where the history decides what is answered; and within a generation batch."""
    settings = {**SMALL, "max_steps": 20, "save_strategy": "steps", **settings}
    workers = []
    for folder, resume in (("whole", None), ("resumed", str(tmp_path / "whole" / "checkpoint-15"))):
        worker = trainer(few, save_steps=15, output_dir=str(tmp_path / folder), **settings)
        worker.train(resume_from_checkpoint=resume)
        workers.append(worker)
    ends = [torch.cat([p.detach().flatten() for p in worker.model.parameters()]) for worker in workers]
    assert torch.equal(*ends)
    assert workers[0].state.stateful_callbacks == workers[1].state.stateful_callbacks
    assert sum(logged(workers[0], "replaced_share")[-5:]) > 0
