"""Whether batch sizes hold whole groups of completions, and the nearest sizes that do."""

import math
from dataclasses import dataclass


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
        steps_name = (
            "gradient_accumulation_steps" if self.steps_per_generation is None else "steps_per_generation"
        )
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
