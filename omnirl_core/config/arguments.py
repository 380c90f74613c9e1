"""What a recipe's YAML and command line say, as the objects that they configure."""

from collections.abc import Iterable, Sequence

from trl import ModelConfig

from omnirl_core.config.data_arguments import DataArguments
from omnirl_core.config.parser import Check, StrictParser
from omnirl_core.config.path_checks import file_faults
from omnirl_core.shapes.drawing import only_own_names
from omnirl_core.trainer import OmniGRPOConfig

__all__ = ["DataArguments", "parse"]


def parse(
    argv: Sequence[str] | None = None, check_files: bool = False, checks: Iterable[Check] = ()
) -> tuple[DataArguments, OmniGRPOConfig, ModelConfig]:
    """Read `--config FILE` and what overrides them; `argv` is the command line by default.

    ConfigError tells all that is wrong at once; with `check_files` also of the files that the settings name; `checks`
    are checks besides.
    """
    checks = [*([file_faults] if check_files else []), *checks]
    kinds = [DataArguments, OmniGRPOConfig, ModelConfig]
    return StrictParser(kinds, checks, adjust=only_own_names).parse(argv)  # type: ignore[return-value]
