"""Packs of families whose images are laid out in other ways than Qwen's, and the rows that their processors make."""

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig
from trl.trainer.utils import add_fused_lm_head

from omnirl_core.models import unpadded, vision_tower
from omnirl_core.trainer.multimodal import counted_by_sample
from omnirl_core.trainer.shared_prefix.packing import Prompt, encode_prompts, pack, packed_log_probs
from omnirl_core.trainer.shared_prefix.rollout import shared_prefill
from omnirl_core.trainer.shared_prefix.runtime import SharedBatch, plain_fields
from omnirl_core.trainer.shared_prefix.support import VERIFIED_CLASSES, family_obstacle
from scripts import model_families

FAMILIES = {
    "Qwen3-VL-MoE": "qwen3_vl_moe",
    "GLM-4.1V": "glm4v",
    "InternVL": "internvl",
    "InternVL3.5": "internvl",
    "LLaVA-NeXT": "llava_next",
    "Mistral 3": "mistral3",
    "Idefics3": "idefics3",
    "SmolVLM": "smolvlm",
    "Gemma 3": "gemma3",
}
WINDOWED = ("Gemma 3",)
"""Their rollout is plain; see tests/trainer/shared_prefix/test_support.py."""
SIZES = [(), ((32, 32),), ((32, 64), (100, 60)), ((64, 32),), ()]
"""Width and height of each image of five prompts."""
TEXTS = ["Say a word.", "What?", "Compare the two of them.", "Is it tall or wide?", "A longer line, and no image."]
CASES = {
    "groups of every kind, ragged": ([2, 2, 2, 1, 1, 0, 3, 3, 4], [7, 1, 4, 9, 2, 6, 1, 1, 3]),
    "text only": ([0, 0, 4, 4], [4, 26, 2, 8]),
    "one group, out of order": ([2, 1, 2, 0, 1], [3, 24, 5, 0, 2]),
}


class Family:
    """A policy of random weights so large that positions and pixels move the log-probabilities, and its processor."""

    def __init__(self, name: str, seed: int = 0):
        torch.manual_seed(seed)
        self.processor, self.model = model_families.FAMILIES[name]()
        with torch.no_grad():
            for key, parameter in self.model.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.3 if "embed" in key else 0.2)
        add_fused_lm_head(self.model, temperature=0.9, outputs=("log_probs", "entropy"))
        self.model.eval()
        random = torch.Generator().manual_seed(7)
        self.images = [
            [Image.fromarray(torch.randint(0, 256, (h, w, 3), generator=random).byte().numpy()) for w, h in sizes]
            for sizes in SIZES
        ]

    def turns(self, numbers: list[int]) -> list[Any]:
        return [
            [{"role": "user", "content": [*({"type": "image", "image": image} for image in self.images[i]),
                                          {"type": "text", "text": TEXTS[i]}]}]
            for i in numbers
        ]  # fmt: skip

    def tokenized(self, numbers: list[int]) -> tuple[list[list[int]], dict[str, Any]]:
        """Token ids and what comes with them, as the trainer asks for them."""
        with unpadded(self.processor):
            found = self.processor.apply_chat_template(
                self.turns(numbers), tokenize=True, return_dict=True, add_generation_prompt=True
            )
        return found["input_ids"], {k: v for k, v in found.items() if k not in ("input_ids", "attention_mask")}

    def prompts(self) -> list[Prompt]:
        ids, fields = self.tokenized(list(range(len(TEXTS))))
        return encode_prompts(self.model.base_model, ids, fields, [len(own) for own in self.images])

    def rows(self, numbers: list[int]) -> dict[str, Tensor]:
        """One padded row a sample, as TRL has the processor make them."""
        text = self.processor.apply_chat_template(self.turns(numbers), tokenize=False, add_generation_prompt=True)
        images = [self.images[i] for i in numbers]
        self.processor.tokenizer.padding_side = "left"
        return dict(
            self.processor(text=text, images=images if any(images) else None, padding=True, return_tensors="pt")
        )


BUILT: dict[str, Family] = {}


@pytest.fixture(params=FAMILIES)
def family(request) -> Family:
    if request.param not in BUILT:
        BUILT[request.param] = Family(request.param)
    return BUILT[request.param]


def completions(lengths: list[int]) -> tuple[Tensor, Tensor]:
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(40, 80, mask.shape, generator=torch.Generator().manual_seed(1))
    return ids.masked_fill(mask == 0, 0), mask


def plain(family: Family, numbers: list[int], ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    fields = family.rows(numbers)
    input_ids = torch.cat([fields.pop("input_ids"), ids], 1)
    attention_mask = torch.cat([fields.pop("attention_mask"), mask], 1)
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in fields:
            fields[name] = torch.cat([fields[name], torch.zeros_like(ids)], 1)
    labels = input_ids.masked_fill(attention_mask == 0, -100)
    labels[:, : -ids.shape[1]] = -100
    output = family.model(
        input_ids=input_ids, attention_mask=attention_mask, labels=labels, fused_lm_head=True, **fields
    )
    return output.log_probs[:, -ids.shape[1] :], output.entropy[:, -ids.shape[1] :]


def packed(family: Family, numbers: list[int], ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    distinct = family.prompts()
    return packed_log_probs(family.model, family.model.base_model, pack([distinct[i] for i in numbers], ids, mask))


def gradient(model: Any, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in model.parameters()])


def test_every_verified_family_is_held_here_or_beside():
    from test_packing import FAMILIES as BESIDE

    assert set(VERIFIED_CLASSES) == {*FAMILIES.values(), *(name.partition(",")[0] for name in BESIDE)}


def test_the_family_is_verified(family):
    assert family_obstacle(family.model) is None


@pytest.mark.parametrize("name", CASES)
def test_log_probabilities_and_gradients_of_a_pack(family, name):
    numbers, lengths = CASES[name]
    ids, mask = completions(lengths)
    (expected, expected_entropy), (found, entropy) = (of(family, numbers, ids, mask) for of in (plain, packed))
    assert (found - expected).abs().max() <= 1e-5
    assert (entropy - expected_entropy).abs().max() <= 1e-5
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    moves = gradient(family.model, (expected * weights + 0.1 * expected_entropy).sum())
    found_moves = gradient(family.model, (found * weights + 0.1 * entropy).sum())
    assert (found_moves - moves).norm() <= 1e-5 * moves.norm()
    assert moves.norm() > 1


def test_the_comparison_would_see_another_image(family):
    numbers, lengths = CASES["groups of every kind, ragged"]
    ids, mask = completions(lengths)
    right, _ = packed(family, numbers, ids, mask)
    kept, family.images = family.images, [[image.rotate(180) for image in own] for own in family.images]
    wrong, _ = packed(family, numbers, ids, mask)
    family.images = kept
    seen = torch.tensor([bool(SIZES[i]) for i in numbers])
    assert (wrong - right)[seen].abs().amax(1).min() > 1e-3
    assert torch.equal(wrong[~seen], right[~seen])


def test_the_vision_tower_meets_each_distinct_image_once(family):
    pixels: list[int] = []

    def count(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        given = [*args, *kwargs.values()]
        pixels.append(max(x.numel() for x in given if isinstance(x, Tensor) and x.is_floating_point()))

    handle = vision_tower(family.model).register_forward_pre_hook(count, with_kwargs=True)
    ids, mask = completions([2, 3, 2, 4])
    plain(family, [0, 1, 2, 3], ids, mask)
    once = pixels.copy()
    packed(family, [*range(4), *range(4)], torch.cat([ids, ids]), torch.cat([mask, mask]))
    handle.remove()
    assert pixels == once * 2


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {*WINDOWED}), indirect=True)
def test_a_shared_prefill_generates_what_rows_do(family):
    numbers = [2, 2, 2, 1, 1, 0, 0, 3]
    tokens = family.processor.tokenizer
    config = GenerationConfig(
        max_new_tokens=12, do_sample=True, top_k=0, output_logits=True, return_dict_in_generate=True,
        disable_compile=True, eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id,
    )  # fmt: skip
    rows = family.rows(numbers)
    distinct = list(dict.fromkeys(numbers))
    fields = {k: v for k, v in family.rows(distinct).items() if k not in ("input_ids", "attention_mask")}
    torch.manual_seed(3)
    expected = family.model.generate(**rows, generation_config=config)
    torch.manual_seed(3)
    with shared_prefill(family.model, [distinct.index(i) for i in numbers]):
        found = family.model.generate(
            input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], generation_config=config, **fields
        )  # fmt: skip
    assert torch.equal(found.sequences, expected.sequences)
    for ours, theirs in zip(found.logits, expected.logits, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4


def test_rows_are_made_again_as_the_processor_makes_them(family):
    """For a comparison with TRL's own pass, and where `generate` takes all rows."""
    numbers = [2, 2, 1, 0, 3]
    prompts = family.prompts()
    chosen = [prompts[i] for i in numbers]
    expected = {k: v for k, v in family.rows(numbers).items() if k not in ("input_ids", "attention_mask")}
    longest = max(map(len, chosen))
    fields = plain_fields(chosen, longest + 3, 3)
    counts = counted_by_sample({"num_images": [len(SIZES[i]) for i in numbers], **expected})
    assert fields.pop("num_images") == counts["num_images"]
    assert sum(fields.pop("num_tiles", [len(expected["pixel_values"])])) == len(expected["pixel_values"])
    types = [name for name in fields if name.endswith("token_type_ids")]
    for name in types:
        assert torch.equal(fields.pop(name)[:, :longest], expected[name])
    assert fields
    for name, tensor in fields.items():
        assert torch.equal(tensor, expected[name]), name
    batch = SharedBatch([{"prompt": str(i)} for i in numbers])
    batch.encoded, batch.fields = [prompts[i] for i in (2, 1, 0, 3)], family.tokenized([2, 1, 0, 3])[1]
    again = batch.sample_fields()
    assert {*fields, *types} == set(again)
    assert all(torch.equal(again[name], tensor) for name, tensor in fields.items())


OFTEN = ("InternVL", "SmolVLM", "Gemma 3")
RUNS = [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.repeat) for name in FAMILIES]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_on_mixed_samples_equals_the_plain_run(name, tmp_path):
    checkpoint = model_families.write_checkpoint(name, tmp_path / "checkpoint")
    rows = model_families.rows_by_kind(tmp_path, sees=True)["mixed"]
    settings: dict[str, Any] = dict(num_generations=4, per_device_train_batch_size=4, optim="sgd")
    if name == "Qwen3-VL-MoE":
        settings["router_aux_loss_coef"] = 0.0
    logs = []
    for shared in ("on", "off"):
        torch.manual_seed(0)
        worker = model_families.make_trainer(
            checkpoint,
            rows,
            str(tmp_path / "run"),
            shared_prefix=shared,
            verify_shared_prefix=shared == "on",
            **settings,
        )
        if shared == "on":
            assert worker.shared_prefix.in_rollout == (name not in WINDOWED)
        worker.train()
        lines = [line for line in worker.state.log_history if "loss" in line]
        logs.append([(line["loss"], line["grad_norm"], line["reward"], line["kl"]) for line in lines])
    assert logs[0] == [pytest.approx(line, rel=1e-4, abs=1e-5) for line in logs[1]]


def test_a_language_model_that_is_not_verified_takes_the_plain_path():
    _, model = model_families.internvl(model_type="mistral", head_dim=8, sliding_window=16)
    assert "layers of sliding-window attention are not verified in 'internvl'" in (family_obstacle(model) or "")
    _, model = model_families.internvl(model_type="olmo2")
    assert "language model 'olmo2' is not verified" in (family_obstacle(model) or "")
