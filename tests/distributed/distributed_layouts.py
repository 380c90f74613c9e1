"""One layout of rows trained on one engine, as every process of a group does it; distributed_ranks.py starts them."""

import json
import random
import zlib
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from conftest import ScriptedTrainer, lazily, letters, row
from peft import LoraConfig

from omnirl_core.rewards import Reward
from omnirl_core.rewards.reference_probability import reference_probability
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer

ENGINES = ("ddp", "zero2", "zero3", "fsdp2")
GROUP = 2  # completions per prompt


@dataclass(frozen=True, eq=False)
class Layout:
    """Which rows go where, on which engine, under which settings."""

    kinds: str
    """One letter a prompt, in the order of the data: T text, I one image, D two, M three."""
    engine: str = "cpu"
    """A file of accelerate_configs/."""
    processes: int = 1
    micro_batch: int = 2
    """Completions per forward on each process."""
    accumulation: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    """Of OmniGRPOConfig; besides, `lora` trains an adapter, `rollout` generates before completions are fixed,
    `reference` has the policy's probability of the reference as reward of completions with answers, and prompts of
    the kinds in `dull` have one reward for all of their completions."""

    @property
    def prompts_per_step(self) -> int:
        return self.processes * self.micro_batch * self.accumulation // GROUP

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.kinds) // self.prompts_per_step * self.settings.get("num_iterations", 1)

    def single(self) -> "Layout":
        """The same rows, steps and settings in one process, where every completion goes through the model."""
        accumulation = self.accumulation * self.processes
        settings = {**self.settings, "skip_zero_advantages": False}
        return Layout(self.kinds, "cpu", 1, self.micro_batch, accumulation, settings)

    def __str__(self) -> str:
        settings = " ".join(f"{name}={value}" for name, value in self.settings.items())
        step = self.prompts_per_step
        steps = "|".join(self.kinds[i : i + step] for i in range(0, len(self.kinds), step))
        return (
            f"{self.engine} x{self.processes}, {steps}, {self.micro_batch} a micro-batch x {self.accumulation}, "
            f"{settings or 'defaults'}"
        )


def random_layout(seed: int) -> Layout:
    """Rows of random kinds over 2 to 4 processes, one to three steps, a random engine, random settings."""
    draw = random.Random(seed)
    processes = draw.randint(2, 4)
    micro_batch, accumulation = draw.choice([(1, 2), (2, 1), (2, 2), (4, 1)])
    prompts = processes * micro_batch * accumulation // GROUP
    chances = {
        "beta": (0.4, 0.1), "lora": (0.3, True), "freeze_vision_tower": (0.25, True), "num_iterations": (0.2, 2),
        "gradient_checkpointing": (0.3, True), "rollout": (0.5, True), "shared_prefix": (0.3, "auto"),
        "ds3_gather_for_generation": (0.2, False), "loss_type": (0.5, draw.choice(["grpo", "dr_grpo", "cispo"])),
    }  # fmt: skip
    settings = {name: value for name, (chance, value) in chances.items() if draw.random() < chance}
    # rounding grows with the steps, and a batch of two iterations is two
    steps = draw.randint(1, 1 if "num_iterations" in settings else 3)
    kinds = "".join(draw.choices("TIDM", weights=[5, 2, 1, 2], k=prompts * steps))
    engine = ENGINES[seed % len(ENGINES)]
    return Layout(kinds, engine, processes, micro_batch, accumulation, settings)


class RolloutTrainer(ScriptedTrainer):
    """Generates as OmniGRPOTrainer does, remembers it, and goes on with fixed completions."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *args, **kwargs):
        made, _ = OmniGRPOTrainer._generate_single_turn(self, prompt_ids, images, multimodal_fields, *args, **kwargs)
        self.generated += [(row["row_id"], ids) for row, ids in zip(self._samples, made, strict=True)]
        return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **kwargs)


class AnsweringTrainer(ScriptedTrainer):
    """Most of its completions have a thought and an answer."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        made, _ = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        encode = self._tokenizer.encode
        thought, answer = encode("<think>"), encode("</think><answer>A</answer>")
        return [ids if sum(ids) % 3 == 0 else [*thought, *ids[:-1], *answer, ids[-1]] for ids in made], None


def train(layout: Layout, checkpoint: str, image_files: list[str], folder: Path) -> dict[str, Any] | None:
    """Train it; what the first process returns is to be compared, the others return None."""
    settings = dict(layout.settings)
    peft = LoraConfig(target_modules="all-linear", r=4) if settings.pop("lora", False) else None
    kind = RolloutTrainer if settings.pop("rollout", False) else ScriptedTrainer
    dull, asks = settings.pop("dull", ""), settings.pop("reference", False)
    kind = AnsweringTrainer if asks else kind
    config = OmniGRPOConfig(**{
        **dict(
            output_dir=str(folder), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            disable_tqdm=True, save_strategy="no", logging_steps=1, max_steps=layout.steps, seed=1,
            num_generations=GROUP, per_device_train_batch_size=layout.micro_batch, max_completion_length=8,
            shuffle_dataset=False,
            gradient_accumulation_steps=layout.accumulation, optim="sgd", learning_rate=0.3, max_grad_norm=0.0,
            lr_scheduler_type="constant", shared_prefix="off", top_k=1,
        ),
        **settings,
    })  # fmt: skip

    def by_kind(completions: list[Any], row_id: list[str], **columns: Any) -> list[float]:
        pairs = zip(row_id, letters(completions), strict=True)
        return [0.5 if layout.kinds[int(name)] in dull else value for name, value in pairs]

    variants = [Reward(name, reference_probability, settings={"variant": name}) for name in ("rlpr", "verifree")]
    reward = variants if asks else by_kind
    trainer = kind(checkpoint, reward, config, lazily(_rows(layout, image_files)), peft_config=peft)
    assert trainer.accelerator.num_processes == layout.processes, "world size"
    assert trainer.engine == layout.engine
    trainer.generated, drawn = [], []
    _remember_rows(trainer, drawn)
    start = weights(trainer)
    trainer.train()
    end = weights(trainer)
    result = _result(trainer, {name: end[name] - start[name] for name in end}, drawn)
    return result and {**result, "size": {name: float(weight.norm()) for name, weight in start.items()}}


def _rows(layout: Layout, image_files: list[str]) -> list[dict[str, Any]]:
    images = {"T": [], "I": image_files[:1], "D": image_files[4:6], "M": image_files[1:4]}
    return [row(f"Row {place} {kind}", images[kind], str(place)) for place, kind in enumerate(layout.kinds)]


def _remember_rows(trainer: Any, drawn: list[list[str]]) -> None:
    plain = trainer._generate_and_score_completions

    def remember(inputs):
        drawn.append(sorted({row["row_id"] for row in inputs}))
        return plain(inputs)

    trainer._generate_and_score_completions = remember


def _result(trainer: Any, moved: dict[str, torch.Tensor], drawn: list[list[str]]) -> dict[str, Any] | None:
    checksum = zlib.crc32(torch.cat([part.flatten() for part in moved.values()]).numpy().tobytes())
    result = {
        "moved": moved,
        "loss": _logged(trainer, "loss"),
        "grad_norm": _logged(trainer, "grad_norm"),
        "drawn": gather_object([drawn]),
        "generated": dict(gather_object(trainer.generated)),
        "checksums": gather_object([checksum]),
    }
    return result if trainer.accelerator.is_main_process else None


def _logged(trainer: Any, name: str) -> list[float]:
    return [float(line[name]) for line in trainer.state.log_history if name in line]


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    """Every trainable parameter, whole, by its name."""
    named = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    gathered = nullcontext()
    if trainer.engine.startswith("zero3"):
        import deepspeed

        gathered = deepspeed.zero.GatheredParameters(list(named.values()))
    with gathered, torch.no_grad():
        return {name: getattr(p, "full_tensor", lambda p=p: p)().detach().clone() for name, p in named.items()}


def dump(layouts: list[Layout]) -> str:
    """As JSON, which distributed_ranks.py reads."""
    return json.dumps([asdict(layout) for layout in layouts])


def parse(text: str) -> list[Layout]:
    """What `dump` wrote."""
    return [Layout(**fields) for fields in json.loads(text)]
