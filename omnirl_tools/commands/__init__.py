"""The subcommands of `omnirl`, one module each.

A module's docstring is the command's help; `add_arguments(parser)` declares what it takes, `run(arguments)` returns
the exit code and raises `CannotRun` for what the user has to change before there is anything to run.
With `TAKES_OVERRIDES = True`, `arguments.overrides` has what else stands on the command line (a recipe's keys).
"""

import sys

COMMANDS = {
    "init": ("omnirl_tools.commands.init", "a folder that trains, from your data, model and GPU; or a demo"),
    "train": ("omnirl_tools.commands.script", "GRPO on a config: recipes/grpo.py"),
    "sft": ("omnirl_tools.commands.script", "a warm start on a config: recipes/sft.py"),
    "evaluate": ("omnirl_tools.commands.script", "judge a model by a config's rewards: recipes/evaluate.py"),
    "doctor": ("omnirl_tools.commands.doctor", "versions, GPU, known-bad pairs, and what a config needs"),
    "check-data": ("omnirl_tools.commands.check_data", "every row and image of a recipe or a data file"),
    "check-rewards": (
        "omnirl_tools.commands.check_rewards",
        "whether reference answers earn full marks, and hacks do not",
    ),
    "suggest-rewards": ("omnirl_tools.commands.suggest_rewards", "a rewards.yaml from what the references look like"),
    "estimate-memory": (
        "omnirl_tools.commands.estimate_memory",
        "what each GPU has to hold, from the config alone",
    ),
    "compare": ("omnirl_tools.commands.compare", "two evaluations of the same rows, with wins and losses"),
    "select": ("omnirl_tools.commands.select", "training samples by how often a policy solves them"),
    "report": ("omnirl_tools.commands.report", "curves.png and completions.html of a run or an evaluation"),
}
"""Name -> (module, line in `omnirl --help`)."""


class CannotRun(Exception):
    """The command cannot do its work; the message names the thing, the place and the fix."""


def note(line: str) -> None:
    """Tell something beside the command's output."""
    print(line, file=sys.stderr)
