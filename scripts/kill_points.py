"""Kill a run at random moments, resume it, and compare what it leaves with an uninterrupted run's.

    python scripts/kill_points.py --kills 50 --stops 10
    python scripts/kill_points.py --kills 15 --ranks 2 --engine zero3

Half of the kills (SIGKILL) fall while a checkpoint is being written, after a random number of its files, the others at
any moment of a step or its save; a stop is a SIGTERM or SIGINT while it trains, after which the run has to end with
its own exit code. Of several ranks all are killed at once, or one, after which the others are ended as a launcher ends
them. The libraries are imported once, and each rank is a fork of this process. Prints one line a kill and a summary;
the exit code is 1 if any final state differs.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml

from omnirl_core.trainer.fault_tolerance.checkpoint_storage import UNFINISHED
from omnirl_core.trainer.fault_tolerance.watchdog import RANKS
from omnirl_core.trainer.shared_prefix.packing import Prompt
from omnirl_tools.evaluation.lines import read_lines
from omnirl_tools.run import RESUMABLE

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from recipes import grpo  # noqa: E402
from scripts.ports import free_port  # noqa: E402

SETTINGS = {
    "model_name_or_path": "tiny_policy", "templates": '{"default": "plain"}', "bf16": "false", "use_cpu": "true",
    "gradient_checkpointing": "false", "per_device_train_batch_size": "4", "num_generations": "4",
    "max_completion_length": "12", "max_steps": "6", "learning_rate": "1e-3", "logging_steps": "1", "seed": "3",
    "save_steps": "1", "save_total_limit": "2", "report_to": "none", "disable_tqdm": "true",
    # a generation batch serves four steps, so that most checkpoints lie within one
    "gradient_accumulation_steps": "1", "steps_per_generation": "2", "num_iterations": "2",
}  # fmt: skip
TIMES = {
    "time", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second", "resumed",
    "rollout/tokens_per_second",
}  # fmt: skip
"""What a log holds of the clock, and of when the run went on."""
WATCHDOG_S = 300.0
LAUNCHER_S = 5.0
"""That the ranks that are left have to end, as `torchrun --shutdown_timeout` gives them 30."""


SETTINGS_OF_RANKS = {
    "per_device_train_batch_size": "2",
    # a reference model that follows the policy: part of the state
    "beta": "0.1", "sync_ref_model": "true", "ref_model_sync_steps": "1",
}  # fmt: skip
CONFIGS = Path(__file__).parents[1] / "accelerate_configs"
ENGINES = ("ddp", "zero3")


@dataclass(frozen=True)
class Runs:
    """Starts runs over one drawn data set, each rank in a process of its own."""

    data: Path
    settings: tuple[str, ...]
    ranks: int = 1
    engine: str = "ddp"

    @classmethod
    def over(cls, folder: Path, ranks: int = 1, engine: str = "ddp", **settings: str) -> "Runs":
        data = folder / "data" / "train.json"
        draw = {"task": "mixed", "train": 20, "test": 4, "seed": 0}
        rewards = ROOT / "recipes" / "mixed" / "rewards.yaml"
        given = {**SETTINGS, "draw_shapes": json.dumps(draw), "rewards": str(rewards)}
        given |= {**(SETTINGS_OF_RANKS if ranks > 1 else {}), **settings}
        return cls(data, tuple(part for key, value in given.items() for part in (f"--{key}", value)), ranks, engine)

    def start(self, folder: Path) -> "Job":
        """A run into `folder` that resumes what it finds there; its output goes to run.log."""
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        return Job([self._fork(folder, rank, port) for rank in range(self.ranks)])

    def _fork(self, folder: Path, rank: int, port: int) -> int:
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            log = os.open(folder / "run.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if self.ranks > 1:
                os.environ |= environment(self.engine, rank, self.ranks, port)
            grpo.show = lambda *_: None  # draws a finished run, which final_state leaves out
            arguments = ["--output_dir", str(folder), "--dataset_name", str(self.data)]
            grpo.main([*arguments, *self.settings, "--resume_from_checkpoint", "auto"])
            if self.ranks > 1:  # gloo aborts a process that ends while another still talks to it
                torch.distributed.barrier()
                torch.distributed.destroy_process_group()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:  # noqa: BLE001  a fork must not go on into this process's code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def finish(self, folder: Path) -> None:
        """Run to the end."""
        code = self.start(folder).wait()
        if code != 0:
            raise RuntimeError(f"a run in {folder} ended with {code}: {(folder / 'run.log').read_text()[-3000:]}")


def environment(engine: str, rank: int, ranks: int, port: int) -> dict[str, str]:
    """What `accelerate launch --config_file accelerate_configs/<engine>.yaml` gives a rank."""
    config = yaml.safe_load((CONFIGS / f"{engine}.yaml").read_text())
    given = {"ACCELERATE_MIXED_PRECISION": "no"}
    given |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
    }
    given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if "deepspeed_config" in config:
        names = {"zero3_init_flag": "DEEPSPEED_ZERO3_INIT", "zero_stage": "DEEPSPEED_ZERO_STAGE"}
        names["zero3_save_16bit_model"] = "DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"
        for key, value in config["deepspeed_config"].items():
            given[f"ACCELERATE_{names.get(key, key.upper())}"] = str(value).lower()
        given |= {"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu"}
    return given


class Job:
    """The processes of one run."""

    def __init__(self, children: list[int]):
        self.children = children
        self.codes: dict[int, int] = {}

    def poll(self) -> int | None:
        """None while a process runs that should; else the exit code: the first that is not 0, minus a signal's number.

        Where one process has failed, the others are ended.
        """
        for child in self.children:
            if child not in self.codes:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    self.codes[child] = os.waitstatus_to_exitcode(status)
        failed = [code for code in self.codes.values() if code != 0]
        if failed and len(self.codes) < len(self.children):
            self.end_others()
        if len(self.codes) < len(self.children):
            return None
        return failed[0] if failed else 0

    def wait(self, seconds: float = WATCHDOG_S) -> int:
        end = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.kill(self.running())
                raise TimeoutError(f"a run took more than {seconds:g} s")
            time.sleep(0.002)
        return code

    def running(self) -> list[int]:
        return [child for child in self.children if child not in self.codes]

    def kill(self, children: list[int]) -> None:
        """SIGKILL, and wait for their end."""
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            self.codes[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def end_others(self) -> None:
        """As a launcher does where one process has failed: SIGTERM, some patience, SIGKILL."""
        for child in self.running():
            os.kill(child, signal.SIGTERM)
        end = time.monotonic() + LAUNCHER_S
        while (left := self.running()) and time.monotonic() < end:
            for child in left:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    self.codes[child] = os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        self.kill(self.running())

    def until(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds, or the run has ended."""
        end = time.monotonic() + WATCHDOG_S
        while not condition() and self.poll() is None:
            if time.monotonic() > end:
                self.kill(self.running())
                raise TimeoutError(f"processes {self.children} did not come to the point at which to kill them")
            time.sleep(0.001)


def final_state(folder: Path) -> dict[str, str]:
    """Digests of all that a finished run leaves, less the clock."""
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    files = {name: folder / name for name in ("model.safetensors", "completions.jsonl")}
    # weights, optimizer, schedule and random numbers of every rank; the others hold paths and times
    kept = [path for path in last.rglob("*") if path.suffix in (".safetensors", ".pt", ".pth")]
    files |= {f"checkpoint/{path.relative_to(last)}": path for path in kept}
    state = {name: digest(path) for name, path in sorted(files.items())}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timeless = [
        {key: value for key, value in line.items() if key not in TIMES and not key.startswith("time/")}
        for line in lines
        if "train_runtime" not in line  # its means are over the steps of the last process
    ]
    state["metrics"] = hashlib.sha256(json.dumps(timeless).encode()).hexdigest()
    return state | {"checkpoints": str(sorted(path.name for path in folder.glob("checkpoint-*")))}


def digest(path: Path) -> str:
    """Of a file's bytes; of completions that were read and saved again, whose bytes say so, of what they are."""
    if not path.name.startswith("generation_batch"):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    with torch.serialization.safe_globals([Prompt]):
        return hashlib.sha256(repr(plain(torch.load(path, weights_only=True))).encode()).hexdigest()


def plain(value: Any) -> Any:
    """Tensors as type, shape and numbers, prompts as their fields, in lists and dictionaries of any depth."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.flatten().tolist()
    if isinstance(value, Prompt):
        return [plain(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, Mapping):
        return [(key, plain(inner)) for key, inner in sorted(value.items())]
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Measures:
    """Of a whole run, what a kill is drawn from."""

    step_s: float
    """Seconds of the last step, its save included."""
    files: int
    """Files of a save."""

    @classmethod
    def of(cls, folder: Path) -> "Measures":
        last, before = sorted((path.stat().st_mtime for path in folder.glob("checkpoint-*")), reverse=True)[:2]
        newest = max(folder.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
        return cls(last - before, n_files(newest))


def kill(runs: Runs, folder: Path, at_save: bool, measures: Measures, chance: random.Random) -> str:
    """Start a run and kill it in a save, or anywhere from one checkpoint to the next; say where it was."""
    while (place := kill_once(runs, folder, at_save, measures, chance)) is None:
        shutil.rmtree(folder)
    return place


def kill_once(runs: Runs, folder: Path, at_save: bool, measures: Measures, chance: random.Random) -> str | None:
    """None where the run had ended before it could be killed."""
    before = chance.randint(0, 5)
    ready = folder / (f"checkpoint-{before}" if before else RANKS)  # there when training begins
    job = runs.start(folder)
    job.until(ready.exists)
    if at_save:
        files = chance.randint(0, measures.files)
        job.until(lambda: (folder / UNFINISHED).exists() and n_written(folder) >= files)
        time.sleep(chance.uniform(0, 0.01))
    else:
        time.sleep(chance.uniform(0, measures.step_s))
    if (code := job.poll()) is not None:
        if code != 0:
            raise RuntimeError(f"{folder} ended with {code}: {(folder / 'run.log').read_text()[-3000:]}")
        return None
    victims = job.running()
    alone = len(victims) > 1 and chance.random() < 0.5
    job.kill([chance.choice(victims)] if alone else victims)
    where = "while saving" if (folder / UNFINISHED).exists() else "while training"
    written = f", {n_written(folder)} files written" if (folder / UNFINISHED).exists() else ""
    job.end_others()
    return f"{where}{written}{', one rank' if alone else ''}{'' if before else ', before the first checkpoint'}"


def n_written(folder: Path) -> int:
    """Files of the checkpoint that is being written."""
    return sum(n_files(path) for path in (folder / UNFINISHED).glob("*"))


def n_files(folder: Path) -> int:
    return sum(1 for _, _, files in os.walk(folder) for _ in files)


def stop_once(runs: Runs, folder: Path, number: signal.Signals, chance: random.Random) -> str:
    """Start a run and ask it to stop, one rank of it; say where it did."""
    job = runs.start(folder)
    steps = chance.randint(1, 4)
    job.until(lambda: len(read_lines(folder / "metrics.jsonl")) >= steps)
    os.kill(chance.choice(job.running()), number)
    code = job.wait()
    if code != RESUMABLE:
        raise RuntimeError(f"{number.name} in {folder}: the run ended with {code} in place of {RESUMABLE}")
    return f"{number.name}, stopped after {len(read_lines(folder / 'metrics.jsonl')) - 1} steps"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stops", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--engine", choices=ENGINES, default="ddp", help="of more than one rank")
    parser.add_argument("--keep", type=Path, help="folder to leave the runs in, for a look")
    args = parser.parse_args(argv)
    chance = random.Random(args.seed)
    if args.engine == "zero3":
        import_module("deepspeed")  # once, before the forks
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        runs = Runs.over(folder, args.ranks, args.engine)
        runs.finish(folder / "whole")  # draws the data set, too
        expected = final_state(folder / "whole")
        measures = Measures.of(folder / "whole")
        places: Counter[str] = Counter()
        different = 0
        for number in range(args.kills + args.stops):
            trial = folder / f"kill_{number}"
            if number < args.kills:
                place = kill(runs, trial, number % 2 == 0, measures, chance)
            else:
                place = stop_once(runs, trial, (signal.SIGTERM, signal.SIGINT)[number % 2], chance)
            runs.finish(trial)
            state = final_state(trial)
            faults = [name for name in sorted(expected | state) if state.get(name) != expected.get(name)]
            places[place.partition(",")[0]] += 1
            different += bool(faults)
            print(
                f"{number + 1}: {place}: {', '.join(faults) + ' differ' if faults else 'identical'}",
                flush=True,
            )
            if args.keep is None:
                shutil.rmtree(trial)
    where = ", ".join(f"{n} {place}" for place, n in sorted(places.items()))
    print(f"{args.kills + args.stops} runs ({where}): {different} final states differ")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
