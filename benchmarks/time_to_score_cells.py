"""The policies, samples and hyperparameters of benchmarks/time_to_score.py."""

import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, get_constant_schedule_with_warmup

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from omnirl_core.data import load_dataset  # noqa: E402
from omnirl_core.data.dataset import for_language_model  # noqa: E402
from omnirl_core.shapes import tiny_policy, write_dataset  # noqa: E402
from scripts.build_tiny_policy import Pool, collate, examples, step_optimizer  # noqa: E402  # of a checkout, not installed

SIDE = 256
"""Pixels of an image's sides: 16 x 16 tokens of the tiny policy."""
SCENE = (80, 64)
"""Pixels that the tiny policy has seen images at: a drawn scene keeps that size in the corner of a larger image."""
TASKS = ("color", "shape", "count")


@dataclass(frozen=True)
class Preset:
    """What both trainers are given."""

    rewards: str
    steps: int
    every: int
    """Steps from one evaluation to the next."""
    held_out: int
    max_completion_length: int
    settings: dict[str, Any] = field(default_factory=dict)
    """Of TRL's GRPOConfig."""
    lora: bool = False


COMMON = dict(
    use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True, save_strategy="no",
    logging_steps=1, num_generations=8, lr_scheduler_type="constant_with_warmup",
)  # fmt: skip
PRESETS = {
    "image_text": Preset(
        "recipes/image_text/rewards.yaml", steps=40, every=4, held_out=96, max_completion_length=48,
        settings={**COMMON, "per_device_train_batch_size": 32, "learning_rate": 2e-4, "warmup_steps": 3},
    ),
    # one group a step, bf16, twice the recipe's learning rate: a step of TRL takes 47 s (one core of a Xeon with AMX)
    "smollm2": Preset(
        "recipes/text_only/smollm2_rewards.yaml", steps=6, every=2, held_out=8, max_completion_length=32, lora=True,
        settings={
            **COMMON, "per_device_train_batch_size": 8, "learning_rate": 1.6e-3, "warmup_steps": 1,
            "model_init_kwargs": {"dtype": "bfloat16"},
        },
    ),
}  # fmt: skip


def policy(name: str, folder: Path) -> str:
    """Folder of the checkpoint that both trainers start from.

    Raises:
        FileNotFoundError: SmolLM2 is not there yet.
    """
    if name == "smollm2":
        found = ROOT / "outputs" / "smollm2_135m"
        if not found.exists():
            raise FileNotFoundError(f"{found}: python recipes/text_only/prepare_smollm2.py makes it")
        return str(found)
    made = folder / "tiny_policy_256"
    if not (made / "config.json").exists():
        warm_start(made)
    return str(made)


def warm_start(folder: Path, steps: int = 60, batch_size: int = 16, n_scenes: int = 800) -> None:
    """Write the tiny policy as it is after a few steps of next-token prediction on large images.

    On answers of mixed styles, as scripts/build_tiny_policy.py has them: the shipped one knows images of at most 20
    tokens, and says nothing of larger ones.
    """
    torch.manual_seed(0)
    processor = AutoProcessor.from_pretrained(tiny_policy())
    processor.image_processor.size = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_policy(), dtype=torch.float32)
    draw = random.Random(0)
    pool = Pool.draw(n_scenes, processor, draw)  # whose images are drawn again, large
    for start in range(0, n_scenes, 64):
        images = [enlarged(scene.draw()) for scene in pool.scenes[start : start + 64]]
        features = processor.image_processor(images, return_tensors="pt")
        sizes = features["image_grid_thw"].prod(-1).tolist()
        pool.patches[start : start + 64] = [patch.half() for patch in features["pixel_values"].split(sizes)]
        pool.grids[start : start + 64] = list(features["image_grid_thw"])
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95))
    schedule = get_constant_schedule_with_warmup(optimizer, 10)
    stream = (example for example in examples(pool, draw) if example.task in TASKS)
    for step in range(steps):
        loss = model(**collate([next(stream) for _ in range(batch_size)], pool, processor, draw)).loss
        step_optimizer(loss, parameters, optimizer, schedule)
        print(f"warm start {step + 1}/{steps}  loss {loss.item():.3f}", file=sys.stderr, flush=True)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)


def enlarged(scene: Image.Image) -> Image.Image:
    """The scene as large as the tiny policy knows scenes, on a ground of 256 tokens."""
    image = Image.new("RGB", (SIDE, SIDE), scene.getpixel((0, 0)))
    scene = scene.copy()
    scene.thumbnail(SCENE)
    image.paste(scene, (0, 0))
    return image


def data(name: str, folder: Path, held_out: int) -> tuple[Dataset, list[dict[str, Any]]]:
    """Samples to train on and held-out ones, with prompts as the preset has them."""
    train, test = facts(folder) if name == "smollm2" else scenes(folder, held_out)
    loaded = [load_dataset(str(path), templates={"default": "plain"}) for path in (train, test)]
    if name == "smollm2":
        loaded = [for_language_model(dataset) for dataset in loaded]
    return opened(loaded[0]), list(loaded[1])[:held_out]


def opened(dataset: Any) -> Dataset:
    """The samples with PIL images, which is what TRL's trainer takes."""

    def draw(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        samples = [dataset[place] for place in batch["place"]]
        columns = {key: [sample[key] for sample in samples] for key in ("prompt", "solution", "task")}
        images = [sample.get("images") or [] for sample in samples]
        if any(images):
            columns["images"] = [[Image.open(path).convert("RGB") for path in own] for own in images]
        return columns

    return Dataset.from_dict({"place": list(range(len(dataset)))}).with_transform(draw)


def scenes(folder: Path, held_out: int) -> list[Path]:
    """Questions about one drawn scene, on an image of 256 tokens."""
    made = folder / "scenes"
    if not made.exists():
        for split, n in (("train", 1500), ("test", held_out)):
            write_dataset(made, TASKS, n, 0, split)
        for path in made.rglob("*.png"):
            enlarged(Image.open(path).convert("RGB")).save(path)
    return [made / f"{split}.json" for split in ("train", "test")]


def facts(folder: Path, n_examples: int = 10) -> list[Path]:
    """The facts of recipes/text_only, after worked examples: prompts of about 600 tokens.

    Raises:
        FileNotFoundError: the facts are not there yet.
    """
    source = ROOT / "data" / "facts"
    if not source.exists():
        raise FileNotFoundError(f"{source}: python recipes/text_only/prepare_facts.py makes it")
    rows = {split: json.loads((source / f"{split}.json").read_text()) for split in ("train", "test")}
    examples, rows["train"] = rows["train"][:n_examples], rows["train"][n_examples:]
    shown = "\n\n".join(f"{one['problem']}\n{first(one['solution'])}" for one in examples)
    written = []
    for split, own in rows.items():
        written.append(folder / f"{split}.json")
        written[-1].write_text(json.dumps([{**one, "problem": f"{shown}\n\n{one['problem']}"} for one in own]))
    return written


def first(solution: Any) -> str:
    return str(solution[0] if isinstance(solution, list) else solution)
