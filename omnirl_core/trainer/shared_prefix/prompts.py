"""The samples of a generation batch by the prompt that they share, as TRL is to see them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trl.data_utils import prepare_multimodal_messages

from omnirl_core.trainer.multimodal import images_of
from omnirl_core.trainer.shared_prefix.packing import Prompt, image_tensors

Sample = Mapping[str, Any]


@dataclass
class SharedBatch:
    """Samples of a rank, each distinct prompt with its images once.

    TRL 1.16 carries images in every sample: it copies, processes (twice), gathers and stores them G times. So it is
    shown `placeholder_samples`, and the images wait here until the model needs them.
    """

    samples: Sequence[Any]
    prompts: list[Any] = field(init=False)
    """Of each sample, with the images in their blocks, as TRL gives them to rewards."""
    prompt_of_sample: list[int] = field(init=False)
    """Numbers of the distinct prompts, in the order of their first samples."""
    encoded: list[Prompt] = field(default_factory=list)
    """The distinct prompts, once they are tokenized."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What the processor gave for them besides token ids."""

    def __post_init__(self) -> None:
        self.prompts = [_with_images(sample) for sample in self.samples]
        self.prompt_of_sample = []
        for i, prompt in enumerate(self.prompts):
            last = self.prompt_of_sample[-1] if i else -1
            is_same = i > 0 and _is_same(prompt, self.prompts[i - 1])
            self.prompt_of_sample.append(last if is_same else last + 1)

    @property
    def placeholder_samples(self) -> list[dict[str, Any]]:
        """The samples without images; in their prompts, blocks that say where images go."""
        return [
            {
                **{k: v for k, v in sample.items() if k not in ("image", "images")},
                "prompt": _placeholders(prompt),
            }
            for sample, prompt in zip(self.samples, self.prompts, strict=True)
        ]

    @property
    def distinct_prompts(self) -> list[Any]:
        return self.first_of_each(self.prompts)

    def first_of_each(self, values: Sequence[Any]) -> list[Any]:
        """Values of samples, of the first sample of each distinct prompt."""
        first = [self.prompt_of_sample.index(i) for i in range(self.prompt_of_sample[-1] + 1)]
        return [values[sample] for sample in first]

    def of_samples(self, values: Sequence[Any]) -> list[Any]:
        """Values of the distinct prompts, for every sample."""
        return [values[i] for i in self.prompt_of_sample]

    def sample_fields(self) -> dict[str, Any]:
        """`fields` as the processor would give them for all samples."""
        fields: dict[str, Any] = {**image_tensors(self.of_samples(self.encoded))}
        if self.fields.get("mm_token_type_ids") is not None:
            fields["mm_token_type_ids"] = self.of_samples(self.fields["mm_token_type_ids"])
        return fields


def _with_images(sample: Sample) -> Any:
    images = images_of(sample)
    return prepare_multimodal_messages(sample["prompt"], images=images) if images else sample["prompt"]


def _placeholders(prompt: Any) -> Any:
    if isinstance(prompt, str):
        return prompt
    return [
        {**message, "content": [_placeholder(block) for block in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in prompt
    ]


def _placeholder(block: Any) -> Any:
    return {"type": "image"} if isinstance(block, Mapping) and block.get("type") == "image" else block


def _is_same(prompt: Any, other: Any) -> bool:
    """Words and images: images opened once are one object, others are compared by every pixel."""
    try:
        return bool(prompt == other)
    except (ValueError, RuntimeError):  # arrays and tensors compare item by item
        return False
