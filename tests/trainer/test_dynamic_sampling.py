"""Groups without signal are replaced: by whom, on which ranks, and that a step then learns as from any other batch."""

import subprocess
from pathlib import Path

import pytest
import torch
from conftest import letters, row
from datasets import Dataset
from forked import environment, python

from omnirl_core.trainer.dynamic_sampling import Layout, fill_slots, next_size

SCRIPT = Path(__file__).parents[1] / "distributed" / "distributed_sampling.py"


def some(prompts, completions, **columns):
    """The same for every completion of a dull prompt."""
    dull = ["dull" in str(prompt) for prompt in prompts]
    return [0.5 if one else value for one, value in zip(dull, letters(completions), strict=True)]


def parameters(worker):
    return torch.cat([p.detach().flatten() for p in worker.model.parameters()])


def logged(worker, name):
    return [line[name] for line in worker.state.log_history if name in line]


@pytest.fixture
def lively(image_files):
    """Every third sample has signal; one image, none, two."""
    kinds = [image_files[:1], [], image_files[1:3]]
    return [row(f"Row {i}, {'dull' if i % 3 else 'lively'}.", kinds[i // 3 % 3], f"r:{i}") for i in range(60)]


def test_groups_stay_on_their_ranks():
    first, more = Layout(n=4, size=2, ranks=2), Layout(n=2, size=2, ranks=2)
    found = [[True, False, False, False], [True, True], [True, True]]
    assert fill_slots(found[:1], [first]) == {0: (0, 0)}
    assert fill_slots(found[:2], [first, more]) == {0: (0, 0), 1: (1, 0), 2: (1, 1)}
    assert fill_slots(found, [first, more, more]) == {0: (0, 0), 1: (1, 0), 2: (1, 1), 3: (2, 1)}
    across = Layout(n=1, size=2, ranks=4)  # the second group's ranks hold none of the first
    assert fill_slots([[False, False], [True, False]], [across, across]) == {0: (1, 0)}


@pytest.mark.parametrize(
    ("n", "found", "expected"),
    [
        (8, [[True, True]], 0),
        (8, [[True] * 4 + [False] * 4], 8),  # the second rank misses all four, at one half
        (8, [[True, True, True, False]] * 2, 4),
        (8, [[False] * 8], 8),
        (1, [[False]], 1),  # one group on two ranks
    ],
)
def test_size_of_the_next_rollout(n, found, expected):
    layout = Layout(n, 2, len(found[0]) * 2 // n)
    assert next_size(found, fill_slots(found[:1], [layout]), layout) == expected


@pytest.mark.parametrize("settings", [{}, {"shared_prefix": "auto"}, {"text": True}], ids=str)
def test_where_every_group_has_signal_nothing_changes(trainer, rows, settings, tiny_text_checkpoint, tmp_path):
    settings = {"max_steps": 2, "per_device_train_batch_size": 4, "beta": 0.1, **settings}
    text = settings.pop("text", False)
    data = Dataset.from_dict({"prompt": ["Say a word.", "Say more."]}) if text else rows
    model = tiny_text_checkpoint if text else None
    ends, kinds = [], ("off", "predict", "resample")
    for kind in kinds:
        worker = trainer(data, model=model, dynamic_sampling=kind, output_dir=str(tmp_path / kind), **settings)
        worker.train()
        ends.append(parameters(worker))
    assert logged(worker, "dynamic_sampling/rounds") == [0.0, 0.0]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
    assert len({(tmp_path / kind / "completions.jsonl").read_text() for kind in kinds}) == 1


SMALL = {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "reward": some, "shuffle_dataset": False}


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_accumulation_steps": 2, "scale_rewards": "batch", "shared_prefix": "auto"},
        {"loss_type": "dapo", "beta": 0.1, "num_iterations": 2, "max_steps": 2},
        {"balance": "gdpo"},
    ],
    ids=str,
)
def test_a_step_learns_as_from_the_kept_samples_alone(trainer, lively, settings, tmp_path):
    """The same weights as a run without it, whose data set is what was kept."""
    settings = {**SMALL, "scripted": True, **settings}
    kept = []
    worker = trainer(lively, dynamic_sampling="resample", output_dir=str(tmp_path / "resample"), **settings)
    draw = worker.dynamic_sampling.draw
    worker.dynamic_sampling.draw = lambda inputs: kept.append(draw(inputs)) or kept[-1]
    worker.train()
    (samples,) = kept
    assert all("lively" in str(sample["prompt"]) for sample in samples)
    assert logged(worker, "frac_reward_zero_std")[0] == 0.0
    assert logged(worker, "dynamic_sampling/kept_groups")[0] == len(samples) / 2
    assert logged(worker, "dynamic_sampling/rounds")[0] >= 1
    assert 0.2 < logged(worker, "dynamic_sampling/rejected_share")[0] < 0.9

    ids = [sample["row_id"] for sample in samples[::2]]
    assert len(set(ids)) == len(ids)  # or the script would answer one prompt in two ways
    same = [next(one for one in lively if one["row_id"] == name) for name in ids]
    plain = trainer(same, output_dir=str(tmp_path / "plain"), **settings)
    plain.train()
    assert torch.equal(parameters(worker), parameters(plain))
    files = [(tmp_path / kind / "completions.jsonl").read_text() for kind in ("resample", "plain")]
    assert files[0] == files[1]


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 2, "num_iterations": 2}], ids=str)
def test_resumed_is_uninterrupted(trainer, lively, settings, tmp_path):
    settings = {**SMALL, "dynamic_sampling": "resample", "max_steps": 4, "save_strategy": "steps", **settings}
    workers = []
    for folder, resume in (("whole", None), ("resumed", str(tmp_path / "whole" / "checkpoint-3"))):
        worker = trainer(lively, save_steps=3, output_dir=str(tmp_path / folder), **settings)
        worker.train(resume_from_checkpoint=resume)
        workers.append(worker)
    assert torch.equal(*map(parameters, workers))
    assert sum(logged(workers[0], "dynamic_sampling/rounds")) > 0


def test_when_rounds_run_out_the_batch_is_filled_and_it_is_said_once(trainer, lively, caplog):
    dull = [one for one in lively if "dull" in str(one["prompt"])]
    worker = trainer(dull, dynamic_sampling="resample", max_resample_rounds=2, max_steps=2, **SMALL)
    before = parameters(worker)
    worker.train()
    assert logged(worker, "dynamic_sampling/rounds") == [2.0, 2.0]
    assert logged(worker, "dynamic_sampling/kept_groups") == [0.0, 0.0]
    assert logged(worker, "dynamic_sampling/rejected_share") == [1.0, 1.0]
    assert logged(worker, "dynamic_sampling/sampled_reward") == [0.5, 0.5]
    assert caplog.text.count("2 of 2 groups have one reward for all completions after max_resample_rounds 2") == 1
    assert torch.equal(parameters(worker), before)


def test_columns_that_rewards_log_follow_their_samples(trainer, lively):
    def telling(prompts, completions, log_extra, **columns):
        log_extra("said", [str(prompt) for prompt in prompts])
        return some(prompts, completions)

    worker = trainer(lively, **{**SMALL, "reward": telling}, dynamic_sampling="resample", log_completions=True)
    worker.train()
    said = list(worker._logs["extra"]["said"])
    assert len(said) == len(worker._logs["completion"]) == 4
    assert all("lively" in text for text in said)


def test_evaluation_replaces_nothing(trainer, lively):
    worker = trainer(lively, dynamic_sampling="resample", eval_data=lively[1:3], per_device_eval_batch_size=2, **SMALL)
    worker.evaluate()
    assert "dynamic_sampling/rounds" not in worker._metrics["eval"]


def test_what_cannot_work_is_refused(trainer, config):
    stream = Dataset.from_list([{"prompt": "Say a word."}]).to_iterable_dataset()
    with pytest.raises(ValueError, match="resample` is not supported with a rollout_func and a streamed train_d"):
        trainer(stream, dynamic_sampling="resample", extra={"rollout_func": lambda prompts, worker: {}})
    with pytest.raises(ValueError, match="`dynamic_sampling: predict` is not supported with remove_unused_columns"):
        trainer([row("Say a word.", [], "r:1")], dynamic_sampling="predict", remove_unused_columns=True)
    with pytest.raises(ValueError, match=r"dynamic_sampling 'on' is neither 'off', 'predict' nor 'resample'"):
        config(dynamic_sampling=True)
    assert config(dynamic_sampling=False).dynamic_sampling == "off"
    with pytest.raises(ValueError, match="max_resample_rounds 0 is not a whole number above 0"):
        config(max_resample_rounds=0)


def finished(*command: str, **environ: str) -> str:
    command = (python(), "-m", *command)
    done = subprocess.run(command, env=environment(**environ), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


@pytest.mark.slow
def test_a_hundred_random_layouts_over_ranks_end():
    launch = ("torch.distributed.run", "--standalone", "--nproc_per_node=4")
    assert "100 layouts, " in finished(*launch, str(SCRIPT), "agree", ACCELERATE_USE_CPU="true")


@pytest.mark.slow
@pytest.mark.repeat
@pytest.mark.parametrize("engine", ["ddp", "zero3"])
def test_two_ranks_train(tiny_checkpoint, image_files, tmp_path, engine):
    launch = (
        "accelerate.commands.launch",
        "--config_file",
        f"accelerate_configs/{engine}.yaml",
        "--num_processes",
        "2",
    )
    words = (
        "--main_process_port",
        "0",
        str(SCRIPT),
        "train",
        engine,
        tiny_checkpoint,
        str(tmp_path),
        *image_files[:2],
    )
    finished(*launch, *words)
