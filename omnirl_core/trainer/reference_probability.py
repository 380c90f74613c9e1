"""Asks the policy how probable the reference is in the place of a completion's answer; see `ReferenceProbability`.

RLPR (arXiv 2506.18254) and VeriFree (arXiv 2505.21493). What a completion sampled is kept token by token up to its
answer; then the tokens of the reference follow. With a shared prefix these are branches of a pack, so a prompt and
its images run once for all of its completions.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Trainer
from trl import GRPOTrainer
from trl.trainer.utils import pad

from omnirl_core.models import unpadded
from omnirl_core.rewards.reference_probability import (
    COLUMN,
    ReferenceTokens,
    policy_rewards,
    spread_share,
    wants_alone,
)
from omnirl_core.rewards.reward import Reward
from omnirl_core.text import answer_span, reference_texts
from omnirl_core.trainer.reward_stats import LowSpread
from omnirl_core.trainer.shared_prefix.packing import pack, packed_log_probs
from omnirl_core.trainer.shared_prefix.runtime import SharedBatch, without_dropout
from omnirl_core.types import ModelInputs, Sample

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

OPEN, CLOSE, THINK, END_THINK = "<answer>", "</answer>", "<think>", "</think>"


# --- tokens ---


@dataclass(frozen=True)
class Suffix:
    """Tokens that follow a prompt; of the last `n_scored`, those of the reference, probabilities are wanted."""

    token_ids: tuple[int, ...]
    n_scored: int


@dataclass(frozen=True)
class Question:
    """One reference after a completion's thought, and without it where that is wanted."""

    after: Suffix
    alone: Suffix | None


class Tokens:
    """A tokenizer, as it cuts and continues what a policy sampled without tokenising that anew."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer

    def ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()

    def text(self, ids: Sequence[int]) -> str:
        """As rewards read it: without special tokens."""
        # a list of ids gives one text
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def cut(self, ids: Sequence[int], text: str, most: int) -> tuple[int, int]:
        """The tokens that lie within the first `most` characters of their `text`: how many, and their characters."""
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if len(self.text(ids[:middle])) <= most else (low, middle - 1)
        while low and not text.startswith(self.text(ids[:low])):  # ends within a character
            low -= 1
        kept = self.text(ids[:low])
        while low and self.text(ids[: low - 1]) == kept:  # a special token that stands at the cut
            low -= 1
        return low, len(kept)

    def questions(self, ids: Sequence[int], references: Sequence[str], alone: bool) -> tuple[Question, ...]:
        """One for each reference; none where the completion has no answer part.

        White space around the completion's answer stays, also where it is part of a token of the answer: the reference
        is asked for as the policy would write it. A token in which answer and tag meet (`>The`) counts as the
        answer's, and the rest of it is written anew.
        """
        text = self.text(ids)
        span = answer_span(text)
        if span is None:
            return ()
        start, body = span[0], text[slice(*span)]
        before = body[: len(body) - len(body.lstrip())]
        behind = body[len(body.rstrip()) :] if body.strip() else ""
        return tuple(self._question(ids, text, start, (before, one, behind), alone) for one in references)

    def _question(
        self, ids: Sequence[int], text: str, start: int, answer: tuple[str, str, str], alone: bool
    ) -> Question:
        scored, place = self._reference(*answer)
        cut = start - len(OPEN) + place
        n, characters = self.cut(ids, text, cut)
        after = (*ids[:n], *self.ids(text[characters:cut]), *scored)
        empty = _without_thought(text[: start - len(OPEN)]) + (OPEN + answer[0])[:place]
        without = Suffix((*self.ids(empty), *scored), len(scored)) if alone else None
        return Question(Suffix(after, len(scored)), without)

    def _reference(self, before: str, reference: str, behind: str) -> tuple[tuple[int, ...], int]:
        """The tokens of a reference between its tags, and where the first of them begins, counted from `<answer>`."""
        head = OPEN + before
        ids = self.ids(f"{head}{reference}{behind}{CLOSE}")
        text = self.text(ids)
        first, place = self.cut(ids, text, len(head))
        wanted = text[: len(head) + len(reference)]
        within, _ = self.cut(ids, text, len(wanted))
        last = next((k for k in range(within, len(ids)) if self.text(ids[:k]).startswith(wanted)), len(ids))
        return ids[first:last], place


def _without_thought(text: str) -> str:
    """What stands before `<answer>`, with nothing in the thought.

    >>> _without_thought("<think>so</think> "), _without_thought("so</think>"), _without_thought("so")
    ('<think></think> ', '</think>', '')
    """
    thought, tag, between = text.rpartition(END_THINK)
    if not tag:
        return ""
    return (THINK if THINK in thought else "") + END_THINK + (between if not between.strip() else "")


# --- the pass ---

Asked: TypeAlias = tuple[int, Suffix]
"""The number of a distinct prompt, and what follows it."""


class ReferenceProbability:
    """The policy, asked on behalf of the rewards that need it (`Reward.needs_policy`), before they judge a batch.

    A batch costs one pass without gradients over its completions up to their answers, in as many forwards on each rank:
    each is of the next `per_device_*_batch_size` samples. Temperature and adapters are those of the policy's other
    log-probabilities; dropout is off.

    Args:
        trainer: OmniGRPOTrainer, once TRL has made it.
        rewards: those that need the policy, gates among them.
    """

    def __init__(self, trainer: "OmniGRPOTrainer", rewards: Sequence[Reward]):
        self._trainer = trainer
        self._rewards = rewards
        self._alone = any(map(wants_alone, rewards))
        self._tokens = Tokens(trainer._tokenizer)
        self.low_spread = LowSpread(trainer, {r.name: share for r in rewards if (share := spread_share(r))})

    def given(
        self, samples: Sequence[Sample], prompts: Sequence[object], completion_ids: Sequence[Sequence[int]]
    ) -> list[Sample]:
        """The samples with `reference_probabilities`, for this rank's completions.

        Args:
            samples: with their images.
            prompts: of each, as TRL gives them to rewards.
            completion_ids: of each, as they were sampled.
        """
        questions = [self._questions(sample, ids) for sample, ids in zip(samples, completion_ids, strict=True)]
        found: dict[Asked, tuple[float, ...]] = {}
        numbers = self._numbers(samples)
        size, is_single = self._batch_size, self._trainer.accelerator.num_processes == 1
        with torch.no_grad(), without_dropout(self._trainer.model):
            for start in range(0, len(samples), size):
                chunk = range(start, min(start + size, len(samples)))
                asked = {(numbers[i], one): None for i in chunk for one in _suffixes(questions[i] or ())}
                asked = {one: None for one in asked if one not in found}
                if asked or not is_single:  # engines gather parameters in a forward: each rank runs as many
                    nothing = (numbers[start], Suffix((self._trainer._tokenizer.pad_token_id,), 0))
                    found |= self._probabilities(list(asked) or [nothing], numbers, prompts)
        columns = [
            None if own is None else tuple(_tokens_of(one, number, found) for one in own)
            for own, number in zip(questions, numbers, strict=True)
        ]
        self._log(columns)
        return [{**sample, COLUMN: column} for sample, column in zip(samples, columns, strict=True)]

    @property
    def _batch_size(self) -> int:
        args = self._trainer.args
        return args.per_device_train_batch_size if self._trainer.model.training else args.per_device_eval_batch_size

    def _numbers(self, samples: Sequence[Sample]) -> list[int]:
        """The number of each sample's prompt among the distinct ones."""
        batch = self._trainer._batch
        return (SharedBatch(samples) if batch is None else batch).prompt_of_sample

    def _questions(self, sample: Sample, completion_ids: Sequence[int]) -> tuple[Question, ...] | None:
        """None where no reward judges the sample, or there is no reference."""
        references = reference_texts(sample.get("solution"))
        if references is None or not any(reward.applies_to(sample.get("task")) for reward in self._rewards):
            return None
        return self._tokens.questions(completion_ids, references, self._alone)

    def _probabilities(
        self, asked: Sequence[Asked], numbers: Sequence[int], prompts: Sequence[object]
    ) -> dict[Asked, tuple[float, ...]]:
        """Of the scored tokens of each suffix, in one forward."""
        trainer, device = self._trainer, self._trainer.accelerator.device
        tokens = [torch.tensor(suffix.token_ids, device=device) for _, suffix in asked]
        scored = [torch.arange(len(s.token_ids), 0, -1, device=device) <= s.n_scored for _, s in asked]
        filler = trainer._tokenizer.pad_token_id
        ids = pad(tokens, padding_value=filler, padding_side="right")  # (R, C)
        mask = pad([torch.ones_like(one) for one in tokens], padding_value=0, padding_side="right")  # (R, C)
        is_scored = pad(scored, padding_value=False, padding_side="right")  # (R, C)
        run = self._plain if trainer._batch is None else self._packed
        with trainer.accelerator.autocast():
            log_probs = run([number for number, _ in asked], numbers, prompts, ids, mask, is_scored)
        values = log_probs.float().exp()
        return {one: tuple(values[row][is_scored[row]].tolist()) for row, one in enumerate(asked)}

    def _packed(
        self, rows: Sequence[int], numbers: Sequence[int], prompts: object, ids: Tensor, mask: Tensor, scored: Tensor
    ) -> Tensor:
        """Log-probabilities, (R, C), where they are scored: a pack of each prompt and its suffixes."""
        trainer = self._trainer
        assert trainer._batch is not None
        assert trainer.shared_prefix is not None
        encoded = [trainer._batch.encoded[number] for number in rows]
        whole = pack(encoded, ids, mask)
        kept = scored[mask.bool()]
        packed = replace(whole, predictors=whole.predictors[kept], labels=whole.labels[kept], scored=scored)
        with self._watched(sum(prompt.n_images for prompt in packed.prompts), numbers):
            values, _ = packed_log_probs(trainer.model, trainer.shared_prefix.backbone(trainer.model), packed)
        return values

    def _plain(
        self, rows: Sequence[int], numbers: Sequence[int], prompts: Any, ids: Tensor, mask: Tensor, scored: Tensor
    ) -> Tensor:
        """Log-probabilities, (R, C), where they are scored: a padded row of each suffix after its prompt."""
        trainer = self._trainer
        samples = [list(numbers).index(number) for number in rows]
        # each row's prompt anew, so that what the processor gives is of these rows and in their order
        with unpadded(trainer.processing_class):
            prompt_ids, images, fields = GRPOTrainer._tokenize_prompts(trainer, [prompts[i] for i in samples])
        batch = _batch(prompt_ids, fields if images else {}, ids, mask, trainer._tokenizer.pad_token_id)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        labels[:, -ids.shape[1] :].masked_fill_(~scored, -100)
        labels[:, : -ids.shape[1]] = -100
        inputs = Trainer._prepare_inputs(trainer, batch)
        with self._watched(sum(len(own or ()) for own in images or ()), numbers):
            outputs = trainer.model(**inputs, labels=labels, fused_lm_head=True)
        return outputs.log_probs[:, -ids.shape[1] :]

    def _watched(self, n_images: int, numbers: Sequence[int]) -> AbstractContextManager[None]:
        """A forward that has to encode so many images."""
        guard = self._trainer.image_guard
        counts = len(guard.samples) == len(numbers)
        return guard.watched("reference probabilities", n_images) if counts else nullcontext()

    def _log(self, columns: Sequence[tuple[ReferenceTokens, ...] | None]) -> None:
        """Mean probability of a reference's token, after a thought and without one, over all ranks."""
        trainer = self._trainer
        given = [one for column in columns for one in column or ()]
        for name, values in (("after", [t.after for t in given]), ("alone", [t.alone for t in given if t.alone])):
            means = [sum(one) / max(1, len(one)) for one in values]
            own = torch.tensor([[sum(means), float(len(means))]], device=trainer.accelerator.device)
            total, n = trainer.accelerator.gather(own).sum(0).tolist()
            if n:
                self._metrics[f"reference_probability/{name}"].append(total / n)

    @property
    def _metrics(self) -> Any:
        return self._trainer._metrics["train" if self._trainer.model.training else "eval"]


def _suffixes(questions: Sequence[Question]) -> Iterator[Suffix]:
    for one in questions:
        yield one.after
        if one.alone is not None:
            yield one.alone


def _tokens_of(question: Question, number: int, found: dict[Asked, tuple[float, ...]]) -> ReferenceTokens:
    alone = () if question.alone is None else found[number, question.alone]
    return ReferenceTokens(found[number, question.after], alone)


def _batch(
    prompt_ids: Sequence[Sequence[int]], fields: ModelInputs, ids: Tensor, mask: Tensor, filler: int
) -> ModelInputs:
    """Prompts padded on the left, then suffixes, with what the processor gave for the prompts' images."""

    def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
        parts = [torch.tensor(row, device=ids.device) for row in rows]
        return pad(parts, padding_value=value, padding_side="left")  # (R, P)

    ones = padded([[1] * len(row) for row in prompt_ids], 0)
    batch: ModelInputs = {
        "input_ids": torch.cat([padded(prompt_ids, filler), ids], 1),
        "attention_mask": torch.cat([ones, mask], 1),
    }
    for name, value in fields.items():
        if isinstance(value, list) and value and isinstance(value[0], list):  # of tokens: which stand for images
            batch[name] = torch.cat([padded(value, 0), torch.zeros_like(ids)], 1)
        else:
            batch[name] = value if isinstance(value, Tensor) else torch.tensor(np.array(value))
    return batch


def reference_probability_of(trainer: "OmniGRPOTrainer") -> ReferenceProbability | None:
    """None where no reward of the run needs the policy.

    Raises:
        ValueError: one does, and the run's prompts or completions are not the policy's own.
    """
    rewards = policy_rewards(trainer.reward_funcs)
    if not rewards:
        return None
    obstacles = {
        "tools": trainer.tools,
        "an environment_factory": trainer.environment_factories,
        "a rollout_func": trainer.rollout_func,
    }
    if found := [name for name, is_there in obstacles.items() if is_there]:
        names = ", ".join(f"'{reward.name}'" for reward in rewards)
        raise ValueError(
            f"reward {names} is not supported with {' and '.join(found)}, which write into what it asks the policy "
            "about; remove the reward, or them"
        )
    return ReferenceProbability(trainer, rewards)
