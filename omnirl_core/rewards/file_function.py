"""A scorer from a user's own file, `path/to/file.py:function`, that still pickles.

It judges one sample, `fn(completion, solution, ...) -> float | None`, or a batch as TRL's reward functions do,
`fn(completions, solution, **kwargs) -> list`.
"""

import inspect
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any
from zlib import crc32

from omnirl_core.rewards.settings import Scorer
from omnirl_core.type_checks import nearest

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

    def batch(self, columns: Mapping[str, Any], n: int) -> list[Any]:
        """What a function of batches gives for `n` completions; it is given the columns that it takes."""
        parameters = self.__signature__.parameters.values()
        takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
        names = {p.name for p in parameters}
        values: Any = self.load()(
            **{name: value for name, value in columns.items() if takes_any or name in names}
        )
        if not hasattr(values, "__len__") or isinstance(values, str):
            raise TypeError(f"returned {values!r:.80} in place of a list of {n} values")
        if len(values) != n:
            raise ValueError(f"returned {len(values)} values for {n} completions")
        return list(values)

    def __call__(self, text: str, *solution: Any, **columns: Any) -> float | None:
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
