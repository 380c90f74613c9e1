"""The `omnirl` command: what to run before and after training. Each subcommand is a module of `omnirl_tools.commands`.

Exit codes: 0 when all is well, 1 when a check found something, 2 when the command could not run.
"""

import argparse
import importlib
import os
import sys
from typing import Any

from omnirl_core import __version__
from omnirl_core.launch import DEBUG, INTERRUPTED, silence_imports, take_debug, tell
from omnirl_core.types import nearest
from omnirl_tools.commands import COMMANDS, CannotRun


def main(argv: list[str] | None = None) -> int:
    """Run the subcommand that `argv` (default: the command line) names; returns the exit code."""
    argv = [_with_underscores(word) for word in (sys.argv[1:] if argv is None else argv)]
    take_debug(argv)
    silence_imports()
    parser = argparse.ArgumentParser(prog="omnirl", description="Train, check before it, report after it.")
    parser.add_argument("--version", action="version", version=f"omnirl {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, line) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=line, formatter_class=argparse.RawDescriptionHelpFormatter)
        if argv[:1] == [name]:  # only the chosen one is imported: some need torch, which takes seconds
            command = importlib.import_module(module)
            subparser.description = command.__doc__
            command.add_arguments(subparser)
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        parser.error(f"unknown command {argv[0]!r}{nearest(argv[0], COMMANDS)}")
    overrides: list[str] = []
    if argv and argv[0] in COMMANDS and getattr(command, "TAKES_OVERRIDES", False):
        argv, overrides = _apart(argv, subparsers.choices[argv[0]])
    arguments = parser.parse_args(argv)
    arguments.overrides = overrides
    return _run(command, arguments)


def _apart(words: list[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """The words that the command's parser knows, and its overrides: each other option with what follows it.

    argparse would take the value of an override before the config for the config.
    """
    parser.allow_abbrev = False  # what is not the command's is a key of the config
    known = {option for action in parser._actions for option in action.option_strings}
    own: list[str] = []
    overrides: list[str] = []
    part = own
    for word in words:
        if word.startswith("--") or word in known:
            part = own if word.partition("=")[0] in known else overrides
        part.append(word)
    return own, overrides


def _run(command: Any, arguments: argparse.Namespace) -> int:
    """The command's exit code; what a person can mend is one message, `--debug` shows the traceback too."""
    try:
        code = command.run(arguments)
        sys.stdout.flush()  # a reader that is gone is noticed here
        return code
    except BrokenPipeError:  # `omnirl ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"\nomnirl {arguments.command}: stopped by Ctrl-C", file=sys.stderr)
        return INTERRUPTED
    except CannotRun as error:
        if os.environ.get(DEBUG):
            raise
        print(f"omnirl {arguments.command}: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if not tell(error):
            raise
        return 2


def _with_underscores(word: str) -> str:
    """Options are written as a recipe's keys are; `--box-space` is taken for `--box_space`."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}"


if __name__ == "__main__":
    sys.exit(main())
