"""A checkpoint is whole or not there, and a run goes on from the newest whole one as if nothing had happened."""

import errno
import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from transformers import TrainerCallback

from omnirl_core.trainer.callbacks import GracefulShutdown
from omnirl_core.trainer.fault_tolerance import checkpoint_storage
from omnirl_core.trainer.fault_tolerance.checkpoint_mixin import CheckpointMixin
from omnirl_core.trainer.fault_tolerance.checkpoint_storage import publish
from omnirl_core.yaml_loader import ConfigError
from omnirl_tools.resume import checkpoint_fault, newest_checkpoint, resume_path


def parameters(worker):
    return torch.cat([p.detach().flatten() for p in worker.model.parameters()])


@pytest.fixture
def run(trainer, rows, tmp_path):
    def make(folder, callback=None, resume=None, max_steps=6, **settings):
        settings = {"per_device_train_batch_size": 4, "save_steps": 1, **settings}
        worker = trainer(
            rows, save_strategy="steps", max_steps=max_steps, learning_rate=1e-2,
            output_dir=str(tmp_path / folder), **settings,
        )  # fmt: skip
        if callback is not None:
            worker.add_callback(callback)
        worker.train(resume_from_checkpoint=resume)
        return worker

    return make


def checkpoint(folder: Path, step: int) -> Path:
    """A small whole checkpoint."""
    written = folder / checkpoint_storage.UNFINISHED / f"checkpoint-{step}"
    written.mkdir(parents=True)
    (written / "model.safetensors").write_bytes(b"weights")
    (written / checkpoint_storage.STATE).write_text(json.dumps({"global_step": step}))
    final = folder / written.name
    publish(written, final)
    return final


# -- which checkpoint ---------------------------------------------------------------------------------------------


def test_the_newest_whole_checkpoint_is_taken_and_torn_ones_are_named(tmp_path, caplog):
    assert newest_checkpoint(tmp_path) is None
    whole, shorter, lacking, stateless = (checkpoint(tmp_path, step) for step in (9, 10, 11, 100))
    (shorter / "model.safetensors").write_bytes(b"weig")
    (lacking / "model.safetensors").unlink()
    (stateless / checkpoint_storage.STATE).write_text('{"global_st')
    (tmp_path / checkpoint_storage.UNFINISHED / "checkpoint-101").mkdir(parents=True)
    (tmp_path / "checkpoint-102.part").mkdir()
    assert newest_checkpoint(tmp_path) == whole
    assert re.search(r"checkpoint-10 is passed over: model.safetensors has 4 bytes in place of 7", caplog.text)
    assert re.search(r"checkpoint-11 is passed over: model.safetensors is missing", caplog.text)
    assert re.search(r"checkpoint-100 is passed over: its trainer_state.json is missing or torn", caplog.text)


def test_what_resume_from_checkpoint_means(tmp_path):
    assert resume_path(None, tmp_path) is None
    assert resume_path("auto", tmp_path) is None
    with pytest.raises(ConfigError, match="holds no whole checkpoint; `auto` would start anew"):
        resume_path("true", tmp_path)
    path = checkpoint(tmp_path, 3)
    assert resume_path("auto", tmp_path) == resume_path(True, tmp_path) == resume_path(str(path), "x") == str(path)
    with pytest.raises(ConfigError, match=r"checkpoint-4 cannot be resumed: it does not exist; give `auto`"):
        resume_path(str(tmp_path / "checkpoint-4"), tmp_path)


def test_a_checkpoint_of_plain_trl_counts_as_whole(tmp_path):
    folder = checkpoint(tmp_path, 3)
    (folder / checkpoint_storage.CONTENTS).unlink()
    assert checkpoint_fault(folder) is None


def test_publishing_over_an_older_checkpoint_of_the_same_step(tmp_path):
    (checkpoint(tmp_path, 3) / "old").write_text("")
    (tmp_path / checkpoint_storage.UNFINISHED / "x").mkdir(parents=True)
    assert not (checkpoint(tmp_path, 3) / "old").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3"]


# -- saving -------------------------------------------------------------------------------------------------------


def test_no_name_before_it_is_whole_and_the_limit_holds(run, tmp_path, monkeypatch):
    from transformers.trainer_callback import TrainerState

    seen = []
    plain = TrainerState.save_to_json

    def watch(state, path):
        seen.append((str(Path(path).relative_to(tmp_path)), sorted(p.name for p in tmp_path.glob("run/check*"))))
        plain(state, path)

    monkeypatch.setattr(TrainerState, "save_to_json", watch)
    run("run", max_steps=3, save_total_limit=2)
    names = ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert seen == [(f"run/unfinished/{name}/trainer_state.json", names[:i]) for i, name in enumerate(names)]
    assert sorted(p.name for p in (tmp_path / "run").glob("*check*")) == names[1:]
    assert not (tmp_path / "run" / checkpoint_storage.UNFINISHED).exists()
    assert checkpoint_fault(tmp_path / "run" / "checkpoint-3") is None


@pytest.mark.parametrize("steps", [3, 4, 5])
def test_resumed_within_a_generation_cycle_is_uninterrupted(run, tmp_path, steps):
    cycle = dict(steps_per_generation=2, num_iterations=2, shared_prefix="auto" if steps == 5 else "off")
    whole = run("whole", **cycle)
    assert (tmp_path / f"whole/checkpoint-{steps}/generation_batch_0.pt").exists() == (steps % 4 != 0)
    resumed = run("resumed", resume=str(tmp_path / f"whole/checkpoint-{steps}"), **cycle)
    assert torch.equal(parameters(resumed), parameters(whole))
    assert resumed._step == whole._step


def test_a_generation_cycle_of_other_ranks_is_drawn_anew(run, tmp_path, caplog):
    """Were one rank to go on with its completions and another to draw, both would wait for each other."""
    cycle = dict(steps_per_generation=2, num_iterations=2)
    run("whole", **cycle)
    path = tmp_path / "whole/checkpoint-3/generation_batch_0.pt"
    state = torch.load(path, weights_only=False)
    assert state["processes"] == 1
    torch.save({**state, "processes": 2}, path)
    resumed = run("resumed", resume=str(path.parent), **cycle)
    assert resumed.state.global_step == resumed.args.max_steps
    assert "checkpoint-3 was saved within a generation batch with processes 2 where this run has 1" in caplog.text


@pytest.mark.parametrize(
    "changed",
    [
        {"gradient_accumulation_steps": 2}, {"per_device_train_batch_size": 2}, {"steps_per_generation": 1},
        {"num_iterations": 1}, {"num_generations": 4},
    ],
    ids=str,
)  # fmt: skip
def test_a_generation_cycle_of_other_settings_is_drawn_anew(run, tmp_path, caplog, changed):
    cycle = dict(steps_per_generation=2, num_iterations=2, shared_prefix="auto")
    run("whole", max_steps=3, save_steps=3, **cycle)
    checkpoint = str(tmp_path / "whole/checkpoint-3")
    resumed = run("resumed", resume=checkpoint, max_steps=5, save_steps=9, **{**cycle, **changed})
    assert resumed.state.global_step == 5
    [(name, value)] = changed.items()
    start = rf"checkpoint-3 was saved within a generation batch with {name} \d where this run has {value}: the steps "
    assert re.search(start + "that were left of its generation batch learn from new completions", caplog.text)


def test_a_finished_run_takes_no_further_step(run, tmp_path):
    whole = run("whole", max_steps=2)
    resumed = run("whole", max_steps=2, resume=str(tmp_path / "whole/checkpoint-2"))
    assert resumed.state.global_step == 2
    assert torch.equal(parameters(resumed), parameters(whole))


def test_later_checkpoints_of_an_abandoned_future_are_kept_apart(run, tmp_path):
    run("whole", max_steps=3)
    run("whole", max_steps=2, resume=str(tmp_path / "whole/checkpoint-1"))
    assert sorted(p.name for p in (tmp_path / "whole").glob("*checkpoint-*")) == [
        "abandoned-checkpoint-2", "abandoned-checkpoint-3", "checkpoint-1", "checkpoint-2",
    ]  # fmt: skip


def test_a_full_disk_leaves_the_checkpoint_before_and_names_path_and_space(run, tmp_path):
    resource = pytest.importorskip("resource")
    run("run", max_steps=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = (tmp_path / "run/checkpoint-1/model.safetensors").stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))  # a write beyond it fails, as on a full disk
        with pytest.raises(
            checkpoint_storage.SpaceError, match=r"could not write .*checkpoint-2: .* of .* are free there"
        ) as error:
            run("run", max_steps=2, resume=str(tmp_path / "run/checkpoint-1"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "--resume_from_checkpoint auto" in str(error.value)
    assert newest_checkpoint(tmp_path / "run") == tmp_path / "run/checkpoint-1"
    assert not (tmp_path / "run" / checkpoint_storage.UNFINISHED).exists()
    assert run("run", max_steps=2, resume=str(tmp_path / "run/checkpoint-1")).state.global_step == 2


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/3: file write failed"),
    ],
)
def test_a_full_disk_is_reported_as_one(error, tmp_path):
    reported = checkpoint_storage.write_error(tmp_path / "checkpoint-3", error)
    assert isinstance(reported, checkpoint_storage.SpaceError)
    assert re.search(r"could not write .*checkpoint-3: .* are free there.* make space", str(reported))


def test_another_error_of_the_system_names_the_path_and_no_space(tmp_path):
    reported = checkpoint_storage.write_error(
        tmp_path / "checkpoint-3", PermissionError(errno.EACCES, "Permission denied", "x.pt")
    )
    assert isinstance(reported, PermissionError)
    assert re.search(r"could not write .*checkpoint-3: .*Permission denied: 'x.pt'", str(reported))
    assert "free" not in str(reported)
    assert "space" not in str(reported)


def test_an_error_in_a_save_that_is_not_about_the_disk_stays_what_it_is(run, tmp_path, monkeypatch):
    def fail(self, folder):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(CheckpointMixin, "_save_cycle", fail)
    with pytest.raises(RuntimeError, match="an illegal memory access was encountered") as error:
        run("run", max_steps=1)
    assert type(error.value) is RuntimeError
    assert str(error.value).startswith("CUDA error")
    assert re.search(r"While .*checkpoint-1 was written; checkpoints written before", error.value.__notes__[0])
    assert not (tmp_path / "run" / checkpoint_storage.UNFINISHED).exists()


# -- signals ------------------------------------------------------------------------------------------------------


class Send(TrainerCallback):
    def __init__(self, number, step):
        self.number, self.step = number, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_at_the_next_step_with_a_checkpoint(trainer, rows, tmp_path, number):
    before = signal.getsignal(number)
    worker = trainer(rows, per_device_train_batch_size=4, max_steps=4, output_dir=str(tmp_path))  # saves no steps
    shutdown = GracefulShutdown()
    worker.add_callback(Send(number, 1))
    worker.add_callback(shutdown)
    worker.train()
    assert shutdown.signal is number
    assert worker.state.global_step == 2
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert signal.getsignal(number) is before
