"""How many rows and tokens one device holds at once: what a run's settings make of prompts and groups."""

from dataclasses import dataclass

from omnirl_core.trainer import OmniGRPOConfig


@dataclass(frozen=True)
class Prompt:
    """The longest prompt of a run: all of its tokens, and how many of them stand for images.

    >>> Prompt.of_pixels(text_tokens=100, n_images=2, pixels=28 * 28 * 256).tokens
    612
    """

    tokens: int
    image_tokens: int = 0

    @classmethod
    def of_pixels(cls, text_tokens: int, n_images: int, pixels: int, token_side: int = 28) -> "Prompt":
        """Of images with so many pixels each as the model sees them (`max_pixels`)."""
        image_tokens = n_images * (pixels // token_side**2)
        return cls(text_tokens + image_tokens, image_tokens)


@dataclass(frozen=True)
class Workload:
    """B rows of C completion tokens on one device, and the prompts before them."""

    prompt: Prompt
    completion: int
    group: int
    rows: int
    """Of a micro-batch."""
    rollout_rows: int
    """That generate at once."""
    accumulates: bool
    """Whether gradients of an earlier micro-batch are there while the next one runs."""
    shared: bool
    """Whether the prompt of a group runs once."""

    @classmethod
    def of(cls, training: OmniGRPOConfig, prompt: Prompt, shared: bool) -> "Workload":
        rows = training.per_device_train_batch_size
        return cls(
            prompt=prompt,
            completion=int(training.max_completion_length or 256),
            group=training.num_generations or 1,
            rows=rows,
            rollout_rows=rows * int(training.steps_per_generation or training.gradient_accumulation_steps),
            accumulates=training.gradient_accumulation_steps > 1,
            shared=shared,
        )

    def prompts(self, rows: int) -> int:
        """Prompts that run for so many rows."""
        return -(-rows // self.group) if self.shared else rows

    @property
    def tokens(self) -> int:
        """Of the language model in one micro-batch."""
        return self.prompts(self.rows) * self.prompt.tokens + self.rows * self.completion

    @property
    def scored(self) -> int:
        """Positions that the head sees in one micro-batch; TRL's own path scores prompts too, masked."""
        return self.rows * (self.completion if self.shared else self.prompt.tokens + self.completion - 1)
