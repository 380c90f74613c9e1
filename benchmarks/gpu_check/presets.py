"""What `benchmarks/gpu_check` measures: the policy, the cells of the step table, repeats and seconds of each part."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cell:
    """A prompt of exactly P tokens and completions of exactly C tokens."""

    kind: str
    """`image` or `text`."""
    prompt: int
    completion: int
    sides: tuple[int, ...] = ()
    """Width and height, in pixels, of each square image in the prompt."""

    @property
    def name(self) -> str:
        return f"{self.kind} P{self.prompt} C{self.completion}"

    @property
    def image_tokens(self) -> int:
        """Tokens that stand for images: Qwen2.5-VL makes one of 28 x 28 pixels."""
        return sum(round(side / 28) ** 2 for side in self.sides)

    def bound(self, group: int) -> float:
        """Tokens that the language model runs with one sample a completion, over those of a pack."""
        return group * (self.prompt + self.completion) / (self.prompt + group * self.completion)


@dataclass(frozen=True)
class Preset:
    """One size of the check."""

    name: str
    text: dict[str, Any]
    vision: dict[str, Any]
    vocabulary: int
    group: int
    repeats: int
    """Optimizer steps of each run."""
    cells: tuple[Cell, ...]
    """Of the step table."""
    tuning_cell: Cell
    """Of LoRA, QLoRA and the other ways to train."""
    gradient_cells: tuple[Cell, ...]
    demo_steps: int
    limits_s: dict[str, int] = field(default_factory=dict)
    """Seconds that a part may take."""


def _text(hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    half = hidden // heads // 2
    section = [half // 4, half * 3 // 8, half - half // 4 - half * 3 // 8]
    return dict(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, rope_parameters={"rope_type": "default", "mrope_section": section},
    )  # fmt: skip


FULL = Preset(
    name="3b",  # Qwen/Qwen2.5-VL-3B-Instruct, config.json
    text=_text(2048, 11_008, 36, 16, 2),
    vision=dict(
        depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=2048, window_size=112,
        fullatt_block_indexes=[7, 15, 23, 31],
    ),
    vocabulary=151_936,
    group=8,
    repeats=3,
    cells=tuple(
        Cell(kind, prompt, completion, sides if kind == "image" else ())
        # an image of 512 x 512 has 324 tokens: a prompt of 128 holds a smaller one, a prompt of 1024 two
        for prompt, sides in ((512, (512,)), (1024, (512, 512)), (128, (280,)))
        for completion in (32, 128)
        for kind in ("image", "text")
    ),
    tuning_cell=Cell("image", 512, 32, (512,)),
    gradient_cells=(Cell("text", 512, 64), Cell("image", 512, 64, (512,))),
    demo_steps=150,
    limits_s={
        "environment": 60, "attention": 60, "agreement": 90, "gradients": 100, "steps": 480,
        "tuning": 280, "anchor": 60, "colocate": 120, "demo": 150,
    },
)  # fmt: skip

TINY = Preset(
    name="tiny",
    text=_text(64, 96, 2, 4, 2),
    vision=dict(
        depth=2,
        hidden_size=32,
        intermediate_size=64,
        num_heads=2,
        out_hidden_size=64,
        window_size=112,
        fullatt_block_indexes=[1],
    ),
    vocabulary=1024,
    group=2,
    repeats=1,
    cells=(Cell("text", 16, 4), Cell("image", 16, 4, (84,))),
    tuning_cell=Cell("image", 16, 4, (84,)),
    gradient_cells=(Cell("image", 16, 4, (84,)),),
    demo_steps=1,
    limits_s=dict.fromkeys(FULL.limits_s, 240),
)

PRESETS = {preset.name: preset for preset in (FULL, TINY)}
