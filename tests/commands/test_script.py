"""The words of a command that takes a config and what overrides it: which are which."""

import pytest

from omnirl_tools import cli
from omnirl_tools.commands import script

CONFIG = "recipes/mixed/demo.yaml"


@pytest.fixture
def handed_on(monkeypatch):
    """What the recipe script is given."""
    given = []
    monkeypatch.setattr(script, "_run_here", lambda module, words: given.append(words))
    return given


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([CONFIG, "--max_steps", "3"], ["--config", CONFIG, "--max_steps", "3"]),
        (["--max_steps", "3", "--config", CONFIG], ["--config", CONFIG, "--max_steps", "3"]),
        (["--config", CONFIG, "--report_to", "a", "b"], ["--config", CONFIG, "--report_to", "a", "b"]),
        (["--model_name_or_path", "tiny_policy"], ["--model_name_or_path", "tiny_policy"]),
    ],
)  # fmt: skip
def test_the_value_of_an_override_is_not_taken_for_the_config(words, expected, handed_on):
    assert cli.main(["sft", *words]) == 0
    assert handed_on == [expected]


def test_one_config_is_asked_for(handed_on, capsys):
    assert cli.main(["train"]) == 2
    assert cli.main(["train", CONFIG, "--config", CONFIG]) == 2
    assert capsys.readouterr().err.count("give one config: omnirl train CONFIG, then what overrides it") == 2
    assert not handed_on


@pytest.mark.parametrize("command", ["estimate-memory", "check-data", "check-rewards"])
def test_a_config_after_an_override_is_not_its_value(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--max_completion_length", "512"])
    assert "arguments are required: CONFIG" in capsys.readouterr().err
