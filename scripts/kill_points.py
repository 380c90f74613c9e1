"""Kill a run at random moments, resume it, and compare what it leaves with an uninterrupted run's.

    python scripts/kill_points.py --kills 50 --stops 10

Half of the kills (SIGKILL) fall while a checkpoint is being written, after a random number of its files, the others at
any moment of a step or its save; a stop is a SIGTERM or SIGINT while it trains, after which the run has to end with
its own exit code. The libraries are imported once, and each run is a fork of this process. Prints one line a kill and a
summary; the exit code is 1 if any final state differs.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omnirl_core import run
from omnirl_core.evaluation.lines import read_lines
from omnirl_core.trainer.heartbeat import RANKS
from omnirl_core.trainer.saving import ASIDE

SETTINGS = {
    "model_name_or_path": "tiny_policy", "templates": '{"default": "plain"}', "bf16": "false", "use_cpu": "true",
    "gradient_checkpointing": "false", "per_device_train_batch_size": "4", "num_generations": "4",
    "max_completion_length": "12", "max_steps": "6", "learning_rate": "1e-3", "logging_steps": "1", "seed": "3",
    "save_steps": "1", "save_total_limit": "2", "report_to": "none", "disable_tqdm": "true",
    # a generation batch serves four steps, so that most checkpoints lie within one
    "gradient_accumulation_steps": "1", "steps_per_generation": "2", "num_iterations": "2",
}  # fmt: skip
TIMES = {"time", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second"}
"""What a log holds of the clock."""
FILES_OF_A_SAVE = 12
"""That every save writes; a kill waits for some of them."""
WATCHDOG_S = 300.0


@dataclass(frozen=True)
class Runs:
    """Starts runs over one drawn data set, each in a process of its own."""

    data: Path
    settings: tuple[str, ...]

    @classmethod
    def over(cls, folder: Path, **settings: str) -> "Runs":
        data = folder / "data" / "train.json"
        draw = {"task": "mixed", "train": 20, "test": 4, "seed": 0}
        rewards = Path(run.__file__).parents[1] / "recipes" / "mixed" / "rewards.yaml"
        given = {**SETTINGS, "draw_shapes": json.dumps(draw), "rewards": str(rewards), **settings}
        return cls(data, tuple(part for key, value in given.items() for part in (f"--{key}", value)))

    def start(self, folder: Path) -> int:
        """The process id of a run into `folder` that resumes what it finds there; its output goes to run.log."""
        folder.mkdir(parents=True, exist_ok=True)
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            log = os.open(folder / "run.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            arguments = ["--output_dir", str(folder), "--dataset_name", str(self.data)]
            run.main([*arguments, *self.settings, "--resume_from_checkpoint", "auto"])
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
        child = self.start(folder)
        code = wait(child)
        if code != 0:
            raise RuntimeError(
                f"a run in {folder} ended with {code}: {(folder / 'run.log').read_text()[-3000:]}"
            )


def wait(child: int, seconds: float = WATCHDOG_S) -> int | None:
    """The exit code of a child, minus the signal's number if one killed it; None if it still runs after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            if seconds >= WATCHDOG_S:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise TimeoutError(f"a run took more than {seconds:g} s")
            return None
        time.sleep(0.002)


def final_state(folder: Path) -> dict[str, str]:
    """Digests of all that a finished run leaves, less the clock."""
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    files = {
        "weights": folder / "model.safetensors", "last weights": last / "model.safetensors",
        "optimizer": last / "optimizer.pt", "schedule": last / "scheduler.pt", "random numbers": last / "rng_state.pth",
        "completions": folder / "completions.jsonl",
    }  # fmt: skip
    state = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timeless = [
        {key: value for key, value in line.items() if key not in TIMES and not key.startswith("time/")}
        for line in lines
        if "train_runtime" not in line  # its means are over the steps of the last process
    ]
    state["metrics"] = hashlib.sha256(json.dumps(timeless).encode()).hexdigest()
    return state | {"checkpoints": str(sorted(path.name for path in folder.glob("checkpoint-*")))}


def kill(runs: Runs, folder: Path, at_save: bool, step_s: float, chance: random.Random) -> str:
    """Start a run and kill it in a save, or anywhere from one checkpoint to the next; say where it was."""
    while (place := kill_once(runs, folder, at_save, step_s, chance)) is None:
        shutil.rmtree(folder)
    return place


def kill_once(runs: Runs, folder: Path, at_save: bool, step_s: float, chance: random.Random) -> str | None:
    """None where the run had ended before it could be killed."""
    before = chance.randint(0, 5)
    ready = folder / (f"checkpoint-{before}" if before else RANKS)  # there when training begins
    child = runs.start(folder)
    wait_for(ready.exists, child)
    if at_save:
        files = chance.randint(0, FILES_OF_A_SAVE)
        wait_for(lambda: (folder / ASIDE).exists() and n_written(folder) >= files, child)
        time.sleep(chance.uniform(0, 0.01))
    else:
        time.sleep(chance.uniform(0, step_s))
    if wait(child, 0) is not None:
        return None
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if (folder / ASIDE).exists():
        return f"while saving, {n_written(folder)} files written"
    return "while training" if before else "while training, before the first checkpoint"


def n_written(folder: Path) -> int:
    """Files of the checkpoint that is being written."""
    return len(list((folder / ASIDE).glob("*/*")))


def step_seconds(folder: Path) -> float:
    """Of the last step of a whole run, its save included."""
    last, before = sorted((path.stat().st_mtime for path in folder.glob("checkpoint-*")), reverse=True)[:2]
    return last - before


def stop_once(runs: Runs, folder: Path, number: signal.Signals, chance: random.Random) -> str:
    """Start a run and ask it to stop; say where it did."""
    child = runs.start(folder)
    steps = chance.randint(1, 4)
    wait_for(lambda: len(read_lines(folder / "metrics.jsonl")) >= steps, child)
    os.kill(child, number)
    code = wait(child)
    if code != run.RESUMABLE:
        raise RuntimeError(
            f"{number.name} in {folder}: the run ended with {code} in place of {run.RESUMABLE}"
        )
    return f"{number.name}, stopped after {len(read_lines(folder / 'metrics.jsonl')) - 1} steps"


def wait_for(condition: Callable[[], bool], child: int) -> None:
    """Return when the condition holds, or the child has ended."""
    end = time.monotonic() + WATCHDOG_S
    while not condition() and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > end:
            raise TimeoutError(f"process {child} did not come to the point at which to kill it")
        time.sleep(0.001)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stops", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder to leave the runs in, for a look")
    args = parser.parse_args(argv)
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        runs = Runs.over(folder)
        runs.finish(folder / "first")  # draws the data set, and fills the disk's cache
        runs.finish(folder / "whole")
        expected = final_state(folder / "whole")
        if final_state(folder / "first") != expected:
            print("two uninterrupted runs differ: nothing to compare with")
            return 1
        step_s = step_seconds(folder / "whole")
        places: Counter[str] = Counter()
        different = 0
        for number in range(args.kills + args.stops):
            trial = folder / f"kill_{number}"
            if number < args.kills:
                place = kill(runs, trial, number % 2 == 0, step_s, chance)
            else:
                place = stop_once(runs, trial, (signal.SIGTERM, signal.SIGINT)[number % 2], chance)
            runs.finish(trial)
            state = final_state(trial)
            faults = [name for name in expected if state[name] != expected[name]]
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
