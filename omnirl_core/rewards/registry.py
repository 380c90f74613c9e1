"""The scorers that rewards.yaml can name, functions of a user's own file, and a description of both."""

import importlib
import inspect
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any
from zlib import crc32

from omnirl_core.rewards.reward import Reward, Scorer, signature_of
from omnirl_core.types import nearest

_OF_MODULE = {
    "format": "think_format length_band repetition language_consistency overlong json_format markdown_format",
    "overlap.metrics": "bleu rouge meteor",
    "overlap.overlap": "overlap",
    "answers.answers": "exact choice yes_no number math edit_similarity answer answer_or_overlap",
    "answers.short_answers": "token_f1 vqa_accuracy contains regex soft_number",
    "answers.structured": "set_f1 ranking json_fields",
    "documents": "anls cer wer relaxed_accuracy unit_tests",
    "tables": "teds teds_struct",
    "overlap.captions": "cider chrf keywords",
    "embedding": "embedding",
    "grounding": "box_iou box_f1 box_ap",
    "pointing": "point_in_box point_gaussian point_distance point_count mask_iou temporal_iou",
    "reference_probability": "reference_probability",
    "judge": "judge",
    "code.code": "code",
}
OF_FORM = tuple(_OF_MODULE["format"].split())
"""Scorers that look at how a completion is written, not at whether it is right."""
SCORERS = {name: f"omnirl_core.rewards.{of}:{name}" for of, names in _OF_MODULE.items() for name in names.split()}
"""Name -> `module:function`, so that what only one reward needs is imported only for it."""


def scorer_named(name: str) -> Scorer:
    """The scorer of that name; LookupError with the nearest name if there is none.

    >>> scorer_named("box_iou").__name__
    'box_iou'
    """
    if name not in SCORERS:
        raise LookupError(f"no reward '{name}'{nearest(name, SCORERS)}")
    module, _, function = SCORERS[name].partition(":")
    return getattr(importlib.import_module(module), function)


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileFunction:
    """Calls a function of a Python file; equal and picklable by path and name, loaded where it is called."""

    path: Path
    name: str

    def load(self) -> Scorer:
        """The function itself; the file is run once a process."""
        found = getattr(_module(self.path), self.name, None)
        if not callable(found):
            known = [name for name, value in vars(_module(self.path)).items() if inspect.isfunction(value)]
            raise AttributeError(f"no function '{self.name}' in {self.path}{nearest(self.name, known)}")
        return found

    @property
    def reads(self) -> str:
        return getattr(self.load(), "reads", "completion")

    @property
    def columns(self) -> tuple[str, ...]:
        return getattr(self.load(), "columns", ())

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.load())

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.load().__doc__

    @property
    def takes_batches(self) -> bool:
        """Whether it is a reward function as TRL has them, `fn(completions, solution, **kwargs) -> list`.

        Told by its parameters: one is named `completions`, or there is none but `**kwargs`.
        """
        parameters = self.__signature__.parameters
        return "completions" in parameters or all(p.kind == p.VAR_KEYWORD for p in parameters.values())

    def batch(self, columns: Mapping[str, object], n: int) -> list[Any]:
        """What a function of batches gives for `n` completions; it is given the columns that it takes."""
        parameters = self.__signature__.parameters.values()
        takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
        names = {p.name for p in parameters}
        values: Any = self.load()(**{name: value for name, value in columns.items() if takes_any or name in names})
        if not hasattr(values, "__len__") or isinstance(values, str):
            raise TypeError(f"returned {values!r:.80} in place of a list of {n} values")
        if len(values) != n:
            raise ValueError(f"returned {len(values)} values for {n} completions")
        return list(values)

    def __call__(self, text: str, *solution: object, **columns: Any) -> float | None:
        return self.load()(text, *solution, **columns)


@lru_cache(maxsize=64)
def _module(path: Path) -> ModuleType:
    """Run the file once, as a module of its own."""
    if path.suffix != ".py" or not path.is_file():
        raise FileNotFoundError(f"no Python file {path}")
    # own code runs here, and only here: a file is read because a rewards.yaml names it
    logger.info("running the reward file %s", path)
    name = f"omnirl_reward_{path.stem}_{crc32(str(path).encode()):08x}"
    loader = SourceFileLoader(name, str(path))
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look up the module that they are defined in
    loader.exec_module(module)
    return module


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
    return "\n".join([f"{name}: reads the {getattr(scorer, 'reads', 'completion')}", _summary(scorer), *settings])


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
