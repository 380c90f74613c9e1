"""Rewards in words: what each name does, what it can be set to, what a rewards.yaml has set."""

import inspect
from collections.abc import Iterable

from omnirl_core.rewards.registry import SCORERS, scorer_named
from omnirl_core.rewards.reward import Reward
from omnirl_core.rewards.settings import Scorer, signature_of


def describe_rewards(rewards: Iterable[Reward] | None = None) -> str:
    """A listing to print: of every registered scorer with its defaults, or of the given rewards as they are set.

    >>> from omnirl_core.rewards import rouge
    >>> print(describe_rewards([Reward("Rr", rouge, weight=0.5, settings={"variant": "rouge1"}, tasks=("caption",))]))
    Rr: weight 0.5, reads the answer, tasks: caption
        ROUGE F1 with Porter stems in [0, 1]; identical text is 1.0. The best reference counts.
        variant = 'rouge1'  (default 'rougeL')
        numbers = False
        compat = None
        light = 0.02
    """
    if rewards is None:
        return "\n\n".join(_scorer_lines(name, scorer_named(name)) for name in SCORERS)
    return "\n\n".join(_reward_lines(reward) for reward in rewards)


def _scorer_lines(name: str, scorer: Scorer) -> str:
    settings = [f"    {setting} = {default!r}" for setting, default in _defaults(scorer).items()]
    return "\n".join(
        [f"{name}: reads the {getattr(scorer, 'reads', 'completion')}", _summary(scorer), *settings]
    )


def _reward_lines(reward: Reward) -> str:
    head = f"{reward.name}: weight {reward.weight:g}, reads the {reward.reads}"
    if reward.tasks is not None:
        head += f", tasks: {', '.join(task or 'none named' for task in reward.tasks)}"
    if reward.gates:
        rule = "times" if reward.gate_at is None else f"at {reward.gate_at:g} of"
        head += f", {rule} {' or '.join(gate.name for gate in reward.gates)}"
    settings = []
    for setting, default in (_defaults(reward.scorer) | dict(reward.settings)).items():
        set_here = setting in reward.settings
        known = _defaults(reward.scorer).get(setting, default)
        settings.append(f"    {setting} = {default!r}" + (f"  (default {known!r})" if set_here else ""))
    return "\n".join([head, _summary(reward.scorer), *settings])


def _defaults(scorer: Scorer) -> dict[str, object]:
    expects = signature_of(scorer)
    return {name: expects.defaults[name] for name in expects.settings if name in expects.defaults}


def _summary(scorer: Scorer) -> str:
    return "    " + (inspect.getdoc(scorer) or "no docstring").partition("\n")[0]
