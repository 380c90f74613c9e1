"""Dynamic sampling: groups whose completions all earned the same are replaced by groups of other prompts.

After the rollout (`resample`), and before it, by what earlier rollouts of the same prompts brought (`predict`).
"""

import logging
import math
import random
from collections.abc import Iterator, Sequence, Sized
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from datasets import IterableDataset
from torch import Tensor
from torch.utils.data import Dataset
from trl.data_utils import prepare_multimodal_messages

from omnirl_core.trainer.multimodal import images_of
from omnirl_core.trainer.reward_stats import constant_groups
from omnirl_core.types import Sample

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

logger = logging.getLogger(__name__)

SURPLUS = 1.5
"""Groups of a further round for each that is expected to be needed: a round costs more than a group."""
INDEX = "index in the training set"
"""Key of a training sample on its way from the data set to `DynamicSampling.draw`."""
REJECTED = 0.25
"""Share of the sampled groups that may be without signal: GRESO's alpha."""
EXPLORE = (0.05, 0.5, 0.95)
"""Least, first and greatest chance of a prompt whose last group had no signal, as in GRESO's code."""
LEAST_CHANCE = 0.01
"""Of a prompt to be answered again, however often it had no signal, as in GRESO's code."""


class IndexedSamples(Dataset[Sample]):
    """A data set whose samples say where in it they are: a user's own need not have row ids."""

    def __init__(self, samples: Sequence[Sample]):
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return {**self._samples[index], INDEX: index}


@dataclass
class Round:
    """What one rollout brought. Lists are of this rank's samples, `rewards` (ranks*n, K) of all ranks'."""

    samples: Sequence[Sample]
    completion_ids: list[list[int]]
    completions: list[Any]
    log_probs: list[list[float]] | None
    rewards: Tensor
    extra: dict[str, list[Any]]
    """What rewards gave to `log_extra`."""

    def generated(self, prompt_ids: Any, images: Any, fields: Any) -> tuple[Any, ...]:
        """The batch, whose prompts are tokenized, as TRL 1.16's `_generate` gives it."""
        return prompt_ids, self.completion_ids, None, self.completions, self.log_probs, {}, images, []


Place: TypeAlias = tuple[int, int]
"""Number of a round, and of a group in it over all ranks."""


class Layout:
    """Which samples of which ranks a group is made of, `n` samples a rank, rank by rank.

    >>> Layout(n=2, size=4, ranks=4).holders(1), Layout(n=2, size=4, ranks=4).own(1, rank=2)
    ((2, 2, 3, 3), [0, 1])
    """

    def __init__(self, n: int, size: int, ranks: int):
        self.n, self.size = n, size
        self.groups = n * ranks // size

    def holders(self, group: int) -> tuple[int, ...]:
        """Rank of each sample of the group; a group can take the place of one with the same."""
        return tuple(row // self.n for row in range(group * self.size, (group + 1) * self.size))

    def own(self, group: int, rank: int) -> list[int]:
        """The rank's samples of the group, counted from its first."""
        return [group * self.size + i - rank * self.n for i, one in enumerate(self.holders(group)) if one == rank]


def fill_slots(found: Sequence[Sequence[bool]], layouts: Sequence[Layout]) -> dict[int, Place]:
    """Rollout and group of each slot of the first rollout: its own where that has signal, then others as they came.

    `found` says of each group of each rollout whether it has signal; a slot that none fills is left out.
    """
    taken = {slot: (0, slot) for slot, has_signal in enumerate(found[0]) if has_signal}
    for i, groups in enumerate(found[1:], 1):
        for group in (group for group, has_signal in enumerate(groups) if has_signal):
            holders = layouts[i].holders(group)
            fitting = (s for s in range(layouts[0].groups) if s not in taken and layouts[0].holders(s) == holders)
            slot = next(fitting, None)
            if slot is not None:
                taken[slot] = (i, group)
    return taken


def next_size(found: Sequence[Sequence[bool]], taken: dict[int, Place], layout: Layout) -> int:
    """Samples of each rank in the next rollout; 0 where every slot is taken.

    Where ranks hold whole groups, as many as are missing on the rank that misses most, by the share that had signal so
    far, and half as many again; at most as many as in the first rollout, and so many where a group has several ranks.
    """
    missing = [layout.holders(slot)[0] for slot in range(layout.groups) if slot not in taken]
    share = sum(map(sum, found)) / sum(map(len, found))
    if not missing or layout.n % layout.size or not share:
        return layout.n if missing else 0
    most = max(missing.count(rank) for rank in set(missing))
    return min(layout.n, layout.size * math.ceil(SURPLUS * most / share))


class SignalHistory:
    """How often in a row each training sample's groups came back without signal, and whether to answer it again.

    Skips a prompt before its rollout as GRESO does (arXiv 2506.02177): one whose last z groups had no signal is
    answered with a chance of p to the power of z, any other always. p follows the share of rejected groups, so that
    they stay near a quarter of what is sampled: fewer, and it explores more. GRESO moves two such p by .01 a step, one
    for prompts that are always solved and one for those that never are. Here it is one, since a reward need not say
    which is which, and it moves in proportion to what the share is off, so that runs of a hundred steps feel it.

    Kept in the trainer's state, which every checkpoint holds. Begun anew where the data set has another size.
    """

    def __init__(self, trainer: "OmniGRPOTrainer"):
        self._trainer = trainer

    def admits(self, index: int, draw: random.Random) -> bool:
        """Whether the sample is to be answered now."""
        state = self._state
        streak = state["streaks"].get(str(index), 0)
        return streak == 0 or draw.random() < max(state["explore"] ** streak, LEAST_CHANCE)

    def note(self, indices: Sequence[int], found: Sequence[bool]) -> None:
        """Remember of each group whether it had signal."""
        streaks = self._state["streaks"]
        for index, has_signal in zip(map(str, indices), found, strict=True):
            if has_signal:
                streaks.pop(index, None)
            else:
                streaks[index] = streaks.get(index, 0) + 1

    def adapt(self, rejected_share: float) -> None:
        """Explore less where too many groups of a generation batch had no signal, more where few had none."""
        least, _, greatest = EXPLORE
        explore = self._state["explore"] * math.exp(REJECTED - rejected_share)
        self._state["explore"] = min(max(explore, least), greatest)

    @property
    def _state(self) -> dict[str, Any]:
        size = len(cast(Sized, self._trainer.train_dataset))
        states: Any = self._trainer.state.stateful_callbacks
        if states.get(type(self).__name__, {}).get("samples") != size:
            states[type(self).__name__] = {"samples": size, "explore": EXPLORE[1], "streaks": {}}
        state: dict[str, Any] = states[type(self).__name__]
        return state


class DynamicSampling:
    """`dynamic_sampling: resample` (DAPO, section 3.2, arXiv 2503.14476) or `predict` of a run.

    A group whose completions all earned the same has advantages of 0. It is rejected, and a group of another prompt,
    which the same policy answers, takes its place, so that a step learns from as many groups as the batch has room for.
    This changes the estimate: it conditions on mixed outcomes. A prompt counts in proportion to how often the policy's
    answers to it differ in reward, and one that is always or never solved for nothing. Without it such groups add zeros
    to the mean, so the gradient grows by one over the share that is kept, as with a larger learning rate. Logged
    rewards are of the groups in the batch; `dynamic_sampling/sampled_reward` is the mean of all that was sampled.

    With `predict` a batch costs one rollout. Prompts that had no signal before are replaced ahead of it, mostly
    (`SignalHistory`), and groups without signal stay in the batch, as zeros. The estimate is that of a data set in
    which such prompts are rare, and it is late: that a prompt has become solvable is seen when it is next answered.

    Every rank runs every rollout, with as many samples; how many is one small reduction a rollout. Other prompts come
    from the whole training set, by a generator that follows from seed and step, and all ranks keep one history of all
    rewards: a resumed run draws the same.
    """

    def __init__(self, trainer: "OmniGRPOTrainer"):
        self._trainer = trainer
        self._history = SignalHistory(trainer)
        self._is_warned = False
        self.drawn: Round | None = None
        """The batch that TRL is to go on with, between `draw` and its rewards."""

    def draw(self, inputs: list[Sample]) -> list[Sample]:
        """The generation batch, with other samples in place of those without signal; see `drawn`.

        Args:
            inputs: this rank's samples, `num_generations` of each prompt one after the other, over all ranks, with
                their `INDEX`.
        """
        trainer, accelerator, self.drawn = self._trainer, self._trainer.accelerator, None
        dataset: Any = trainer.train_dataset
        seed = f"{trainer.args.data_seed or trainer.args.seed} {trainer.state.global_step} {trainer._step}"
        draw = random.Random(seed)
        layouts = [Layout(len(inputs), trainer.num_generations or 1, accelerator.num_processes)]
        given = self._indices(inputs)
        others = self._others(draw, set(given))
        indices = [index if self._history.admits(index, draw) else next(others) for index in given]
        n_replaced = sum(new != old for new, old in zip(indices, given, strict=True))
        own = zip(self._own(indices, layouts[0]), inputs, strict=True)
        rounds = [self._round([one if one.pop(INDEX) == index else dataset[index] for index, one in own])]
        found = [self._signal(rounds[0], indices)]
        taken = fill_slots(found, layouts)
        most = trainer.settings.max_resample_rounds if trainer.settings.dynamic_sampling == "resample" else 0
        while n := self._agreed(next_size(found, taken, layouts[0]) if len(rounds) <= most else 0):
            layouts.append(Layout(n, layouts[0].size, accelerator.num_processes))
            indices = list(islice(others, layouts[-1].groups))
            rounds.append(self._round([dataset[index] for index in self._own(indices, layouts[-1])]))
            found.append(self._signal(rounds[-1], indices))
            taken = fill_slots(found, layouts)
        rejected_share = 1 - sum(map(sum, found)) / sum(map(len, found))
        self._history.adapt(rejected_share)
        self._log(rounds, len(found[0]), rejected_share, n_replaced, len(taken))
        places = [taken.get(slot, (0, slot)) for slot in range(layouts[0].groups)]
        self.drawn = joined(rounds, layouts, places, accelerator.process_index)
        return list(self.drawn.samples)

    def _indices(self, inputs: list[Sample]) -> list[int]:
        """Index of each group's sample, over all ranks."""
        own = torch.tensor([sample[INDEX] for sample in inputs], device=self._trainer.accelerator.device)
        return self._trainer.accelerator.gather(own)[:: self._trainer.num_generations or 1].tolist()

    def _others(self, draw: random.Random, taken: set[int]) -> Iterator[int]:
        """Other samples of the training set that are likely to have signal, in random order, again once all were."""
        size = len(cast(Sized, self._trainer.train_dataset))
        while True:
            while len(taken) < size:
                index = draw.randrange(size)
                if index not in taken:
                    taken.add(index)
                    if self._history.admits(index, draw):
                        yield index
            taken.clear()

    def _own(self, indices: Sequence[int], layout: Layout) -> list[int]:
        """Index of each of this rank's samples, of those of all groups."""
        first = self._trainer.accelerator.process_index * layout.n
        return [indices[row // layout.size] for row in range(first, first + layout.n)]

    def rewards(self) -> Tensor:
        """Of the batch at hand, on all ranks, (ranks*B*G, K); what comes after it is generated anew."""
        assert self.drawn is not None
        drawn, self.drawn = self.drawn, None
        for column, values in drawn.extra.items():
            self._trainer._pending_extra_logs[column].extend(values)
        return drawn.rewards

    def _round(self, inputs: list[Sample]) -> Round:
        """A rollout and its rewards, and nothing that a step needs besides."""
        trainer, shared = self._trainer, self._trainer.shared_prefix
        trainer._open_samples(inputs)
        with nullcontext() if shared is None else shared.generation_batch(trainer._samples) as batch:
            samples = list(trainer._samples) if batch is None else batch.placeholder_samples
            images = [images_of(sample) for sample in samples]
            prompts = [sample["prompt"] for sample in samples]
            if any(images):  # as TRL 1.16 does before it generates
                prompts = [prepare_multimodal_messages(p, images=own) for p, own in zip(prompts, images, strict=True)]
            _, completion_ids, _, completions, log_probs, *_ = trainer._generate(prompts)
            rewards = trainer._score(samples, prompts, completions, completion_ids)
        extra = {column: list(values) for column, values in trainer._pending_extra_logs.items()}
        trainer._pending_extra_logs.clear()
        return Round(inputs, completion_ids, completions, log_probs, rewards, extra)

    def _signal(self, drawn: Round, indices: Sequence[int]) -> list[bool]:
        """Whether the rewards of each group differ; the same on every rank, which all have all rewards."""
        trainer, rewards = self._trainer, drawn.rewards.cpu()
        first = trainer.multi_objective_aggregation == "normalize_then_sum"
        groups = rewards.view(-1, trainer.num_generations or 1, rewards.shape[-1])
        dull = constant_groups(groups, trainer.reward_weights.tolist(), first)
        if trainer.reference_probability is not None:
            trainer.reference_probability.low_spread.note(rewards)
            dull = dull | trainer.reference_probability.low_spread.groups(rewards)
        found = [not one for one in dull.tolist()]
        self._history.note(indices, found)
        return found

    def _agreed(self, n: int) -> int:
        """The most that any rank wants, on every rank."""
        wanted = torch.tensor([n], device=self._trainer.accelerator.device)
        return int(self._trainer.accelerator.gather(wanted).max())

    def _log(
        self, rounds: Sequence[Round], n_groups: int, rejected_share: float, n_replaced: int, n_kept: int
    ) -> None:
        trainer = self._trainer
        rewards = torch.cat([one.rewards for one in rounds])
        judged = rewards[~rewards.isnan().all(1)]
        numbers = {
            "kept_groups": n_kept,
            "rounds": len(rounds) - 1,
            "replaced_share": n_replaced / n_groups,
            "rejected_share": rejected_share,
            "sampled_reward": (judged * trainer.reward_weights.to(judged.device)).nansum(1).mean().item(),
        }
        for name, value in numbers.items():
            trainer._metrics["train"][f"dynamic_sampling/{name}"].append(float(value))
        if n_kept == n_groups or self._is_warned or trainer.settings.dynamic_sampling != "resample":
            return
        self._is_warned = True
        if trainer.accelerator.is_main_process:
            logger.warning(
                "dynamic_sampling: %d of %d groups have one reward for all completions after max_resample_rounds %d, "
                "and stay in the batch; this is said once, dynamic_sampling/kept_groups goes on counting. Raise "
                "max_resample_rounds, or choose samples that the policy solves now and then",
                n_groups - n_kept, n_groups, trainer.settings.max_resample_rounds,
            )  # fmt: skip


def joined(rounds: Sequence[Round], layouts: Sequence[Layout], places: Sequence[Place], rank: int) -> Round:
    """One batch of the groups at `places`, as if one rollout had brought them."""
    rows = [(i, row) for i, group in places for row in layouts[i].own(group, rank)]
    size = layouts[0].size
    columns = dict.fromkeys(column for one in rounds for column in one.extra)
    extra = {
        name: [rounds[i].extra[name][row] if name in rounds[i].extra else None for i, row in rows] for name in columns
    }
    log_probs = [one.log_probs or [] for one in rounds]
    return Round(
        [rounds[i].samples[row] for i, row in rows],
        [rounds[i].completion_ids[row] for i, row in rows],
        [rounds[i].completions[row] for i, row in rows],
        [log_probs[i][row] for i, row in rows] if rounds[0].log_probs is not None else None,
        torch.cat([rounds[i].rewards[group * size : (group + 1) * size] for i, group in places]),
        extra,
    )


def dynamic_sampling_of(trainer: "OmniGRPOTrainer") -> DynamicSampling | None:
    """None where it is off.

    Raises:
        ValueError: it is on, and the run cannot.
    """
    kind = trainer.settings.dynamic_sampling
    if kind == "off":
        return None
    obstacles = {
        "tools": trainer.tools,
        "an environment_factory": trainer.environment_factories,
        "a rollout_func": trainer.rollout_func,
        "a streamed train_dataset": isinstance(trainer.train_dataset, IterableDataset),
        "remove_unused_columns": trainer.args.remove_unused_columns,
    }
    if found := [name for name, is_there in obstacles.items() if is_there]:
        raise ValueError(
            f"`dynamic_sampling: {kind}` is not supported with {' and '.join(found)}; set dynamic_sampling: off"
        )
    return DynamicSampling(trainer)
