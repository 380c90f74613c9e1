"""The data set that a trainer takes: one compact string a row, made into prompt and paths when drawn."""

import gc
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import datasets
import pyarrow as pa
from datasets.table import InMemoryTable

from omnirl_core.data.columns import ColumnNames
from omnirl_core.data.images import RowRules, Rules
from omnirl_core.data.record import PLACEHOLDER, DataError, Record
from omnirl_core.data.sources import find_sources, read_records
from omnirl_core.rewards.answers.choices import parsed_options
from omnirl_core.types import Message

logger = logging.getLogger(__name__)

_COLUMN = "row"
_BATCH = 20_000
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

OPTIONS = "{options}"
"""Stands in a template where the sample's options belong."""

_THINK = (
    "{problem} First output the thinking process in <think> </think> tags"
    " and then output the final answer in <answer> </answer> tags."
)
TEMPLATES: dict[str, str] = {
    "plain": "{problem}",
    "r1": _THINK,
    "choice": _THINK.replace("{problem}", "{problem}\n{options}\n") + " The answer is the letter of one option.",
    "rec_r1": _THINK + " Output the final answer in JSON format.",  # VLM-R1's prompt for REC
    "rec": "{problem} Please provide the bounding box coordinate in JSON format.",  # its baseline without R1
}
"""Templates that a recipe may call by name."""

_LEADING = re.compile(rf"(?:\s*{PLACEHOLDER})+\s*")


@dataclass(frozen=True)
class PromptFormat:
    """How problems become prompts, the same for text and for images.

    `templates` gives each task its template, by a name of `TEMPLATES` or as text with `{problem}` in it; the
    entry `default` (if not given, `r1`) is for the tasks without one. `{options}` stands for the sample's column of
    that name, one lettered option a line. Nothing else is filled in, so other braces are safe.

    >>> prompts = PromptFormat({"default": "plain", "boxes": "rec_r1"})
    >>> prompts.messages("Left <image> or right <image>?", 2)[0]["content"]
    [{'type': 'text', 'text': 'Left '}, {'type': 'image'},
     {'type': 'text', 'text': ' or right '}, {'type': 'image'}, {'type': 'text', 'text': '?'}]
    >>> prompts.messages("Where is the cat?", 1)[0]["content"]
    [{'type': 'image'}, {'type': 'text', 'text': 'Where is the cat?'}]
    >>> PromptFormat({"default": "{problem}\\n{options}"}).messages("Which?", 0, options=["red", "blue"])[0]["content"]
    [{'type': 'text', 'text': 'Which?\\nA. red\\nB. blue'}]
    """

    templates: Mapping[str, str] = field(default_factory=dict)
    system_prompt: str | None = None

    def __post_init__(self) -> None:
        texts = {"default": TEMPLATES["r1"]}
        for task, template in self.templates.items():
            texts[task] = _template_text(task, template)
        object.__setattr__(self, "templates", texts)

    def messages(self, problem: str, n_images: int, task: str | None = None, options: object = None) -> list[Message]:
        """The chat turns of one problem; every content is a list of text and image blocks.

        `options`: texts in order or by letter, or either as JSON; ValueError where the template asks for them and
        there are none.
        """
        before, after = self._template(task).split("{problem}")
        if OPTIONS in before + after:
            lines = option_lines(options)
            before, after = before.replace(OPTIONS, lines), after.replace(OPTIONS, lines)
        turns: list[Message] = []
        if self.system_prompt:
            turns.append({"role": "system", "content": [{"type": "text", "text": self.system_prompt}]})
        turns.append({"role": "user", "content": _blocks(problem, n_images, before, after)})
        return turns

    def check(self, task: str | None, options: object) -> None:
        """ValueError where the task's template asks for options and there are none."""
        if OPTIONS in self._template(task):
            option_lines(options)

    def _template(self, task: str | None) -> str:
        return self.templates.get(task or "default") or self.templates["default"]


def option_lines(options: object) -> str:
    """One option a line, with its letter unless it has one.

    >>> print(option_lines('{"a": "Rome", "b": "Paris"}'))
    A. Rome
    B. Paris
    """
    options = parsed_options(options) if isinstance(options, str) else options
    if not isinstance(options, list | tuple | Mapping) or not options:
        raise ValueError(f"the template has {OPTIONS}, and `options` is {options!r}; give a list or mapping of texts")
    pairs = (
        options.items() if isinstance(options, Mapping) else zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", options, strict=False)
    )
    named = [(str(letter).strip().upper(), str(text)) for letter, text in pairs]
    return "\n".join(
        text if re.match(rf"\s*\(?{re.escape(letter)}[).:、]", text) else f"{letter}. {text}" for letter, text in named
    )


def _template_text(task: str, template: str) -> str:
    text = TEMPLATES.get(template, template)
    if not isinstance(text, str) or text.count("{problem}") != 1:
        names = ", ".join(TEMPLATES)
        raise ValueError(f"template of {task!r} is {template!r}; give one of {names}, or text with one {{problem}}")
    if PLACEHOLDER in text:
        raise ValueError(f"template of {task!r} contains {PLACEHOLDER}; only a problem's text may place its images")
    return text


def _blocks(problem: str, n_images: int, before: str, after: str) -> list[dict[str, str]]:
    """Images where the text places them; those that it names first, or not at all, before everything.

    `"<image>\\nWhat is it?"` (VLM-R1) and `"What is it?"` with one image (the original OmniRL) give the same prompt.
    """
    if PLACEHOLDER not in problem:
        texts, n_leading = [problem], n_images
    else:
        leading = _LEADING.match(problem)
        n_leading = leading.group().count(PLACEHOLDER) if leading else 0
        texts = problem[leading.end() if leading else 0 :].split(PLACEHOLDER)
    if n_leading + len(texts) - 1 != n_images:
        raise ValueError(f"{n_leading + len(texts) - 1} {PLACEHOLDER} in the text for {n_images} images")
    texts[0] = before + texts[0]
    texts[-1] = texts[-1] + after
    blocks = [{"type": "image"} for _ in range(n_leading)]
    for index, text in enumerate(texts):
        if index:
            blocks.append({"type": "image"})
        if text:
            blocks.append({"type": "text", "text": text})
    return blocks


def load_dataset(
    path: str | os.PathLike[str],
    image_root: str | os.PathLike[str] | None = None,
    *,
    templates: Mapping[str, str] | None = None,
    system_prompt: str | None = None,
    task: str | None = None,
    split: str = "train",
    columns: ColumnNames | None = None,
    seed: int = 0,
    **rules: Unpack[Rules],
) -> datasets.Dataset:
    """The rows of a file, YAML mixture or hub data set (docs/data.md), as the trainer takes them.

    A row, when drawn, has `prompt` (messages whose content is always a list of blocks), `images` (absolute
    paths, [] for text), `solution` (as in the file), `task`, `problem`, `row_id` (`file:line`), and every
    other key of the file (None in rows without it), for rewards to use. `templates` and `system_prompt` are
    PromptFormat's, `rules` (`on_bad_sample` and others) RowRules', the other arguments load_records'. Rows are
    in memory, about as large as the file; images stay on disk.
    """
    prompts = PromptFormat(templates or {}, system_prompt)
    store = _Store()
    row_rules = RowRules(**rules)
    sources = find_sources(path, image_root, task=task, split=split, columns=columns)
    asks_options = any(OPTIONS in template for template in prompts.templates.values())
    with _no_search_for_cycles():
        for record in read_records(sources, row_rules, seed=seed):
            try:
                if asks_options:  # a look at each row's template costs a twentieth
                    prompts.check(record.task, record.extra.get("options"))
            except ValueError as error:
                raise DataError(f"{record.source}: {error}", record.source) from None
            store.add(record)
    unused = set(templates or {}) - store.tasks - {"default"}
    if unused:
        logger.warning("no row of %s has a task named %s, for which a template is set", path, sorted(unused))
    in_order = any(source.in_order for source in sources)
    transform = RowTransform(prompts, tuple(sorted(store.extras)), store.has_images, in_order=in_order)
    return store.dataset().with_transform(transform)


def is_of_rows(dataset: object) -> bool:
    """Whether `load_dataset` made it."""
    return isinstance(transform_of(dataset), RowTransform)


def is_in_order(dataset: object) -> bool:
    """Whether training takes the rows as they come: a mixture with `order: curriculum`."""
    transform = transform_of(dataset)
    return isinstance(transform, RowTransform) and transform.in_order


def routing(dataset: datasets.Dataset) -> Iterator[tuple[str, str | None, object, object]]:
    """(row_id, task, solution, options) of each row of `load_dataset`, read without opening an image."""
    for text in dataset.with_format(None)[_COLUMN]:
        source, _, solution, _, task, extra = json.loads(text)
        yield source, task, solution, extra.get("options")


def for_language_model(dataset: datasets.Dataset) -> datasets.Dataset:
    """The same samples (of `load_dataset`) with prompts of plain text; DataError where some have images."""
    transform = transform_of(dataset)
    assert isinstance(transform, RowTransform)
    if transform.has_images:
        raise DataError(
            "the data has samples with images, and the model is a language model, which takes none; "
            "use a vision-language model, or leave these samples out"
        )
    return dataset.with_transform(replace(transform, as_text=True))


def transform_of(dataset: object) -> object:
    """What makes the samples of the data set as they are drawn; None for one that stores them, or a stream."""
    return dataset.format["format_kwargs"].get("transform") if isinstance(dataset, datasets.Dataset) else None


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Pauses Python's collector: a million rows make no cycle, and looking for some takes a sixth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True)
class RowTransform:
    """Turns stored rows into what the trainer sees; `datasets` calls it with every batch that is drawn."""

    prompts: PromptFormat
    extras: tuple[str, ...] = ()
    has_images: bool = True
    """Whether any row has an image; a run without any pays nothing for a mixed one's safety."""
    as_text: bool = False
    """Contents as plain text, which the chat template of a language model takes, not as blocks."""
    in_order: bool = False
    """A mixture's `order: curriculum`: training is not to shuffle them."""

    def __call__(self, batch: Mapping[str, list[str]]) -> dict[str, list[object]]:
        rows = [self._row(*json.loads(text)) for text in batch[_COLUMN]]
        names = ("prompt", "images", "solution", "task", "problem", "row_id", *self.extras)
        columns = zip(*rows, strict=True) if rows else [()] * len(names)
        return {name: list(column) for name, column in zip(names, columns, strict=True)}

    def _row(
        self, source: str, problem: str, solution: Any, images: list[str], task: str | None, extra: dict[str, Any]
    ) -> tuple[Any, ...]:
        prompt: list[Any] = self.prompts.messages(problem, len(images), task, extra.get("options"))
        if self.as_text:
            prompt = [{**turn, "content": "".join(b["text"] for b in turn["content"])} for turn in prompt]
        return (prompt, images, solution, task, problem, source, *(extra.get(name) for name in self.extras))


class _Store:
    """Gathers records as JSON in an Arrow column, whose size benchmarks/data_loading.py holds small."""

    def __init__(self) -> None:
        self.tasks: set[str | None] = set()
        self.extras: set[str] = set()
        self.has_images = False
        self._lines: list[str] = []
        self._chunks: list[pa.Array] = []
        self._digest = hashlib.blake2b(digest_size=8)

    def add(self, record: Record) -> None:
        row = (record.source, record.problem, record.solution, record.images, record.task, record.extra)
        self._lines.append(_encode(row))
        self.tasks.add(record.task)
        self.extras.update(record.extra)
        self.has_images = self.has_images or bool(record.images)
        if len(self._lines) == _BATCH:
            self._pack()

    def dataset(self) -> datasets.Dataset:
        self._pack()
        table = pa.table({_COLUMN: pa.chunked_array(self._chunks, type=pa.large_string())})
        # a fingerprint from the rows; `datasets` would else pickle the table to make one
        return datasets.Dataset(InMemoryTable(table), fingerprint=self._digest.hexdigest())

    def _pack(self) -> None:
        if not self._lines:
            return
        chunk = pa.array(self._lines, type=pa.large_string())
        for buffer in chunk.buffers()[1:]:  # ends and characters
            self._digest.update(buffer)
        self._chunks.append(chunk)
        self._lines.clear()
