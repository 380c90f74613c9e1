"""The subcommands of `omnirl`, one module each.

A module's docstring is the command's help; `add_arguments(parser)` declares what it takes, `run(arguments)` returns
the exit code and raises `CannotRun` for what the user has to change before there is anything to run.
"""

COMMANDS = {
    "doctor": ("omnirl_core.commands.doctor", "versions, GPU, known-bad pairs, and what a config needs"),
}
"""Name -> (module, line in `omnirl --help`)."""


class CannotRun(Exception):
    """The command cannot do its work; the message names the thing, the place and the fix."""
