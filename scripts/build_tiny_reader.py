"""Build the tiny reader: `python scripts/build_tiny_reader.py --out FOLDER` (about twenty minutes on one core).

The tiny policy's sizes and mixed styles (scripts/build_tiny_policy.py) for the drawn pages of
`omnirl_core.shapes.documents`. First the vision tower learns to read: from each merged image token the two characters
under it, the word they belong to, the word that starts their line, row and column, and what a chart's bar says.
Then the language model learns to answer, by next-token prediction on responses in mixed styles; three answers in ten
transcribe a page, which teaches where each word stands. Only examples of the training split are used, and every
example is drawn anew.
"""

import argparse
import dataclasses
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    get_cosine_schedule_with_warmup,
    set_seed,
)

from omnirl_core.shapes import DOCUMENTS, READER
from omnirl_core.shapes.documents import (
    AXIS,
    CELL_WIDTH,
    CITIES,
    COLUMNS,
    FIELDS,
    FIRST,
    GLYPHS,
    HEADINGS,
    ITEMS,
    MONTHS,
    NAMES,
    SECOND,
    Page,
    make_document,
)
from omnirl_core.shapes.tasks import Example
from scripts.build_tiny_policy import (
    NUMBERS,
    Pool,
    build_model,
    build_processor,
    build_tokenizer,
    collate,
    refuse_filled,
    respond,
    step_optimizer,
)

MAX_PIXELS = 96 * 80  # a page of five lines
ROPE_THETA = 100.0  # at 10,000 the rotations of M-RoPE's columns are too slow to tell six of them apart
WORDS = ("", "ITEM", *FIELDS, *NAMES, *CITIES, *MONTHS, *ITEMS, *FIRST, *SECOND, *HEADINGS, *map(str, range(100)))
CHARACTERS = tuple(GLYPHS)
READ_OUTS = {
    "first character": len(CHARACTERS), "second character": len(CHARACTERS), "word": len(WORDS),
    "word of the line": len(WORDS), "row": 5, "column": COLUMNS // 2, "lines": 6, "bar": 8, "longest": 2,
}  # fmt: skip
"""What the vision tower is taught to tell from a merged token, each with its number of classes."""
LISTED = 0.3  # of the answers transcribe a page


# ---------------------------------------------------------------- stage 1: reading


def bar_of(page: Page, row: int) -> int:
    """Tens of the bar on a line of a chart; 0 where there is none."""
    tops = {y1 // 16: (x2 - AXIS) // CELL_WIDTH for x1, y1, x2, y2, _ in page.marks if x1 == AXIS}
    return tops.get(row, 0)


def token_labels(page: Page) -> list[list[int]]:
    """The class of each read-out for each merged token of a page, (n_tokens, len(READ_OUTS))."""
    bars = [bar_of(page, row) for row in range(len(page.lines))]
    labels = []
    for row, line in enumerate(page.lines):
        line = line.ljust(COLUMNS)
        words = {i: found[0] for found in re.finditer(r"\S+", line) for i in range(*found.span())}
        start = line.split()[0]
        for column in range(0, COLUMNS, 2):
            word = words.get(column) or words.get(column + 1, "")
            labels.append(
                [CHARACTERS.index(line[column]), CHARACTERS.index(line[column + 1]),
                 WORDS.index(word) if word in WORDS else 0, WORDS.index(start),
                 row, column // 2, len(page.lines), bars[row], int(0 < bars[row] == max(bars))]
            )  # fmt: skip
    return labels


def draw(pages: Sequence[Page], processor: Qwen2_5_VLProcessor) -> Pool:
    """The pages with their patches as the processor makes them."""
    features = processor.image_processor([page.draw() for page in pages], return_tensors="pt")
    patches = list(features["pixel_values"].split(features["image_grid_thw"].prod(-1).tolist()))
    return Pool(list(pages), patches, list(features["image_grid_thw"]), {page: i for i, page in enumerate(pages)})


def train_vision(model: Qwen2_5_VLForConditionalGeneration, processor, steps: int, batch_size: int = 64) -> None:
    """Teach the vision tower by linear read-outs that are thrown away afterwards."""
    tower = model.model.visual
    read = nn.Linear(model.lm_head.in_features, sum(READ_OUTS.values()))
    parameters = [*tower.parameters(), *read.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = get_cosine_schedule_with_warmup(optimizer, 50, steps)
    rng = random.Random(1)
    for step in range(steps):
        pages = [make_document(rng.choice(tuple(DOCUMENTS)), rng, "train").scenes[0] for _ in range(batch_size)]
        seen = tower(*draw(pages, processor).pixels(range(batch_size))).pooler_output  # (sum of tokens, width)
        targets = torch.tensor([label for page in pages for label in token_labels(page)]).unbind(-1)
        scores = read(seen).split(list(READ_OUTS.values()), dim=-1)
        loss = torch.stack([nn.functional.cross_entropy(s, t) for s, t in zip(scores, targets, strict=True)]).sum()
        step_optimizer(loss, parameters, optimizer, schedule)
        if step % 50 == 49:
            right = [(s.argmax(-1) == t).float().mean() for s, t in zip(scores, targets, strict=True)]
            said = ", ".join(f"{name} {share:.2f}" for name, share in zip(READ_OUTS, right, strict=True))
            print(f"vision {step + 1}/{steps}  loss {loss.item():.3f}  right: {said}", flush=True)


# ---------------------------------------------------------------- stage 2: answering


def in_words(example: Example) -> Example:
    """The example with a solution that can be said: the lines of a page for its tests."""
    if example.task != "page":
        return example
    return dataclasses.replace(example, solution="\n".join(example.scenes[0].lines))


def examples(rng: random.Random) -> Iterator[Example]:
    """Endless training-split examples, some of them transcriptions of a page of any kind: an exercise, never a task."""
    while True:
        example = make_document(rng.choice(tuple(DOCUMENTS)), rng, "train")
        if rng.random() < LISTED:
            said = "\n".join(" ".join(line.split()) for line in example.scenes[0].lines)
            yield Example("list", 0, "List everything.", said, "", example.scenes)
        else:
            yield in_words(example)


def train_answers(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    steps: int,
    out: Path,
    batch_size: int = 32,
) -> None:
    """Next-token prediction on mixed-style responses; the vision tower reads by now, and stays as it is."""
    model.model.visual.requires_grad_(False)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = get_cosine_schedule_with_warmup(optimizer, 100, steps)
    rng = random.Random(2)
    stream = examples(rng)
    for step in range(steps):
        batch = [next(stream) for _ in range(batch_size)]
        pool = draw(list(dict.fromkeys(example.scenes[0] for example in batch)), processor)
        loss = model(**collate(batch, pool, processor, rng)).loss
        step_optimizer(loss, parameters, optimizer, schedule)
        if step % 100 == 99:
            print(f"answers {step + 1}/{steps}  loss {loss.item():.3f}", flush=True)
        if step % 400 == 399:
            shares = read_right(model, processor, 16)
            print("held out, read right:", *(f"{task} {share:.2f}" for task, share in shares.items()), flush=True)
            save(model, processor, out)


def without_thought(response: str) -> str:
    """What a response says after its thought, with spaces for tags and full stops."""
    return re.sub(r"<think>.*?</think>|</?answer>|[.]|$", " ", response)


def says(text: str, solution: object) -> bool:
    """Whether the solution stands in the text, numbers in words too."""
    in_letters = NUMBERS[solution] if isinstance(solution, int) and solution < len(NUMBERS) else solution
    return f" {solution} " in text or f" {in_letters} " in text


@torch.no_grad()
def read_right(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, n: int) -> dict[str, float]:
    """How often the greedy response to held-out questions holds the answer, in whatever style, by task."""
    model.eval()
    shares = {}
    for task in DOCUMENTS:
        asked = [in_words(make_document(task, random.Random(f"held out/{task}/{i}"), "test")) for i in range(n)]
        contents = [[{"type": "image"}, {"type": "text", "text": example.problem}] for example in asked]
        turns = [[{"role": "user", "content": content}] for content in contents]
        prompts = processor.apply_chat_template(turns, add_generation_prompt=True)
        images = [[example.scenes[0].draw()] for example in asked]
        inputs = processor(text=prompts, images=images, padding=True, padding_side="left", return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=48, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        said = [without_thought(text) for text in processor.batch_decode(tokens, skip_special_tokens=True)]
        shares[task] = sum(says(text, e.solution) for e, text in zip(asked, said, strict=True)) / n
    model.train()
    return shares


def save(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, out: Path) -> None:
    """Write the checkpoint as it stands."""
    model.save_pretrained(out)
    processor.save_pretrained(out)


def corpus(rng: random.Random) -> Iterator[str]:
    """Text for the tokenizer: questions and responses of every task, every word and every number."""
    stream = examples(rng)
    for _ in range(20_000):
        example = next(stream)
        yield example.problem
        yield respond(example, Pool(), rng)
    for word in WORDS:
        yield from [word] * 200


def tokenizer_of_pages() -> PreTrainedTokenizerFast:
    """Every word of the drawn pages and every number below 100 is one token."""
    tokenizer = build_tokenizer(corpus(random.Random(0)), vocabulary=704, split_spaces=True)
    if cut := [word for word in WORDS[1:] if len(tokenizer(word)["input_ids"]) > 1]:
        raise RuntimeError(f"words of more than one token: {cut}; raise the vocabulary")
    return tokenizer


def main(argv: list[str] | None = None) -> None:
    """Train from nothing and save to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=str(READER))
    parser.add_argument("--vision-steps", type=int, default=600)
    parser.add_argument("--answer-steps", type=int, default=2_400)
    arguments = parser.parse_args(argv)
    out = Path(arguments.out)
    refuse_filled(parser, out, READER)
    set_seed(0)
    tokenizer = tokenizer_of_pages()
    processor, model = build_processor(tokenizer, MAX_PIXELS), build_model(tokenizer, ROPE_THETA)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    train_vision(model, processor, arguments.vision_steps)
    save(model, processor, out)
    train_answers(model, processor, arguments.answer_steps, out)
    save(model, processor, out)


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # a tenth faster; of the whole process, so not in main()
    main()
