"""Which model families train on which rows. `python scripts/model_families.py --write` renews docs/models.md.

A tiny random checkpoint of each family is built from its config, with its real processor; nothing is fetched. Each
trains two steps on text-only, one-image, several-image and mixed rows, and a row is held to the same log-probabilities
alone as between others. tests/trainer/test_families.py runs the same and holds the table to it.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers as hf
from datasets import Dataset
from PIL import Image
from transformers import PrinterCallback

from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from scripts import newer_families as newer
from scripts.family_parts import HEAD_DIM, PATCH, ROPE, TEXT, VISION, Built, idefics, qwen, tokenizer

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
START, END = "<!-- made by scripts/model_families.py -->", "<!-- end of scripts/model_families.py -->"


# --- tiny checkpoints ---


def qwen2_vl() -> Built:
    return qwen("Qwen2VL", dict(embed_dim=32, mlp_ratio=2))


def qwen2_5_vl() -> Built:
    sizes = dict(intermediate_size=64, out_hidden_size=32, window_size=4 * PATCH, fullatt_block_indexes=[1])
    return qwen("Qwen2_5_VL", sizes)


def qwen3_vl() -> Built:
    sizes = dict(
        depth=3, intermediate_size=64, out_hidden_size=32, num_position_embeddings=64, deepstack_visual_indexes=[0, 1]
    )
    rope = ROPE | {"mrope_interleaved": True}  # transformers always interleaves; vLLM asks the config
    more: dict[str, Any] = dict(rope_parameters=rope, head_dim=HEAD_DIM, num_hidden_layers=3)
    return qwen("Qwen3VL", sizes, videos="Qwen3", **more)


def internvl(**text: Any) -> Built:
    """`text` is what its language model has besides the common sizes: Qwen2 unless it says so."""
    tokens = tokenizer(
        "<IMG_CONTEXT>", context_image_token="<IMG_CONTEXT>", start_image_token="<img>", end_image_token="</img>",
        video_token="<video>",
    )  # fmt: skip
    size = {"height": 32, "width": 32}
    images = hf.GotOcr2ImageProcessor(size=size, crop_to_patches=True, min_patches=1, max_patches=3)
    videos = hf.InternVLVideoProcessor(size=size)
    processor = hf.InternVLProcessor(images, tokens, videos, image_seq_length=4, chat_template=tokens.chat_template)
    config = hf.InternVLConfig(
        text_config=TEXT | {"model_type": "qwen2", "vocab_size": len(tokens)} | text,
        vision_config=VISION | {"image_size": [32, 32], "patch_size": [PATCH, PATCH]},
        image_token_id=tokens.context_image_token_id, image_seq_length=4, downsample_ratio=0.5,
    )  # fmt: skip
    return processor, hf.InternVLForConditionalGeneration(config)


def gemma3() -> Built:
    tokens = tokenizer(
        "<start_of_image>", boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>"
    )  # fmt: skip
    images = hf.Gemma3ImageProcessor(size={"height": 32, "width": 32})
    processor = hf.Gemma3Processor(images, tokens, image_seq_length=4, chat_template=tokens.chat_template)
    layers = ["sliding_attention", "full_attention"] * (TEXT["num_hidden_layers"] // 2)
    text = dict(
        vocab_size=len(tokens), head_dim=HEAD_DIM, query_pre_attn_scalar=8, sliding_window=16, layer_types=layers
    )
    config = hf.Gemma3Config(
        text_config=TEXT | text, vision_config=VISION | {"image_size": 32, "patch_size": PATCH},
        mm_tokens_per_image=4, boi_token_index=tokens.boi_token_id, eoi_token_index=tokens.eoi_token_id,
        image_token_index=tokens.image_token_id,
    )  # fmt: skip
    return processor, hf.Gemma3ForConditionalGeneration(config)


def smolvlm() -> Built:
    tokens = tokenizer(
        "<image>", image_token="<image>", fake_image_token="<fake_token_around_image>", video_token="<video>",
        global_image_token="<global-img>", end_of_utterance_token="<end_of_utterance>",
    )  # fmt: skip
    size = dict(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    images, videos = hf.SmolVLMImageProcessor(**size), hf.SmolVLMVideoProcessor(**size)
    processor = hf.SmolVLMProcessor(images, tokens, videos, image_seq_len=4, chat_template=tokens.chat_template)
    return processor, idefics("SmolVLM", tokens)


def llava_next() -> Built:
    tokens = tokenizer("<image>", image_token="<image>")
    grids = [[32, 64], [64, 32], [64, 64]]
    images = hf.LlavaNextImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=grids
    )
    processor = hf.LlavaNextProcessor(
        images, tokens, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=tokens.chat_template,
    )  # fmt: skip
    vision = dict(model_type="clip_vision_model", image_size=32, patch_size=PATCH, projection_dim=32, vocab_size=32)
    config = hf.LlavaNextConfig(
        text_config=TEXT | {"model_type": "llama", "vocab_size": len(tokens)}, vision_config=VISION | vision,
        image_token_index=tokens.image_token_id, image_grid_pinpoints=grids, tie_word_embeddings=True,
    )  # fmt: skip
    return processor, hf.LlavaNextForConditionalGeneration(config)


def text_only(config: Any, model: Any) -> Callable[[], Built]:
    def build() -> Built:
        tokens = tokenizer()
        return tokens, model(config(vocab_size=len(tokens), **TEXT))

    return build


FAMILIES: dict[str, Callable[[], Built]] = {
    "Qwen2-VL": qwen2_vl,
    "Qwen2.5-VL": qwen2_5_vl,
    "Qwen3-VL": qwen3_vl,
    "Qwen3-VL-MoE": newer.qwen3_vl_moe,
    "Qwen3.5": newer.qwen3_5,
    "InternVL": internvl,
    "InternVL3.5": lambda: internvl(model_type="qwen3", head_dim=HEAD_DIM),
    "Gemma 3": gemma3,
    "Gemma 4": newer.gemma4,
    "GLM-4.1V": newer.glm4v,
    "Mistral 3": newer.mistral3,
    "LFM2-VL": newer.lfm2_vl,
    "SmolVLM": smolvlm,
    "Idefics3": newer.idefics3,
    "LLaVA-NeXT": llava_next,
    "LLaVA-OneVision": newer.llava_onevision,
    "Qwen2 (text-only)": text_only(hf.Qwen2Config, hf.Qwen2ForCausalLM),
    "Llama (text-only)": text_only(hf.LlamaConfig, hf.LlamaForCausalLM),
}


def write_checkpoint(family: str, folder: Path) -> str:
    """Its random weights are large enough for images and positions to move the log-probabilities."""
    torch.manual_seed(0)
    processor, model = FAMILIES[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.25)
    tokens = getattr(processor, "tokenizer", processor)
    model.generation_config.eos_token_id = tokens.eos_token_id
    model.generation_config.pad_token_id = tokens.pad_token_id
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


# --- what is run ---


def row(text: str, images: list[str], row_id: str) -> dict[str, Any]:
    blocks = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
    return {"prompt": [{"role": "user", "content": blocks}], "images": images, "row_id": row_id}


def rows_by_kind(folder: Path, sees: bool) -> dict[str, list[dict[str, Any]]]:
    """Rows of each kind over noise images of four sizes; text-only models get the text-only ones."""
    random, paths = np.random.default_rng(0), []
    for number, (width, height) in enumerate([(32, 32), (48, 32), (32, 64), (100, 60)]):
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(paths[-1])
    text = [row("Say a word.", [], "a"), row("Say another, much longer word.", [], "b")]
    image = [row("What is it?", paths[:1], "c"), row("Which one?", paths[3:], "d")]
    several = [row("Compare them.", paths[1:4], "e"), row("Which is larger?", paths[2:4], "f")]
    mixed = [text[0], several[0], image[0], text[1]]
    kinds = {"text-only": text, "one image": image, "several images": several, "mixed": mixed}
    return kinds if sees else {"text-only": text}


def letters(completions: list[Any], **columns: Any) -> list[float]:
    """A reward that differs between random completions."""
    return [sum(completion[0]["content"].encode()) % 97 / 97 for completion in completions]


def make_trainer(
    checkpoint: str, rows: list[dict[str, Any]], output: str, has_images: bool = True, **settings: Any
) -> OmniGRPOTrainer:
    """`has_images`: whether the run has to reckon with samples that have some, as most do."""
    defaults: dict[str, Any] = dict(
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True, beta=0.1,
        save_strategy="no", logging_steps=1, max_steps=2, seed=1, num_generations=2, learning_rate=1e-3,
        per_device_train_batch_size=2, gradient_accumulation_steps=len(rows), max_completion_length=6,
    )  # fmt: skip
    names = list(rows[0])

    def transform(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        return {name: [rows[i][name] for i in batch["place"]] for name in names}

    vars(transform)["has_images"] = has_images
    data = Dataset.from_dict({"place": list(range(len(rows)))}).with_transform(transform)
    trainer = OmniGRPOTrainer(checkpoint, letters, OmniGRPOConfig(output, **{**defaults, **settings}), data)
    trainer.remove_callback(PrinterCallback)
    return trainer


@dataclass(frozen=True)
class Outcome:
    """What became of a family: `trained` names the kinds of rows, `difference` is of log-probabilities."""

    family: str
    trained: tuple[str, ...]
    moved: tuple[str, ...]
    """The kinds whose two steps changed the language model, and the vision tower where there are images."""
    difference: float
    """The largest, of a row's log-probabilities alone and in a mixed batch."""
    other_image: float
    """The smallest difference that another image makes to a row: that the comparison would see it."""
    shares_prefix: bool
    refused: tuple[str, ...] = ()
    """The kinds that the trainer refuses, with a reason, before it trains."""

    @property
    def line(self) -> str:
        sees = len(self.trained) > 1
        kinds = ["yes" if kind in self.moved else "refused" if kind in self.refused else "-" for kind in KINDS]
        alone = "yes" if self.difference <= 1e-4 < self.other_image / 10 else f"differs by {self.difference:.1g}"
        cells = [self.family, *kinds, alone if sees else "-", "shared" if self.shares_prefix else "plain"]
        return f"| {' | '.join(cells)} |"


KINDS = ("text-only", "one image", "several images", "mixed")
HEAD = ["family", *KINDS, "a sample alone = in a mixed batch", "prefix of a group"]


def train_family(family: str, folder: Path, only: str | None = None) -> Outcome:
    """Train on each kind of rows, or on one of them, one prompt a micro-batch; `difference` is left at 0."""
    checkpoint = write_checkpoint(family, folder / "checkpoint")
    kinds = rows_by_kind(folder, sees="text-only" not in family)
    moved, refused, shares = [], [], False
    for kind, rows in kinds.items():
        if only not in (None, kind):
            continue
        try:
            trainer = make_trainer(checkpoint, rows, str(folder / "run"))
        except ValueError as error:
            if "TRL does not hand to the model" not in str(error):
                raise
            if kind != "text-only":
                refused.append(kind)
                continue
            trainer = make_trainer(checkpoint, rows, str(folder / "run"), has_images=False)
        before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
        trainer.train()
        shares = trainer.shared_prefix is not None
        changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
        sees_them = kind == "text-only" or any("vision" in name or "visual" in name for name in changed)
        if sees_them and any("layers" in name for name in changed) and trainer.state.global_step == 2:
            moved.append(kind)
    trained = tuple(kind for kind in kinds if kind not in refused and only in (None, kind))
    return Outcome(family, trained, tuple(moved), 0.0, 0.0, shares, tuple(refused))


def run_family(family: str, folder: Path) -> Outcome:
    """Train on each kind of rows, and compare rows alone with rows among others."""
    outcome = train_family(family, folder)
    if outcome.refused:
        return outcome
    checkpoint, run = str(folder / "checkpoint"), str(folder / "run")
    kinds = rows_by_kind(folder, sees=len(outcome.trained) > 1)
    mixed = kinds.get("mixed", kinds["text-only"])
    together = log_probs(checkpoint, mixed, run)
    alone = [log_probs(checkpoint, [one], run)[0] for one in mixed]
    difference = max((a - b).abs().max().item() for a, b in zip(together, alone, strict=True))
    others = [log_probs(checkpoint, [with_other_image(one)], run)[0] for one in mixed if one["images"]]
    seen = [values for one, values in zip(mixed, alone, strict=True) if one["images"]]
    moves = [(a - b).abs().max().item() for a, b in zip(seen, others, strict=True)]
    return replace(outcome, difference=difference, other_image=min(moves, default=0.0))


def with_other_image(one: dict[str, Any]) -> dict[str, Any]:
    """The same sizes, so that only pixels differ."""
    changed = []
    for path in one["images"]:
        changed.append(path.replace(".png", "_other.png"))
        Image.eval(Image.open(path), lambda value: 255 - value).save(changed[-1])
    return {**one, "images": changed}


@torch.no_grad()
def log_probs(checkpoint: str, rows: list[dict[str, Any]], output: str) -> list[torch.Tensor]:
    """Of the same six tokens after each row's prompt, by TRL's plain pass over all rows at once, (C,) a row."""
    settings = dict(shared_prefix="off", per_device_train_batch_size=2 * len(rows), gradient_accumulation_steps=1)
    trainer = make_trainer(checkpoint, rows, output, **settings)
    eos = trainer._tokenizer.eos_token_id
    trainer._generate_single_turn = lambda prompt_ids, *_, **__: (
        [[7, 8, 9, 10, 11, eos]] * len(prompt_ids),
        None,
    )
    inputs = trainer._generate_and_score_completions([one for one in rows for _ in range(2)])
    trainer.model.eval()
    fields = {name: value for name, value in inputs.items() if name in PASSED}
    values, _, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
        torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
        inputs["completion_ids"].shape[1],
        **fields,
    )
    return list(values[::2])


PASSED = (
    "pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "image_sizes", "token_type_ids",
    "mm_token_type_ids", "num_tiles", "spatial_shapes", "image_position_ids",
)  # fmt: skip
"""What TRL 1.16 buffers of images and hands to its log-probability pass."""


# --- the page ---


def table(outcomes: list[Outcome]) -> str:
    head = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    return "\n".join([START, *head, *(outcome.line for outcome in outcomes), END])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--write", action="store_true", help="renew the table in docs/models.md")
    arguments = parser.parse_args(argv)
    outcomes = []
    for family in arguments.families:
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(run_family(family, Path(folder)))
        print(outcomes[-1], file=sys.stderr, flush=True)
    print(table(outcomes))
    if arguments.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
        PAGE.write_text(before + table(outcomes) + rest.partition(END)[2], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
