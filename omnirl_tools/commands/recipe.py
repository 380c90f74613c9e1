"""A recipe as `recipes/grpo.py` takes it, for checks that need no GPU: data, training and model settings."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from trl import ModelConfig

from omnirl_core.config import Check, DataArguments, parse
from omnirl_core.models import load_processor
from omnirl_core.trainer import OmniGRPOConfig
from omnirl_core.types import JsonObject
from omnirl_core.yaml_loader import ConfigError
from omnirl_tools.commands import CannotRun
from omnirl_tools.model_settings import policy_path

ANYWHERE = ("--use_cpu", "true", "--bf16", "false", "--fp16", "false")
"""A config for a GPU is refused on a machine without one; the data does not care."""


@dataclass(frozen=True)
class Recipe:
    """The parsed config; paths in it are relative to the folder that the command runs in."""

    data: DataArguments
    training: OmniGRPOConfig
    model: ModelConfig

    @property
    def model_path(self) -> str:
        return policy_path(self.model)

    @property
    def template_kwargs(self) -> JsonObject:
        kwargs = self.training.chat_template_kwargs
        return kwargs if isinstance(kwargs, dict) else {}

    def processor(self) -> object:
        """The policy's processor with the run's pixel budget; CannotRun where it is out of reach."""
        settings: dict[str, Any] = {
            "revision": self.model.model_revision,
            "trust_remote_code": self.training.trust_remote_code,
        }
        try:
            return load_processor(self.model_path, self.training.min_pixels, self.training.max_pixels, **settings)
        except (OSError, ValueError) as error:
            raise CannotRun(f"processor of {self.model_path}: {str(error).splitlines()[0]}") from error


def read_recipe(path: str, overrides: list[str], checks: Iterable[Check] = ()) -> Recipe:
    """The YAML and what the command line overrides in it; CannotRun holds what TRL and we have against it."""
    try:
        return Recipe(*parse(["--config", path, *overrides, *ANYWHERE], checks=checks))
    except ConfigError as error:  # names the file and line, or the command line, of each fault
        raise CannotRun(str(error)) from error
    except (ValueError, OSError) as error:
        raise CannotRun(f"{path}: {error}") from error
