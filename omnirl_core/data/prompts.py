"""From a problem to prompt messages: one image part per image, in order, and a template for each task."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from omnirl_core.types import Message

PLACEHOLDER = "<image>"
"""Stands in a problem's text where an image belongs."""
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
    try:
        options = json.loads(options) if isinstance(options, str) else options
    except ValueError:
        options = None
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
