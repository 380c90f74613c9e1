"""What `recipes/evaluate.py` reads of a recipe's YAML and the command line."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl import ModelConfig

from omnirl_core.config import DataArguments, StrictParser, only_own_names
from omnirl_core.trainer import OmniGRPOConfig
from omnirl_core.types import nearest_file
from omnirl_tools.checks.path_checks import (
    OF_A_RUN,
    WRITTEN,
    Fault,
    data_faults,
    folder_faults,
    is_adapter,
    model_faults,
    reward_faults,
    shapes_faults,
    template_faults,
)
from omnirl_tools.evaluation.grounding import PROTOCOLS, Protocol
from omnirl_tools.sft import OmniSFTConfig

_OF_AN_EVALUATION = {"metrics.json", "predictions.jsonl"}
"""Files that an evaluation leaves in its folder, both."""


@dataclass
class EvaluationArguments(DataArguments):
    """Which rows, which rewards, how to answer. Settings that only training has are read over in a YAML."""

    dataset_name: str | None = field(  # type: ignore[assignment]  # training cannot do without, this can
        default=None, metadata={"help": "training rows: not used here"}
    )
    rewards: str | None = field(default=None, metadata={"help": "rewards.yaml; not needed with a protocol"})
    output_dir: str = field(default="outputs/evaluation", metadata={"help": "the run's folder"})
    evaluation_dir: str | None = field(
        default=None,
        metadata={"help": "where to write; by default output_dir/evaluation/<name of the model>"},
    )
    completions: str | None = field(
        default=None,
        metadata={"help": "JSON or JSONL of ready completions; no model is loaded (docs/evaluation.md)"},
    )
    protocol: str | None = field(
        default=None,
        metadata={"help": "judge boxes as REC does, by fixed rules", "choices": sorted(PROTOCOLS)},
    )
    annotations: list[str] | None = field(
        default=None,
        metadata={"help": "with a protocol: annotation files, each a data set; default eval_dataset_name"},
    )
    rec_template: str = field(
        default="rec_r1",
        metadata={"help": "with a protocol: the prompt; `rec` for a policy that does not think"},
    )
    box_space: str | None = field(
        default=None,
        metadata={"help": "with a protocol: space of the answered boxes, if not the model family's"},
    )
    eval_temperature: float = field(default=0.0, metadata={"help": "0 is greedy; above it answers are sampled"})
    num_samples: int = field(
        default=1,
        metadata={"help": "answers of each sample; above 1, pass_rates.jsonl says how often it is solved"},
    )
    seed: int = field(default=42, metadata={"help": "of sampled answers, and of a mixture's random rows"})
    max_completion_length: int | None = field(
        default=None, metadata={"help": "most new tokens; default: the protocol's, or 512 as in training"}
    )
    max_output_token_length: int | None = field(default=None, metadata={"help": "the same, by its other name"})
    min_pixels: int | None = field(default=None, metadata={"help": "least size of an image as the model sees it"})
    max_pixels: int | None = field(default=None, metadata={"help": "most size of an image as the model sees it"})
    chat_template_kwargs: dict | str | None = field(default=None, metadata={"help": "for the chat template"})
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "rows answered at once"})
    bf16: bool | None = field(
        default=None, metadata={"help": "compute in bfloat16, as training does by default on a GPU"}
    )
    use_cpu: bool = field(default=False, metadata={"help": "stay on the CPU"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.chat_template_kwargs, str):
            self.chat_template_kwargs = json.loads(self.chat_template_kwargs)
        if faults := [*self._row_faults(), *self._number_faults()]:
            raise ValueError("\n".join(faults))
        length = self.max_completion_length or self.max_output_token_length
        # a protocol's own limit is one of its rules, so the YAML's, which is training's, gives way
        self.max_new_tokens = self.rules.max_new_tokens if self.rules else length or 512

    @property
    def rules(self) -> Protocol | None:
        """Of the protocol, where one is set."""
        return PROTOCOLS[self.protocol] if self.protocol else None

    def _row_faults(self) -> list[str]:
        faults = []
        if self.protocol not in (None, *PROTOCOLS):
            faults.append(f"protocol {self.protocol!r} is none of {', '.join(PROTOCOLS)}")
        if not self.eval_dataset_name and not (self.protocol and self.annotations):
            wanted = "eval_dataset_name, or annotations" if self.protocol else "eval_dataset_name"
            faults.append(f"no rows to evaluate on: set {wanted}")
        if not self.rewards and not self.protocol:
            faults.append("nothing to judge by: set rewards (a rewards.yaml) or a protocol")
        if not self.protocol:
            faults += [
                f"{name} means something with a protocol only ({', '.join(PROTOCOLS)}); set one or remove it"
                for name in ("annotations", "box_space")
                if getattr(self, name)
            ]
        return faults

    def _number_faults(self) -> list[str]:
        names = (
            "per_device_eval_batch_size",
            "max_completion_length",
            "max_output_token_length",
            "eval_rows",
            "num_samples",
        )
        faults = [
            f"{name} {value!r} is not a whole number above 0"
            for name in names
            if (value := getattr(self, name)) is not None and value < 1
        ]
        if self.num_samples > 1 and not self.eval_temperature:
            faults.append("num_samples above 1 is not supported with greedy answers; set eval_temperature: 1.0")
        if self.num_samples > 1 and (self.protocol or self.completions):
            named = "protocol" if self.protocol else "completions"
            faults.append(f"num_samples above 1 is not supported with {named}; leave one of them out")
        if self.eval_temperature < 0:
            faults.append(f"eval_temperature {self.eval_temperature} is below 0")
        return faults


def parse_evaluation(
    argv: Sequence[str] | None = None, check_files: bool = False
) -> tuple[EvaluationArguments, ModelConfig]:
    """Read `--config FILE` and what overrides them; with `check_files` look the files up as well.

    A YAML's keys that only training or a warm start knows are left alone; on the command line they are refused, as
    are names that nothing knows.
    """
    hints = {"temperature": "sampled answers: eval_temperature"}
    parser = StrictParser(
        [EvaluationArguments, ModelConfig],
        [file_faults] if check_files else [],
        elsewhere=[OmniGRPOConfig, OmniSFTConfig],
        hints=hints,
        adjust=only_own_names,
    )
    return parser.parse(argv)  # type: ignore[return-value]


def file_faults(values: Mapping[str, object]) -> Iterator[Fault]:
    """What is wrong with the files that an evaluation reads or writes."""
    yield from shapes_faults(values.get("draw_shapes"))
    if not values.get("protocol"):
        yield from reward_faults(values.get("rewards"))
    if not values.get("annotations"):
        yield from data_faults("eval_dataset_name", values)
    for name in ("annotations", "completions"):
        given = values.get(name)
        for path in given if isinstance(given, list) else [given]:
            if isinstance(path, str) and not os.path.isfile(path):
                yield name, f"{name}: no file {path}{nearest_file(path)}"
    yield from template_faults(values.get("templates"))
    yield from folder_faults(values)
    yield from _evaluation_folder_faults(values.get("evaluation_dir"))
    model = values.get("model_name_or_path")
    if not values.get("completions") and not (isinstance(model, str) and is_adapter(model)):
        yield from model_faults(model, bool(values.get("trust_remote_code")))


def _evaluation_folder_faults(path: Any) -> Iterator[Fault]:
    """An evaluation writes into a folder that is new, an earlier evaluation's or a run's."""
    if not isinstance(path, str) or not os.path.exists(path):
        return
    if not os.path.isdir(path):
        yield "evaluation_dir", f"evaluation_dir: {path} is a file; name a folder"
        return
    names = sorted(os.listdir(path))
    is_known = any(name in OF_A_RUN for name in names) or {*names} >= _OF_AN_EVALUATION
    begun = "generations.jsonl" in names or any(name.startswith("generations.rank") for name in names)
    if not (is_known or begun) and (mine := [name for name in names if Path(name).suffix in WRITTEN]):
        shown = ", ".join(mine[:3]) + ", ..." * (len(mine) > 3)
        yield (
            "evaluation_dir",
            f"evaluation_dir: {path} holds {shown}, and no evaluation wrote it; name a new folder",
        )
