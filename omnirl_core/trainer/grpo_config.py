"""Settings of a GRPO run: TRL's, what a run over images needs besides, and which batch sizes hold whole groups."""

import math
import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel
from trl import GRPOConfig
from trl.trainer.utils import get_config_model_id

from omnirl_core.types import setting

_TRL: dict[str, Any] = GRPOConfig.__dataclass_fields__


class _Unset(int):
    """TRL's default, told apart from the same number given by a user."""


@dataclass
class OmniGRPOConfig(GRPOConfig):
    """TRL's GRPOConfig with pixel budgets, a prompt-length policy and a frozen vision tower.

    All faults are reported at once, before a model is loaded.

    >>> OmniGRPOConfig("runs/demo", use_cpu=True, bf16=False, max_output_token_length=64).max_completion_length
    64
    """

    max_completion_length: int | None = field(
        default=_Unset(_TRL["max_completion_length"].default), metadata=dict(_TRL["max_completion_length"].metadata)
    )
    max_output_token_length: int | None = setting(
        None, "The earlier OmniRL's name of `max_completion_length`; give one of the two."
    )
    min_pixels: int | None = setting(
        None, "Least width times height of an image as the model sees it; smaller ones are enlarged."
    )
    max_pixels: int | None = setting(
        None,
        "Most width times height of an image as the model sees it; larger ones are shrunk. Image tokens of a prompt, "
        "and so time and memory, are in proportion to it.",
    )
    freeze_vision_tower: bool = setting(
        False, "Train the language model only; a LoRA adapter then leaves the vision tower out by name."
    )
    max_prompt_length: int | None = setting(
        None, "Most tokens of a prompt, image tokens included. A prompt is never cut: see on_long_prompt."
    )
    on_long_prompt: str = setting(
        "error",
        "`error` refuses a data set with longer prompts and names the samples; `drop` leaves them out and says how "
        "many.",
        ["error", "drop"],
    )
    balance: str | None = setting(
        None,
        "`gdpo` normalises each reward within its group before they are summed, so that no scale drowns another: TRL's "
        "`multi_objective_aggregation: normalize_then_sum` (arXiv 2601.05242).",
        ["gdpo"],
    )
    zero_constant_groups: bool = setting(
        True,
        "Advantages are exactly 0 in a group whose completions all earned the same. `false` is TRL's: rounding may "
        "leave ±.001 there.",
    )
    skip_zero_advantages: bool = setting(
        True,
        "Completions whose advantage is 0 are left out of a step's forward and backward pass, where that leaves the "
        "gradient as it is; the logged entropy is then over the others. Off with a KL term (`beta`), an entropy bonus, "
        "`top_entropy_quantile`, a router loss and torch_compile, which need all of them.",
    )
    dynamic_sampling: str = setting(
        "off",
        "`resample` replaces groups whose completions all earned the same by groups of other prompts before a step "
        "learns from the batch (DAPO, arXiv 2503.14476, section 3.2); the estimate is then over prompts that the "
        "policy both solves and misses. `predict` replaces prompts before the rollout, by how often in a row they had "
        "no signal (GRESO, arXiv 2506.02177), and never adds a rollout.",
        ["off", "predict", "resample"],
    )
    max_resample_rounds: int = setting(
        4, "Most further rollouts of a generation batch with `dynamic_sampling: resample`."
    )
    shared_prefix: str = setting(
        "auto",
        "`auto` runs the prompt and images of a group once, not once a completion, wherever the model family is "
        "verified, and says which path runs; `on` refuses a run that cannot; `off` never does.",
        ["auto", "on", "off"],
    )
    verify_shared_prefix: bool = setting(
        False, "Check the first log-probabilities of a run with shared prefixes against TRL's own pass."
    )
    on_reward_error: str = setting(
        "stop",
        "What happens where a reward function raises, gives NaN or the wrong number of values, or takes longer than "
        "its timeout_s: `stop` ends the run and names function, sample and value; `abstain` scores None there, counts "
        "it, and goes on.",
        ["stop", "abstain"],
    )
    reward_timeout_s: float | None = setting(
        None,
        "Most seconds of one call of a reward function on a batch, for functions without a `timeout_s` of their own.",
    )
    on_nonfinite: str = setting(
        "stop",
        "What happens where a loss, a gradient norm or a log-probability is NaN or infinite: `stop` ends the run "
        "before the weights see it; `skip` leaves the step out and counts it.",
        ["stop", "skip"],
    )
    max_nonfinite_steps: int = setting(
        10, "Most steps in a row that `on_nonfinite: skip` leaves out before the run stops."
    )
    log_file_limit_mb: float = setting(
        1000.0,
        "Size at which metrics.jsonl or completions.jsonl is begun anew; the part before is kept as "
        "completions.1.jsonl, older ones are not.",
    )
    stall_timeout_s: float | None = setting(
        None,
        "Most seconds between two stages of a step (rollout, each reward, each micro-batch, saving) on any rank; "
        "beyond it the rank says what it was doing, for which samples, and ends the job. By default `ddp_timeout` in "
        "jobs of several ranks, no limit for a single process.",
    )

    def __post_init__(self) -> None:
        for name in ("shared_prefix", "dynamic_sampling"):
            if isinstance(value := getattr(self, name), bool):  # what YAML makes of a bare on or off
                setattr(self, name, "on" if value else "off")
        faults = [*self._length_faults(), *self._number_faults(), *self._choice_faults()]
        if self.balance == "gdpo":
            self.multi_objective_aggregation = "normalize_then_sum"
        if self.activation_checkpointing is None:
            # TRL 1.16 sets the name that transformers 5.23 has deprecated, and every run would warn of it
            self.activation_checkpointing = self.gradient_checkpointing
        batches = self._batches()  # before TRL fills in what was not given
        try:
            super().__post_init__()
        except ValueError as error:  # the first of TRL's own checks that fails
            ours = self._batch_faults(batches)
            theirs = str(error).rstrip(".")
            faults += [*([] if any(fault.startswith(theirs) for fault in ours) else [str(error)]), *ours]
        if faults:
            raise ValueError("\n".join(faults))

    def _batches(self) -> "BatchSizes":
        # as every launcher sets it; TRL's own property starts torch.distributed
        num_processes = int(os.environ.get("WORLD_SIZE", "1"))
        return BatchSizes(
            self.per_device_train_batch_size,
            num_processes,
            self.num_generations or 1,
            self.gradient_accumulation_steps,
            self.steps_per_generation,
            self.generation_batch_size,
        )

    def _batch_faults(self, batches: "BatchSizes") -> list[str]:
        """TRL 1.16 names what does not divide; these name what would."""
        faults = batches.faults()
        if self.do_eval and self.eval_strategy != "no":
            generations = self.num_generations_eval or self.num_generations or 1
            faults += evaluation_faults(self.per_device_eval_batch_size, batches.num_processes, generations)
        return faults

    def _length_faults(self) -> list[str]:
        given, alias = self.max_completion_length, self.max_output_token_length
        is_unset = isinstance(given, _Unset)
        self.max_completion_length = int(given) if is_unset else given  # type: ignore[arg-type]
        # one truth from here on, so that copies of the config stay consistent
        self.max_output_token_length = None
        if alias is None:
            return []
        if not is_unset and given != alias:
            return [
                f"max_output_token_length {alias} and max_completion_length {given} are two names of one setting; "
                "give one of them"
            ]
        self.max_completion_length = alias
        return _not_positive("max_output_token_length", alias)

    def _number_faults(self) -> list[str]:
        low, high = self.min_pixels, self.max_pixels
        faults = [*_not_positive("min_pixels", low), *_not_positive("max_pixels", high)]
        if not faults and low is not None and high is not None and low > high:
            faults.append(f"min_pixels {low:,} is above max_pixels {high:,}")
        for name in ("max_prompt_length", "max_nonfinite_steps", "max_resample_rounds"):
            faults += _not_positive(name, getattr(self, name))
        for name in ("reward_timeout_s", "stall_timeout_s", "log_file_limit_mb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                faults.append(f"{name} {value!r} is not a number above 0")
        return faults

    def _choice_faults(self) -> list[str]:
        faults = []
        for name in ("on_long_prompt", "dynamic_sampling", "shared_prefix", "on_reward_error", "on_nonfinite"):
            value, choices = getattr(self, name), self.__dataclass_fields__[name].metadata["choices"]
            if value not in choices:
                *first, last = map(repr, choices)
                faults.append(f"{name} {value!r} is neither {', '.join(first)} nor {last}")
        if self.balance not in (None, "gdpo"):
            faults.append(f"balance {self.balance!r} is not 'gdpo'; leave it out for a plain weighted sum")
        return faults


OFF: Any = SimpleNamespace(
    min_pixels=None,
    max_pixels=None,
    freeze_vision_tower=False,
    max_prompt_length=None,
    on_long_prompt="error",
    zero_constant_groups=None,
    skip_zero_advantages=False,
    dynamic_sampling="off",
    shared_prefix="off",
    verify_shared_prefix=False,
    on_reward_error=None,
    reward_timeout_s=None,
    on_nonfinite=None,
    log_file_limit_mb=math.inf,
)
"""What OmniGRPOConfig adds, switched off: a trainer is then TRL's."""


def settings_of(args: GRPOConfig) -> OmniGRPOConfig:
    """`args`; a plain GRPOConfig is taken as an OmniGRPOConfig with everything off."""
    return args if isinstance(args, OmniGRPOConfig) else OFF


def default_config(model: str | PreTrainedModel | PeftModel) -> GRPOConfig:
    """What TRL 1.16 makes where no `args` are given."""
    name = model if isinstance(model, str) else get_config_model_id(model.config)
    return GRPOConfig(f"{name.split('/')[-1]}-GRPO")


def _not_positive(name: str, value: Any) -> list[str]:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return []
    return [f"{name} {value!r} is not a whole number above 0"]


@dataclass(frozen=True)
class BatchSizes:
    """The settings from which TRL 1.16 makes its generation batch, and the number of processes.

    A generation batch is `per_device_train_batch_size * num_processes * steps` completions; it must hold whole
    groups of `num_generations`, each of one prompt.
    """

    per_device: int
    num_processes: int
    num_generations: int
    gradient_accumulation_steps: int = 1
    steps_per_generation: int | None = None
    generation_batch_size: int | None = None

    def faults(self) -> list[str]:
        """What TRL would refuse, in its words, and what fits instead; [] where all fits.

        >>> BatchSizes(per_device=6, num_processes=1, num_generations=8).faults()[0].split("; ", 1)[1]
        'the nearest that fit: per_device_train_batch_size 8; or gradient_accumulation_steps 4; or num_generations 6'
        """
        if min(self.per_device, self.gradient_accumulation_steps) < 1 or self.num_generations < 2:
            return []  # told by TRL, or by the settings themselves
        if self.generation_batch_size is not None and self.steps_per_generation is not None:
            return []  # TRL says that only one of the two can be given
        if self.generation_batch_size is not None:
            return self._generation_batch_faults(self.generation_batch_size)
        return self._group_faults()

    def _generation_batch_faults(self, size: int) -> list[str]:
        step = self.per_device * self.num_processes
        sizes = nearest_multiples(size, math.lcm(step, self.num_generations))
        fix = f"the nearest that fit: generation_batch_size {either(sizes)}"
        if size % step:
            return [
                f"generation_batch_size ({size}) must be divisible by the global batch size ({step}) = "
                f"per_device_train_batch_size {self.per_device} x {self._processes}; {fix}"
            ]
        if size % self.num_generations:
            groups = f"generation_batch_size ({size}) must be divisible by num_generations ({self.num_generations})"
            return [f"{groups}; {fix}{self._or_generations(size)}"]
        return []

    def _group_faults(self) -> list[str]:
        steps_name = "gradient_accumulation_steps" if self.steps_per_generation is None else "steps_per_generation"
        steps = self.steps_per_generation or self.gradient_accumulation_steps
        size = self.per_device * self.num_processes * steps
        if size % self.num_generations == 0:
            return []
        per_device = nearest_multiples(self.per_device, self._least_factor(self.num_processes * steps))
        fitting_steps = nearest_multiples(steps, self._least_factor(self.per_device * self.num_processes))
        return [
            f"generation_batch_size ({size}) must be divisible by num_generations ({self.num_generations}). It is "
            f"per_device_train_batch_size {self.per_device} x {self._processes} x {steps_name} {steps}; the nearest "
            f"that fit: per_device_train_batch_size {either(per_device)}; or {steps_name} {either(fitting_steps)}"
            f"{self._or_generations(size)}"
        ]

    def _least_factor(self, others: int) -> int:
        """What the remaining factor must be a multiple of, the others given."""
        return self.num_generations // math.gcd(self.num_generations, others)

    def _or_generations(self, size: int) -> str:
        fitting = nearest_divisors(size, self.num_generations)
        return f"; or num_generations {either(fitting)}" if fitting else ""

    @property
    def _processes(self) -> str:
        return f"{self.num_processes} process{'es' * (self.num_processes != 1)}"


def evaluation_faults(per_device: int, num_processes: int, num_generations: int) -> list[str]:
    """As `BatchSizes.faults`, for TRL's own evaluation during training."""
    size = per_device * num_processes
    if per_device < 1 or num_generations < 1 or size % num_generations == 0:
        return []
    factor = num_generations // math.gcd(num_generations, num_processes)
    return [
        f"The global eval batch size ({per_device} * {num_processes}) must be divisible by the number of generations "
        f"used for evaluation ({num_generations}); the nearest that fit: per_device_eval_batch_size "
        f"{either(nearest_multiples(per_device, factor))}; or num_generations_eval "
        f"{either(nearest_divisors(size, num_generations, least=1))}"
    ]


def nearest_multiples(value: int, factor: int) -> list[int]:
    """The multiples of `factor` just below and just above.

    >>> nearest_multiples(6, 4), nearest_multiples(3, 4)
    ([4, 8], [4])
    """
    below = value // factor * factor
    return [size for size in (below, below + factor) if size > 0]


def nearest_divisors(size: int, value: int, least: int = 2) -> list[int]:
    """The divisors of `size`, from `least` on, just below and just above.

    >>> nearest_divisors(12, 5), nearest_divisors(7, 3)
    ([4, 6], [7])
    """
    divisors = [number for number in range(least, size + 1) if size % number == 0]
    below = [number for number in divisors if number < value]
    above = [number for number in divisors if number > value]
    return below[-1:] + above[:1]


def either(numbers: list[int]) -> str:
    """As a sentence has them: `4 or 8`."""
    return " or ".join(map(str, numbers))
