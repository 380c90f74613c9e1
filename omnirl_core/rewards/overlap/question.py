"""The question that an answer answers, as text: from the row's problem, or from its prompt without instructions."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from omnirl_core.text import TAG, tokens

LONGEST = 60
"""Tokens; of a longer prompt only its questions count: the rest is a text to work on, whose words are facts."""

_SENTENCE = re.compile(r"[^.!?。！？؟\n]+[.!?。！？؟\n]*")
_ASKS = ("?", "？", "؟")


def question_of(prompt: Any = None, problem: Any = None) -> str:
    """The question's text; "" where there is none.

    `problem` counts where the row has it. Otherwise it is the last user turn of `prompt` (messages with text or
    blocks, or plain text) up to the sentence that asks for <think> or <answer> tags: a system prompt and format
    instructions are no question. Placeholders of images are taken out.

    >>> question_of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "image"},
    ...     {"type": "text", "text": "Where is it? Output the answer in <answer> </answer> tags."}]}])
    'Where is it?'
    """
    if isinstance(problem, str) and problem.strip():
        return _shortened(problem)
    return _shortened(_prompt_text(prompt))


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list | tuple):
        return ""
    turns = [turn for turn in prompt if isinstance(turn, Mapping) and turn.get("role", "user") == "user"]
    content = turns[-1].get("content") if turns else None
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list | tuple) else ()
    texts = [block.get("text") if isinstance(block, Mapping) else block for block in blocks]
    return " ".join(text for text in texts if isinstance(text, str))


@lru_cache(maxsize=64)
def _shortened(text: str) -> str:
    text = text.replace("<image>", " ")
    tag = TAG.search(text)
    if tag is not None:
        text = "".join(
            match.group() for match in _SENTENCE.finditer(text[: tag.start()]) if match.end() < tag.start()
        )
    text = text.strip()
    if len(tokens(text)) <= LONGEST:
        return text
    asked = [match.group() for match in _SENTENCE.finditer(text) if match.group().rstrip().endswith(_ASKS)]
    return " ".join(one.strip() for one in asked[-3:])
