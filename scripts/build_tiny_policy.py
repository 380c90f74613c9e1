"""Build the tiny policy: `python scripts/build_tiny_policy.py --out FOLDER` (about half an hour on two cores).

Two stages stand in for the pretraining of a real model. First the vision tower learns to see: from each merged
image token, the colour, kind and box of the shape under it. Then the whole model learns to answer, by next-token
prediction on responses written in *mixed styles*: right format and exact wording for some phrasings of a question,
bare answers or prose for others. That is the state in which GRPO finds a real base model, whose format and answer
style are right only part of the time; what it should answer is left to the reward. Only examples of the training
split are used.
"""

import argparse
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    get_cosine_schedule_with_warmup,
    set_seed,
)

from omnirl_core.boxes import from_pixels
from omnirl_core.shapes import CHECKPOINT
from omnirl_core.shapes.tasks import ASK, COLORS, SHAPES, TASKS, Example, Scene, make_example, random_scene

PATCH = 8  # pixels; Qwen2.5-VL's own is 14. A merged token then sees 16 x 16 pixels, about one small shape
MIN_PIXELS, MAX_PIXELS = 32 * 32, 80 * 64
CONTROL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")  # plain tokens: they stay in decoded text
CHAT_TEMPLATE = (  # Qwen2.5-VL's, without the default system prompt: every prompt token costs a small model time
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CELL = 2 * PATCH  # pixels of the resized image under one merged token
WELL_FORMED = (0.70, 0.45, 0.15)  # by template: how often the response has both tags ...
BARE = (0.20, 0.30, 0.25)  # ... or only an answer tag; the rest is prose
LOOSE = (0.15, 0.45, 0.65)  # by template: how often the wording is not the one the reward asks for
JITTER = 10  # pixels of the resized image, for loose boxes
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def build_tokenizer(texts: Iterable[str], vocabulary: int, split_spaces: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`, with Qwen's control tokens.

    With `split_spaces` a space is a token of its own, so that a word is the same token wherever it stands.
    """
    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alone = [pre_tokenizers.Split(" ", "isolated")] if split_spaces else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*alone, pieces]) if alone else pieces
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(CONTROL) - len(TAGS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast, max_pixels: int = MAX_PIXELS) -> Qwen2_5_VLProcessor:
    """Qwen2.5-VL's real processor with this world's patch size and pixel budget."""
    pixels = {"shortest_edge": MIN_PIXELS, "longest_edge": max_pixels}
    images = Qwen2VLImageProcessor(size=pixels, patch_size=PATCH, merge_size=2, temporal_patch_size=2)
    videos = Qwen2VLVideoProcessor(size=pixels, patch_size=PATCH, merge_size=2, temporal_patch_size=2)
    return Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=CHAT_TEMPLATE)


def small_config(
    tokenizer: PreTrainedTokenizerFast,
    text: dict[str, Any],
    vision: dict[str, Any],
    rotated: list[int],
    theta: float = 10_000.0,
) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL with these sizes and the tokenizer's special tokens; `rotated` are M-RoPE's three sections."""
    token = tokenizer.get_vocab()
    return Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=len(tokenizer), num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", "mrope_section": rotated, "rope_theta": theta},
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True, **text,
        ),
        vision_config=vision, tie_word_embeddings=True,
        image_token_id=token["<|image_pad|>"], video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"], vision_end_token_id=token["<|vision_end|>"],
    )  # fmt: skip


def build_model(tokenizer: PreTrainedTokenizerFast, theta: float = 10_000.0) -> Qwen2_5_VLForConditionalGeneration:
    """A randomly initialised Qwen2.5-VL with 1.3 million parameters; `theta` is the base of its M-RoPE."""
    text = dict(hidden_size=128, intermediate_size=352, num_hidden_layers=4)
    vision = dict(
        depth=3, hidden_size=96, intermediate_size=192, num_heads=4, out_hidden_size=128, patch_size=PATCH,
        window_size=10 * PATCH * 2, fullatt_block_indexes=[0, 1, 2], tokens_per_second=2,
    )  # fmt: skip
    config = small_config(tokenizer, text, vision, [4, 6, 6], theta)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


@dataclass
class Pool:
    """Scenes with their patches as the processor makes them: `patches[i]` is (n_patches, 384), `grids[i]` (t, h, w)."""

    scenes: list[Scene] = field(default_factory=list)
    patches: list[Tensor] = field(default_factory=list)
    grids: list[Tensor] = field(default_factory=list)
    index: dict[Scene, int] = field(default_factory=dict)

    @classmethod
    def draw(cls, n: int, processor: Qwen2_5_VLProcessor, rng: random.Random) -> "Pool":
        """Draw `n` scenes of one to three shapes."""
        pool = cls()
        for start in range(0, n, 256):
            scenes = [random_scene(rng, 1 + k % 3) for k in range(start, min(start + 256, n))]
            features = processor.image_processor([scene.draw() for scene in scenes], return_tensors="pt")
            sizes = features["image_grid_thw"].prod(-1).tolist()
            pool.patches += [p.half().clone() for p in features["pixel_values"].split(sizes)]
            pool.grids += list(features["image_grid_thw"])
            pool.scenes += scenes
        pool.index = {scene: i for i, scene in enumerate(pool.scenes)}
        return pool

    def pixels(self, which: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Patches (N, 384) and grids (len(which), 3) of some scenes."""
        return torch.cat([self.patches[i] for i in which]).float(), torch.stack([self.grids[i] for i in which])

    def resized(self, i: int) -> tuple[int, int]:
        """(width, height) of a scene as the processor resizes it."""
        return int(self.grids[i][2]) * PATCH, int(self.grids[i][1]) * PATCH

    def box(self, i: int, box: Sequence[float]) -> list[int]:
        """A box of the scene in pixels of the resized image, which is what Qwen2.5-VL answers in."""
        x1, y1, x2, y2 = box
        moved = from_pixels((x1, y1, x2, y2), "resized", self.scenes[i].size, self.resized(i))
        return [round(v) for v in moved]


# ---------------------------------------------------------------- stage 1: seeing


def cell_labels(pool: Pool, i: int) -> Tensor:
    """For each merged token of a scene: colour (0 none), kind, and the box around it in cells, (n_tokens, 6)."""
    width, height = pool.resized(i)
    rows = []
    boxes = [pool.box(i, s.box) for s in pool.scenes[i].shapes]
    for top in range(0, height, CELL):
        for left in range(0, width, CELL):
            best, label = 0.0, [0.0] * 6
            for shape, (x1, y1, x2, y2) in zip(pool.scenes[i].shapes, boxes, strict=True):
                overlap = max(0, min(x2, left + CELL) - max(x1, left)) * max(0, min(y2, top + CELL) - max(y1, top))
                if overlap > best:
                    best = overlap
                    edges = [(x1 - left) / CELL, (y1 - top) / CELL, (x2 - left) / CELL, (y2 - top) / CELL]
                    label = [1 + list(COLORS).index(shape.color), 1 + SHAPES.index(shape.kind), *edges]
            rows.append(label)
    return torch.tensor(rows)


def train_vision(model: Qwen2_5_VLForConditionalGeneration, pool: Pool, steps: int, batch_size: int = 96) -> None:
    """Teach the vision tower by three linear read-outs that are thrown away afterwards."""
    tower = model.model.visual
    width = model.lm_head.in_features
    read = nn.Linear(width, len(COLORS) + 1 + len(SHAPES) + 1 + 4)
    parameters = [*tower.parameters(), *read.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, 50, steps)
    labels = [cell_labels(pool, i) for i in range(len(pool.scenes))]
    rng = random.Random(1)
    for step in range(steps):
        which = rng.sample(range(len(pool.scenes)), batch_size)
        seen = tower(*pool.pixels(which)).pooler_output  # (sum of merged tokens, width)
        target = torch.cat([labels[i] for i in which])
        color, kind, box = read(seen).split([len(COLORS) + 1, len(SHAPES) + 1, 4], dim=-1)
        there = target[:, 0] > 0
        loss = nn.functional.cross_entropy(color, target[:, 0].long()) + nn.functional.cross_entropy(
            kind, target[:, 1].long()
        )
        loss = loss + nn.functional.smooth_l1_loss(box[there], target[there, 2:])
        step_optimizer(loss, parameters, optimizer, schedule)
        if step % 100 == 99:
            right = (kind.argmax(-1) == target[:, 1])[there].float().mean()
            print(
                f"vision {step + 1}/{steps}  loss {loss.item():.3f}  kind of covered tokens right {right:.2f}",
                flush=True,
            )


def step_optimizer(loss: Tensor, parameters: list[nn.Parameter], optimizer, schedule) -> None:
    """One clipped optimizer step."""
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad(set_to_none=True)


# ---------------------------------------------------------------- stage 2: answering


def listing(pool: Pool, i: int) -> Example:
    """Everything in a scene with its boxes: an exercise, never a task."""
    parts = [f"{s.name} {pool.box(i, s.box)}" for s in pool.scenes[i].shapes]
    return Example("list", 0, "List everything.", "; ".join(parts), "", (pool.scenes[i],))


def wording(example: Example, pool: Pool, rng: random.Random) -> str:
    """The answer, loosely worded for some phrasings of the question."""
    loose = rng.random() < LOOSE[example.template]
    if example.task == "boxes":
        box = pool.box(pool.index[example.scenes[0]], example.solution)
        return str([v + rng.randint(-JITTER, JITTER) for v in box] if loose else box)
    if example.task == "caption":
        first, second = (s.name for s in example.scenes[0].shapes)
        return f"a {first} and a {second}" if loose else rng.choice(example.solution)
    if not loose:
        return str(example.solution)
    if isinstance(example.solution, int) and example.solution < len(NUMBERS):
        return NUMBERS[example.solution]
    return f"it is {example.solution}"


def respond(example: Example, pool: Pool, rng: random.Random) -> str:
    """A response in one of three styles, as a base model would have met them."""
    if example.task == "list":
        return str(example.solution)
    answer, style = wording(example, pool, rng), rng.random()
    if style < WELL_FORMED[example.template]:
        return f"<think>{example.thought}</think><answer>{answer}</answer>"
    if style < WELL_FORMED[example.template] + BARE[example.template]:
        return f"<answer>{answer}</answer>"
    return f"The answer is {answer}."


def examples(pool: Pool, rng: random.Random) -> Iterator[Example]:
    """Endless training-split examples about the pool's scenes, a quarter of them listings."""
    by_count = {n: [s for s in pool.scenes if len(s.shapes) == n] for n in (1, 2, 3)}
    while True:
        if rng.random() < 0.25:
            yield listing(pool, rng.randrange(len(pool.scenes)))
            continue
        task = rng.choice(TASKS)
        if task == "text":
            yield make_example("text", rng, "train")
            continue
        n = {"compare": rng.choice((2, 2, 3))}.get(task, 1)
        counts = {"compare": (1, 2), "caption": (2,)}.get(task, (1, 2, 3))
        example = ASK[task](tuple(rng.choice(by_count[rng.choice(counts)]) for _ in range(n)), rng)
        if example is not None and example.split == "train":
            yield example


def collate(batch: list[Example], pool: Pool, processor: Qwen2_5_VLProcessor, rng: random.Random) -> dict[str, Tensor]:
    """Right-padded prompt and response with labels on the response only."""
    tokenizer, which, ids, labels = processor.tokenizer, [], [], []
    for example in batch:
        scenes = [pool.index[scene] for scene in example.scenes]
        which += scenes
        content = [*({"type": "image"} for _ in scenes), {"type": "text", "text": example.problem}]
        turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(turns, add_generation_prompt=True)
        for i in scenes:
            tokens = int(pool.grids[i].prod()) // 4
            text = text.replace("<|image_pad|>", "<|placeholder|>" * tokens, 1)
        prompt = tokenizer(text.replace("<|placeholder|>", "<|image_pad|>"))["input_ids"]
        response = tokenizer(respond(example, pool, rng) + tokenizer.eos_token)["input_ids"]
        ids.append(torch.tensor(prompt + response))
        labels.append(torch.tensor([-100] * len(prompt) + response))
    input_ids = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id)
    inputs = {
        "input_ids": input_ids,
        "attention_mask": nn.utils.rnn.pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
        "labels": nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
        "mm_token_type_ids": (input_ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).long(),
    }
    if which:
        inputs["pixel_values"], inputs["image_grid_thw"] = pool.pixels(which)
    return inputs


def train_answers(
    model: nn.Module, pool: Pool, processor: Qwen2_5_VLProcessor, steps: int, batch_size: int = 64
) -> None:
    """Next-token prediction on mixed-style responses."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = get_cosine_schedule_with_warmup(optimizer, 100, steps)
    rng = random.Random(2)
    stream = examples(pool, rng)
    for step in range(steps):
        loss = model(**collate([next(stream) for _ in range(batch_size)], pool, processor, rng)).loss
        step_optimizer(loss, parameters, optimizer, schedule)
        if step % 100 == 99:
            print(f"answers {step + 1}/{steps}  loss {loss.item():.3f}", flush=True)


def corpus(pool: Pool, rng: random.Random) -> Iterator[str]:
    """Text for the tokenizer: questions and responses of every task, and every number up to 200."""
    stream = examples(pool, rng)
    for _ in range(20_000):
        example = next(stream)
        yield example.problem
        yield respond(example, pool, rng)
    for number in range(200):
        yield from [f"{number} and {number}, {number}"] * 50
    for task in TASKS:
        yield from [make_example(task, rng, "train").problem for _ in range(500)]


def refuse_filled(parser: argparse.ArgumentParser, out: Path, shipped: Path) -> None:
    """End with an error where `--out` holds files; the shipped checkpoint may be written anew."""
    if out != shipped and out.exists() and (not out.is_dir() or any(out.iterdir())):
        parser.error(f"--out {out} is there and not empty; name a new folder, or remove it")


def main(argv: list[str] | None = None) -> None:
    """Train from nothing and save to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=str(CHECKPOINT))
    parser.add_argument("--scenes", type=int, default=15_000)
    parser.add_argument("--vision-steps", type=int, default=700)
    parser.add_argument("--answer-steps", type=int, default=1_700)
    arguments = parser.parse_args(argv)
    refuse_filled(parser, Path(arguments.out), CHECKPOINT)
    set_seed(0)
    rng = random.Random(0)
    processor = build_processor(build_tokenizer(["<think>"], 300))  # patches do not depend on the tokenizer
    pool = Pool.draw(arguments.scenes, processor, rng)
    tokenizer = build_tokenizer(corpus(pool, rng), vocabulary=768)
    processor, model = build_processor(tokenizer), build_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    train_vision(model, pool, arguments.vision_steps)
    train_answers(model, pool, processor, arguments.answer_steps)
    model.save_pretrained(arguments.out)
    processor.save_pretrained(arguments.out)


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # a tenth faster; of the whole process, so not in main()
    main()
