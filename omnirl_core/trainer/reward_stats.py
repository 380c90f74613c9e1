"""What rewards say within groups: their spread, their share of the advantage, and groups in which they say nothing."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerState

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

logger = logging.getLogger(__name__)

NOISE = 1e-6
"""Rewards are float32, and their weighted sums equal where they differ by less than this part of their terms."""


class Scale(NamedTuple):
    """One reward in one generation batch, its weight included; NaN where no group tells, or the weight is 0."""

    spread: float
    """Mean standard deviation within a group."""
    share: float
    """Part of the summed reward's variance within groups that is this reward's; the shares add up to 1."""


def reward_scales(rewards: Tensor, weights: Sequence[float]) -> list[Scale]:
    """Scales of K rewards from `(groups, G, K)` values, NaN where a reward abstains.

    >>> rewards = torch.tensor([[[0.0, 0.5], [1.0, 0.6]]])  # one group of two completions, two rewards
    >>> [f"{scale.spread:.3f} {scale.share:.3f}" for scale in reward_scales(rewards, [1.0, 1.0])]
    ['0.707 0.909', '0.071 0.091']
    """
    weighted = rewards.double() * torch.tensor(list(weights), dtype=torch.double, device=rewards.device)
    judged = ~weighted.isnan()
    n = judged.sum(1)  # (groups, K)
    deviation = (weighted - weighted.nanmean(1, keepdim=True)).nan_to_num(0.0)
    spread = (deviation.square().sum(1) / (n - 1).clamp(min=1)).sqrt()  # (groups, K)
    counted = n > 1

    terms = weighted.nan_to_num(0.0)  # TRL's sum takes an abstention for nothing
    terms = terms - terms.mean(1, keepdim=True)
    total = terms.sum(-1, keepdim=True)
    covariance = (terms * total).sum((0, 1))  # (K,)
    variance = total.square().sum()
    is_known = counted.any(0) & torch.tensor([weight != 0 for weight in weights], device=rewards.device)
    return [
        Scale(
            spread[counted[:, k], k].mean().item() if is_known[k] else math.nan,
            (covariance[k] / variance).item() if variance > 1e-12 else math.nan,
        )
        for k in range(rewards.shape[-1])
    ]


def log_scales(trainer: "OmniGRPOTrainer", rewards: Tensor) -> None:
    """Log the scales of a training batch's rewards, (ranks*B*G, K); TRL's log leaves out NaN."""
    groups = rewards.view(-1, trainer.num_generations or 1, rewards.shape[-1])
    scales = reward_scales(groups, trainer.reward_weights.tolist())
    for name, scale in zip(trainer.reward_func_names, scales, strict=True):
        trainer._metrics["train"][f"rewards/{name}/spread"].append(scale.spread)
        trainer._metrics["train"][f"rewards/{name}/share"].append(scale.share)


class RewardScaleCallback(TrainerCallback):
    """Warns once of each thing that keeps a run from learning, as read from its own log.

    A reward whose spread within groups is more than `ratio` times another's drowns it; a reward without spread
    for `patience` steps teaches nothing; above `clipped` of the completions cut by the token limit, rewards
    judge answers that never ended, which is said from the second logged step on. A reward at its top is learned, and
    no spread is what one expects of it. The means are over the last `patience` steps.
    """

    ratio, clipped, learned = 10.0, 0.2, 0.95

    def __init__(self, patience: int = 20):
        self.patience = patience
        self._since = 0
        self._window: list[tuple[int, dict[str, float]]] = []
        self._said: set[tuple[str, ...]] = set()

    def on_train_begin(self, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        self._since = state.global_step

    def on_log(
        self, args: object, state: TrainerState, control: object, logs: dict | None = None, **kwargs: object
    ) -> None:
        if not logs or "completions/clipped_ratio" not in logs:  # not a line of training
            return
        numbers = {name: value for name, value in logs.items() if isinstance(value, int | float)}
        self._window.append((state.global_step, numbers))
        first = max(state.global_step - self.patience, self._since)
        self._window = [(step, line) for step, line in self._window if step > first]
        means = _means([line for _, line in self._window])
        found = self._clipped(means, state.global_step - first, args) if len(self._window) > 1 else []
        if state.global_step - self._since >= self.patience:
            found += self._findings(means, args)
        for key, message in found:
            if key not in self._said and state.is_world_process_zero:
                logger.warning(message)
            self._said.add(key)

    def _clipped(self, means: Mapping[str, float], steps: int, args: Any) -> list[tuple[tuple[str, ...], str]]:
        clipped = means.get("completions/clipped_ratio", 0.0)
        if clipped <= self.clipped:
            return []
        text = (
            f"{clipped:.0%} of the completions of the last {steps} steps were cut at "
            f"max_completion_length {args.max_completion_length}, before they ended, and judged as they were; "
            "raise it, ask for shorter answers, or set mask_truncated_completions: true"
        )
        return [(("clipped",), text)]

    def _findings(self, means: Mapping[str, float], args: Any) -> list[tuple[tuple[str, ...], str]]:
        spreads = {
            name.removeprefix("rewards/").removesuffix("/spread"): value
            for name, value in means.items()
            if name.startswith("rewards/") and name.endswith("/spread")
        }
        learning = [name for name in spreads if means.get(f"rewards/{name}/mean", 0.0) < self.learned]
        found = [self._constant(name, means) for name in learning if spreads[name] < 1e-9]
        return found + self._drowned(spreads, learning, means, getattr(args, "multi_objective_aggregation", ""))

    def _constant(self, name: str, means: Mapping[str, float]) -> tuple[tuple[str, ...], str]:
        text = (
            f"reward '{name}' gave all completions of a group the same value for {self.patience} steps (mean "
            f"{means.get(f'rewards/{name}/mean', math.nan):.3g}): it teaches nothing. "
            "Look at completions.jsonl for why nothing earns it"
        )
        return ("constant", name), text

    def _drowned(
        self, spreads: Mapping[str, float], learning: Sequence[str], means: Mapping[str, float], aggregation: str
    ) -> list[tuple[tuple[str, ...], str]]:
        moving = {name: spread for name, spread in spreads.items() if spread >= 1e-9}
        # one at its top has little spread because it is learned; but one on a scale of 500 has a high mean, too
        quiet = min(set(moving) & set(learning), key=moving.__getitem__, default=None)
        if quiet is None or aggregation == "normalize_then_sum":  # which brings every reward to one scale
            return []
        loud = max(moving, key=moving.__getitem__)
        if moving[loud] <= self.ratio * moving[quiet]:
            return []
        text = (
            f"reward '{loud}' spreads {moving[loud] / moving[quiet]:.0f} times as wide within a group as '{quiet}' "
            f"({moving[loud]:.2g} against {moving[quiet]:.2g}, weights included) and makes "
            f"{means.get(f'rewards/{loud}/share', math.nan):.0%} of the advantage; bring them closer by their "
            "weights, or set multi_objective_aggregation: normalize_then_sum (GDPO)"
        )
        return [(("drowned", loud, quiet), text)]


def _means(lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name for line in lines for name in line}
    values = {n: [line[n] for line in lines if n in line and not math.isnan(line[n])] for n in names}
    return {name: sum(found) / len(found) for name, found in values.items() if found}


def constant_groups(rewards: Tensor, weights: Sequence[float], normalize_first: bool = False) -> Tensor:
    """Whether each group's summed reward is the same for all of its completions: (groups,), bool.

    TRL 1.16 asks whether the standard deviation is 0, in float32: eight times 0.2 + 1.0 has a deviation of 1e-7, and
    counts as a group with signal. Here it is asked of the rewards.

    Args:
        rewards: `(groups, G, K)`, NaN where a reward abstains. A completion of which all K abstain is left out.
        weights: K of them.
        normalize_first: each reward is normalised within its group before the sum (`normalize_then_sum`).

    >>> constant_groups(torch.tensor([[[0.2, 1.0]] * 8, [[0.2, 1.0]] * 7 + [[0.3, 1.0]]]), [1.0, 1.0])
    tensor([ True, False])
    """
    judged = ~rewards.isnan().all(-1)  # (groups, G)
    terms = rewards.double()
    if normalize_first:
        terms = _normalized(terms)
    terms = terms * torch.tensor(list(weights), dtype=torch.double, device=rewards.device)
    return _is_constant(terms.nansum(-1), terms.abs().nansum(-1), judged)


def zero_constant_groups(trainer: "OmniGRPOTrainer", output: dict[str, Tensor], rewards: Tensor) -> None:
    """Count the groups without signal from all ranks' rewards, `(ranks*B*G, K)`, and set their advantages to 0.

    In `output`, which the step learns from, and in the log of completions. With a plain GRPOConfig, TRL 1.16's numbers
    stay: rounding gives such a group a deviation of 1e-7, and its completions advantages of .001.
    """
    sets_zero = trainer.settings.zero_constant_groups
    if sets_zero is None:
        return
    training = trainer.model.training
    size = cast(int, trainer.num_generations if training else trainer.num_generations_eval)
    is_constant = constant_groups(
        rewards.view(-1, size, rewards.shape[-1]),
        trainer.reward_weights.tolist(),
        normalize_first=trainer.multi_objective_aggregation == "normalize_then_sum",
    ).repeat_interleave(size)  # (ranks*B*G,)
    metrics = trainer._metrics["train" if training else "eval"]
    metrics["frac_reward_zero_std"][-1] = is_constant.float().mean().item()
    if sets_zero:
        set_to_zero(trainer, output, is_constant)


def set_to_zero(trainer: "OmniGRPOTrainer", output: dict[str, Tensor], chosen: Tensor) -> None:
    """Set the advantages of the chosen completions of all ranks, (ranks*B*G,), to 0, in `output` and in the log."""
    n = len(output["advantages"])
    own = chosen[trainer.accelerator.process_index * n :][:n]
    output["advantages"] = output["advantages"].masked_fill(own, 0.0)
    logged = trainer._logs["advantages"]
    for index in range(1, min(len(chosen), len(logged)) + 1):  # the batch's are the last ones
        if chosen[-index]:
            logged[-index] = 0.0


FIRST_STEPS = 10
"""Steps of which the average spread is a plain mean, and that leave no prompt out: RLPR's code filters from the
eleventh step on."""
DECAY = 0.99
"""Of the average afterwards, as in RLPR's code."""
Average: TypeAlias = dict[str, float]
"""`mean` of a reward's spread within groups over so many `steps`."""


class LowSpread:
    """Leaves out prompts on which a reward hardly differs, measured by its own past (RLPR, arXiv 2506.18254).

    A group is left out whose standard deviation of a reward is below a share of that reward's moving average: what
    is left there is the noise of a soft score. Its completions get advantages of 0, whatever other rewards say. With
    `dynamic_sampling: resample`, groups of other prompts take its place.

    Args:
        trainer: OmniGRPOTrainer.
        shares: of the average, by the name of the reward.
    """

    def __init__(self, trainer: "OmniGRPOTrainer", shares: Mapping[str, float]):
        self._trainer = trainer
        self._shares = shares
        self._seen: dict[str, list[float]] = {}
        """Spreads of the groups that were scored since the last step, by reward."""

    def groups(self, rewards: Tensor) -> Tensor:
        """Which groups of (ranks*B*G, K) rewards are left out, (groups,)."""
        low = torch.zeros(len(rewards) // (self._trainer.num_generations or 1), dtype=torch.bool)
        for name, spreads in self._spreads(rewards):
            average = self._averages.get(name)
            if average is not None and average["steps"] >= FIRST_STEPS:
                low |= spreads < self._shares[name] * average["mean"]  # NaN, where nothing is judged, is not below
        return low

    def note(self, rewards: Tensor) -> None:
        """Count the spreads of what was scored for the next step, also of groups that it will not learn from."""
        for name, spreads in self._spreads(rewards):
            self._seen.setdefault(name, []).extend(spreads[~spreads.isnan()].tolist())

    def apply(self, output: dict[str, Tensor], rewards: Tensor) -> None:
        """Set the advantages of a step's groups of low spread to 0, then move the averages on."""
        if not self._shares:
            return
        trainer = self._trainer
        if trainer.dynamic_sampling is None:  # which has noted each of its rollouts
            self.note(rewards)
        low = self.groups(rewards)
        trainer._metrics["train"]["reference_probability/left_out"].append(low.float().mean().item())
        size = trainer.num_generations or 1
        set_to_zero(trainer, output, low.repeat_interleave(size).to(output["advantages"].device))
        for name, spreads in self._seen.items():
            if spreads:
                self._averages[name] = moved(self._averages.get(name), sum(spreads) / len(spreads))
        self._seen = {}

    def _spreads(self, rewards: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Of each reward the standard deviation within groups, (groups,)."""
        trainer = self._trainer
        groups = rewards.cpu().view(-1, trainer.num_generations or 1, rewards.shape[-1])  # (groups, G, K)
        for column, name in enumerate(trainer.reward_func_names):
            if name in self._shares:
                yield name, _deviation(groups[..., column])

    @property
    def _averages(self) -> dict[str, Average]:
        """Kept in the trainer's state, which every checkpoint holds."""
        state: Any = self._trainer.state.stateful_callbacks
        return state.setdefault(type(self).__name__, {})


def moved(average: Average | None, spread: float) -> Average:
    """The average after one more step: a mean over the first steps, then exponential.

    >>> moved(moved(None, 0.25), 0.75)
    {'steps': 2, 'mean': 0.5}
    """
    steps, mean = (0, 0.0) if average is None else (int(average["steps"]), average["mean"])
    decay = steps / (steps + 1) if steps < FIRST_STEPS else DECAY
    return {"steps": steps + 1, "mean": decay * mean + (1 - decay) * spread}


def _deviation(values: Tensor) -> Tensor:
    """(groups,) of (groups, G), NaN left out; NaN where fewer than two are judged."""
    n = (~values.isnan()).sum(1)
    squares = (values - values.nanmean(1, keepdim=True)).square().nansum(1)
    return torch.where(n > 1, (squares / (n - 1).clamp(min=1)).sqrt(), torch.nan)


def _normalized(rewards: Tensor) -> Tensor:
    """(groups, G, K), each reward with mean 0 and deviation 1 within its group; 0 where it is constant there."""
    is_constant = _is_constant(rewards, rewards.abs(), ~rewards.isnan())  # (groups, K)
    centred = rewards - rewards.nanmean(1, keepdim=True)
    deviation = centred.square().nanmean(1, keepdim=True).sqrt()
    return torch.where(is_constant[:, None], 0.0 * centred, centred / deviation)


def _is_constant(values: Tensor, sizes: Tensor, counted: Tensor) -> Tensor:
    """Along dimension 1, of the values that are counted; true where none is. `sizes`: of the terms they are sums of."""
    infinity = torch.inf
    low = values.masked_fill(~counted, infinity).amin(1)
    high = values.masked_fill(~counted, -infinity).amax(1)
    return high - low <= NOISE * sizes.masked_fill(~counted, 0.0).amax(1)
