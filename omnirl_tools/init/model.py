"""The model that a run starts from, and how it is trained so that it fits the GPU."""

import os
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from trl import ModelConfig

from omnirl_core.boxes import SPACE_OF_MODEL_TYPE
from omnirl_core.shapes import tiny_policy
from omnirl_core.trainer import OmniGRPOConfig
from omnirl_core.types import Settings, nearest_file
from omnirl_tools.checks.path_checks import model_faults
from omnirl_tools.commands import CannotRun
from omnirl_tools.memory import Cluster, Prompt, model_config
from omnirl_tools.memory.fitting import GIB, TIGHT, Plan
from omnirl_tools.memory.model_size import Parameters, meta_model

TINY = "tiny_policy"
DEFAULT = "Qwen/Qwen2.5-VL-3B-Instruct"
STAND_INS = {4.0: DEFAULT, float("inf"): "Qwen/Qwen2.5-VL-7B-Instruct"}
"""Most billions of parameters -> whose shapes stand for a model that cannot be read."""
ON_CPU = 0.3e9
"""Parameters up to which a run on a CPU is worth its time."""
ASSUMED_GIB = 24.0
LORA = {
    "use_peft": True,
    "lora_r": 64,
    "lora_alpha": 128,
    "lora_target_modules": ["all-linear"],
    "freeze_vision_tower": True,
}
QLORA = LORA | {"load_in_4bit": True, "use_bnb_nested_quant": True}


@dataclass
class Model:
    """A model, by its config alone."""

    name: str
    config: PretrainedConfig
    parameters: int
    is_read: bool = True
    """False where the config is a stand-in's."""
    unclear: list[str] = field(default_factory=list)

    @property
    def is_tiny(self) -> bool:
        return self.name == TINY

    @property
    def sees(self) -> bool:
        return type(self.config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    @property
    def bounds_pixels(self) -> bool:
        """Whether min_pixels and max_pixels are settings of its processor: of Qwen's only."""
        return self.sees and self.config.model_type.startswith("qwen")

    @property
    def space(self) -> str | None:
        """The space that it writes boxes in (docs/boxes.md); None where that is not known."""
        return SPACE_OF_MODEL_TYPE.get(self.config.model_type) if self.is_read else None


def read_model(name: str) -> Model:
    """Look at a local folder, a hub id or `tiny_policy` (also by its folder); CannotRun where it is none."""
    if os.path.isdir(name) and os.path.samefile(name, tiny_policy()):
        name = TINY
    place = tiny_policy() if name == TINY else name
    is_local = os.path.exists(name) or name.startswith((".", "/", "~")) or name.count("/") > 1
    if is_local:
        for _, fault in model_faults(name):
            raise CannotRun(fault.replace("model_name_or_path", "--model", 1))
    try:
        config = AutoConfig.from_pretrained(place) if is_local or name == TINY else model_config(name)
        model = Model(name, config, _parameters(config))
    except (OSError, ValueError) as error:
        if "/" not in name:
            raise CannotRun(
                f"--model {name}: no folder here{nearest_file(name)}; give a folder, a hub id (org/name) or {TINY}"
            ) from error
        model = _stand_in(name, str(error).splitlines()[0])
    return model


def _stand_in(name: str, reason: str) -> Model:
    """A model of the hub whose config is out of reach: the shapes of one of its size, by its name."""
    size = re.search(r"(\d+(?:\.\d+)?)\s*[bB]\b", name)
    billions = float(size[1]) if size else 3.0
    other = next(other for most, other in STAND_INS.items() if billions <= most)
    config = model_config(other)
    note = f"the config of {name} could not be read ({reason[:120]}); its memory was estimated as that of {other}"
    return Model(name, config, int(billions * 1e9), is_read=False, unclear=[note])


def _parameters(config: PretrainedConfig) -> int:
    return Parameters.of(meta_model(config, torch.bfloat16, None, None, False)).base


@dataclass
class Fit:
    """How the model trains on the machine: settings for memory, and what they need."""

    how: str
    """full, LoRA or QLoRA."""
    gpu: int | None
    """Bytes, None for a CPU."""
    needed: int = 0
    settings: Settings = field(default_factory=dict)
    is_given: bool = True
    unclear: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return self.gpu is None or self.needed <= self.gpu


def fit(model: Model, gib: float | None, prompt: Prompt, shared: Settings) -> Fit:
    """The first of full, LoRA and QLoRA training, then smaller micro-batches, that leaves a tenth of the GPU free.

    `gib` is the GPU's memory, None for this machine's. A small model without a GPU trains on the CPU.
    """
    gpu = _gpu(gib)
    is_given = gpu is not None
    if gpu is None:
        if model.parameters <= ON_CPU:
            return Fit("full", None)
        gpu = int(ASSUMED_GIB * GIB)
    found = Fit("QLoRA", gpu)
    for how, settings in _candidates():
        needed = _needed(model, {**shared, **settings}, prompt, gpu)
        found = Fit(how, gpu, needed, settings, is_given)
        if needed <= TIGHT * gpu:
            break
    if not is_given:
        found.unclear.append(
            f"no GPU is here: the settings are for one of {ASSUMED_GIB:g} GiB; --gpu_memory says another"
        )
    if not found.fits:
        found.unclear.append(
            f"by the estimate it needs {found.needed / GIB:.1f} GiB of {gpu / GIB:.1f} GiB; "
            "`omnirl estimate-memory` lists changes, or take a smaller model"
        )
    return found


def _candidates() -> list[tuple[str, dict[str, Any]]]:
    at_once = {"gradient_accumulation_steps": 8}
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 16}
    quarters = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 32}
    return [
        ("full", at_once), ("LoRA", LORA | at_once), ("QLoRA", QLORA | at_once), ("QLoRA", QLORA | halves),
        ("QLoRA", QLORA | quarters),
    ]  # fmt: skip


def _needed(model: Model, settings: Settings, prompt: Prompt, gpu: int) -> int:
    own = {name for name in ModelConfig.__dataclass_fields__}
    given = {name: value for name, value in settings.items() if name in own}
    rest = {name: value for name, value in settings.items() if name not in own}
    training = OmniGRPOConfig(output_dir="unused", use_cpu=True, bf16=False, report_to="none", **rest)
    dtype = "bfloat16" if given.get("use_peft") else "float32"
    plan = Plan(
        training, ModelConfig(model_name_or_path=model.name, dtype=dtype, **given), prompt, Cluster(), model.config
    )
    return plan.needed(gpu)


def _gpu(gib: float | None) -> int | None:
    if gib is not None:
        if gib <= 0:
            raise CannotRun(f"--gpu_memory {gib:g}: GiB of a GPU, above 0")
        return int(gib * GIB)
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
