"""Starting a command so that it ends in lines that a person can act on, and not in a traceback.

    python -m omnirl_core.launch --config_file accelerate_configs/cpu.yaml recipes/grpo.py --config CONFIG

is `accelerate launch` whose Ctrl-C is the run's own: the launcher waits until the run has written its checkpoint, ends
with the run's exit code, and adds no traceback of its own.
"""

import functools
import logging
import os
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from omnirl_core.types import nearest_file
from omnirl_core.yaml_loader import YamlFault, read_yaml

DEBUG = "OMNIRL_DEBUG"
"""Environment variable that `--debug` sets: errors are shown with their traceback."""
INTERRUPTED = 128 + signal.SIGINT
EXPLAINED = ("ConfigError", "DataError", "RewardsError", "RewardError", "NonFiniteError", "SpaceError", "CannotRun")
"""Names of our errors, whose messages say what is wrong and what to do; by name, so that nothing is imported."""

Run = TypeVar("Run", bound=Callable[..., Any])


def before_imports() -> None:
    """What a recipe calls before its imports, which take seconds: they print nothing, and Ctrl-C is one line."""
    take_debug(sys.argv)
    silence_imports()
    # read when torch is imported: libgomp's threads spin while they wait, which starves them on cores that others use
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    show = sys.excepthook

    def in_one_line(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            interrupted()
        else:
            show(kind, error, traceback)

    sys.excepthook = in_one_line


def start(main: Callable[[], object]) -> None:
    """Run the `main` of a recipe; where it fails, end the process with a message that a person can act on."""
    take_debug(sys.argv)
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(interrupted()) from None
    except Exception as error:
        if not tell(error):
            raise
        raise SystemExit(1) from None


def ending_all_ranks(run: Run) -> Run:
    """Decorate a recipe's `main`: in a job of several ranks an error ends its process at once.

    A process that lingers, for a communicator to close, keeps the launcher from ending the others. The launcher reads
    the error from the file that torch's `record` writes.
    """

    @functools.wraps(run)
    def main(*args: Any, **kwargs: Any) -> Any:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return run(*args, **kwargs)
        from torch.distributed.elastic.multiprocessing.errors import record

        try:
            return record(run)(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  printed as it is
            if not tell(error):
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    return cast(Run, main)


def take_debug(argv: list[str]) -> None:
    """Take `--debug` out of the command line and remember it; with a value it is transformers' own setting."""
    for at in [at for at, word in enumerate(argv) if word == "--debug"][::-1]:
        if at + 1 == len(argv) or argv[at + 1].startswith("--"):
            del argv[at]
            os.environ[DEBUG] = "1"


def tell(error: BaseException) -> bool:
    """Print the message of an error that says by itself what is wrong; False for others, and with `--debug`."""
    is_explained = any(kind.__name__ in EXPLAINED for kind in type(error).__mro__) or isinstance(
        error, OSError | ImportError
    )
    if not is_explained or os.environ.get(DEBUG):
        return False
    name = type(error).__name__
    prefix = "error" if name in EXPLAINED else name
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))  # what each rank was doing
    print(f"{prefix}: {error}{notes}\n(--debug shows where)", file=sys.stderr, flush=True)
    return True


def interrupted() -> int:
    """Say how to go on after Ctrl-C; the exit code."""
    how = "The same command starts anew; with --resume_from_checkpoint auto, from a checkpoint."
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"\nStopped by Ctrl-C. {how}", file=sys.stderr, flush=True)
    return INTERRUPTED


def main(argv: Sequence[str] | None = None) -> None:
    """`accelerate launch` with these arguments; SystemExit with the exit code of the run."""
    from accelerate.commands.launch import launch_command, launch_command_parser

    arguments = launch_command_parser().parse_args(argv)
    if wrong := _config_file_error(arguments.config_file):
        print(f"--config_file {arguments.config_file}: {wrong}; give one of accelerate_configs/", file=sys.stderr)
        raise SystemExit(2)
    # the run gets the signal too, and decides; a handler, since a run would inherit an ignored signal
    signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        launch_command(arguments)
    except subprocess.CalledProcessError as error:
        raise SystemExit(error.returncode if error.returncode >= 0 else 128 - error.returncode) from None


def _config_file_error(path: str | None) -> str | None:
    """Why accelerate cannot read the file, which it would say with a traceback."""
    if path is None:
        return None
    if not os.path.isfile(path):
        return f"no such file{nearest_file(path)}"
    try:
        settings = read_yaml(path).data
    except (YamlFault, OSError) as error:
        return str(error)
    return None if isinstance(settings, dict) else "no `name: value` lines"


def silence_imports() -> None:
    """Call before the libraries are imported."""
    # bitsandbytes 0.50 logs at its import that some CPUs could have a faster 4-bit kernel
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def silence_upstream_noise(use_cpu: bool = False) -> None:
    """Call when a trainer is made."""
    # TRL 1.16 and PEFT 0.21 read `model.is_gradient_checkpointing`, which transformers 5.23 has renamed
    warnings.filterwarnings("ignore", r".*gradient_checkpointing.* is deprecated", FutureWarning)
    # DeepSpeed 0.19 calls collectives by the names that torch 2.14 has replaced
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+_tensor` is deprecated", FutureWarning)
    if use_cpu:  # DeepSpeed, where it is installed, would warn that it found no accelerator
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


if __name__ == "__main__":
    main()
