"""The `omnirl` command: what to run before and after training. Each subcommand is a module of `omnirl_core.commands`.

Exit codes: 0 when all is well, 1 when a check found something, 2 when the command could not run.
"""

import argparse
import importlib
import sys

from omnirl_core.commands import COMMANDS, CannotRun
from omnirl_core.quiet_imports import silence_imports


def main(argv: list[str] | None = None) -> int:
    """Run the subcommand that `argv` (default: the command line) names; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    silence_imports()
    parser = argparse.ArgumentParser(prog="omnirl", description="Checks before a run, reports after it.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, line) in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=line, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if argv[:1] == [name]:  # only the chosen one is imported: some need torch, which takes seconds
            command = importlib.import_module(module)
            subparser.description = command.__doc__
            command.add_arguments(subparser)
    arguments, overrides = parser.parse_known_args(argv)
    arguments.overrides = overrides
    if overrides and not getattr(command, "TAKES_OVERRIDES", False):
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    try:
        return command.run(arguments)
    except CannotRun as error:
        print(f"omnirl {arguments.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
