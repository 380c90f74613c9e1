"""Groups of processes for tests: torch and trl are imported once, then every process of every group is forked.

    python tests/distributed/distributed_ranks.py LAYOUTS.json --checkpoint FOLDER --images A.png ... --output FOLDER

A group gets the environment that `accelerate launch --config_file accelerate_configs/<engine>.yaml` gives it.
Consecutive layouts of one engine and size share a group. A watchdog ends a group that makes no progress, names
the layout, and goes on with the next one. OUTPUT/<place>.pt holds what a layout left, outcomes.json what became
of each: "ok", or what went wrong.
"""

import argparse
import faulthandler
import itertools
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import deepspeed  # noqa: F401  # once, before the forks
import distributed_layouts as layouts
import torch
from accelerate.commands import launch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from accelerate.utils import launch as environments

from scripts.ports import free_port

CONFIGS = Path(__file__).parents[2] / "accelerate_configs"
HUNG, FAILED = "hung", "failed"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("layouts", type=Path)
    parser.add_argument("--checkpoint")
    parser.add_argument("--image_files", nargs="+")
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--patience_s",
        type=float,
        default=600,
        help="without a layout done, a group has hung (offload compiles)",
    )
    args = parser.parse_args()
    todo = list(enumerate(layouts.parse(args.layouts.read_text())))
    outcomes: dict[int, str] = {}
    args.output.mkdir(parents=True, exist_ok=True)
    while todo:
        _, alike = next(itertools.groupby(todo, lambda item: shape(item[1])))
        group = list(alike)
        outcomes |= Group(group, args).run()
        todo = [item for item in todo if item[0] not in outcomes]
        (args.output / "outcomes.json").write_text(json.dumps([outcomes[k] for k in sorted(outcomes)]))


def shape(layout: layouts.Layout) -> tuple[str, int]:
    return layout.engine, layout.processes


class Group:
    """Processes that train layouts one after the other, up to the first that fails or hangs."""

    def __init__(self, todo: list[tuple[int, layouts.Layout]], args: argparse.Namespace):
        self.todo, self.args = todo, args
        self.engine, self.size = shape(todo[0][1])
        self.logs = [args.output / f"rank{rank}.log" for rank in range(self.size)]
        self.done = args.output / "done"

    def run(self) -> dict[int, str]:
        """What became of each layout that was tried."""
        self.done.write_text("")
        port = free_port()
        pids = [self._fork(rank, port) for rank in range(self.size)]
        problem = self._watch(pids)
        places = [place for place, _ in self.todo]
        finished = len(self.done.read_text().split())
        outcomes = dict.fromkeys(places[:finished], "ok")
        if problem and finished < len(places):
            logs = "\n".join(f"[rank{rank}] {log.read_text()[-2500:]}" for rank, log in enumerate(self.logs))
            outcomes[places[finished]] = f"{problem}: {self.todo[finished][1]}\n{logs}"
        return outcomes

    def _fork(self, rank: int, port: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            with self.logs[rank].open("w") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            faulthandler.register(signal.SIGUSR1)
            self._work(rank, port)
            code = 0
        except BaseException:  # noqa: BLE001  # a child must never return into the parent's code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _work(self, rank: int, port: int) -> None:
        os.environ |= launch_environment(self.engine, self.size)
        if self.size > 1:
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(self.size), "MASTER_ADDR": "127.0.0.1",
                "LOCAL_WORLD_SIZE": str(self.size), "MASTER_PORT": str(port),
            }  # fmt: skip
            torch.distributed.init_process_group("gloo")
        if self.engine == "fsdp2":
            shard_on_the_cpu()
        for place, layout in self.todo:
            output = self.args.output / f"run{place}"
            result = layouts.train(layout, self.args.checkpoint, self.args.image_files, output)
            if result is not None:
                torch.save(result, self.args.output / f"{place}.pt")
            if self.size > 1:
                torch.distributed.barrier()
            if rank == 0:
                with self.done.open("a") as file:
                    file.write(f"{place}\n")
        if self.size > 1:
            torch.distributed.barrier()  # gloo aborts a process that ends while another still talks to it
            torch.distributed.destroy_process_group()

    def _watch(self, pids: list[int]) -> str | None:
        """Wait for all; end all as soon as one fails or nothing moves any more."""
        alive, seen, since = set(pids), "", time.monotonic()
        while alive:
            for pid, status in reap(alive):
                alive.discard(pid)
                if status:
                    time.sleep(0.5)  # let the others say what they saw
                    return self._end(alive, FAILED)
            if self.done.read_text() != seen:
                seen, since = self.done.read_text(), time.monotonic()
            if time.monotonic() - since > self.args.patience_s:
                for pid in alive:
                    os.kill(pid, signal.SIGUSR1)  # each prints where it stands
                time.sleep(1)
                return self._end(alive, HUNG)
            time.sleep(0.05)
        return None

    def _end(self, alive: set[int], problem: str) -> str:
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return problem


def reap(pids: set[int]) -> Iterator[tuple[int, int]]:
    for pid in list(pids):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            yield pid, status


def launch_environment(engine: str, processes: int) -> dict[str, str]:
    """What `accelerate launch` would put into the environment of the processes."""
    words = ["--config_file", str(CONFIGS / f"{engine}.yaml"), "--num_processes", str(processes)]
    parsed = launch.launch_command_parser().parse_args([*words, "--main_process_port", str(free_port()), "x.py"])
    args, defaults, from_config = launch._validate_launch_command(parsed)
    if args.use_deepspeed:
        fields = [*defaults.deepspeed_config, *["mixed_precision"] * from_config]
        args.deepspeed_fields_from_accelerate_config = ",".join(fields)
        return environments.prepare_deepspeed_cmd_env(args)[1]
    if args.multi_gpu or args.use_fsdp:
        return environments.prepare_multi_gpu_env(args)
    return environments.prepare_simple_launcher_cmd_env(args)[1]


def shard_on_the_cpu() -> None:
    """PyTorch's fully_shard runs over gloo; accelerate 1.15 asks for it on accelerators only, and trains DDP else."""
    PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"


if __name__ == "__main__":
    main()
