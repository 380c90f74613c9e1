"""Generation after a shared prefill is plain generation: the same tokens, logits and draws."""

import pytest
import torch
from PIL import Image
from scipy.stats import chi2
from transformers import GenerationConfig

from omnirl_core.models import load_policy, load_processor
from omnirl_core.trainer.shared_prefix import rollout
from omnirl_core.trainer.shared_prefix.rollout import COPIED_BYTES, blocks, copies_prompts, shared_prefill

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
ROWS = {
    "one group": [1, 1, 1, 1],
    "text only, padded": [0, 0, 3, 3],
    "every kind": [2, 2, 1, 1, 0, 0, 3, 3],
    "parts of groups": [2, 2, 2, 1, 0, 0],
    "no group": [1, 0, 2],
}


@pytest.fixture
def copying(monkeypatch):
    """Rollouts as on a GPU."""
    monkeypatch.setattr(rollout, "copies_prompts", lambda device, n_bytes: True)


@pytest.fixture(scope="module")
def policy(tiny_checkpoint):
    return load_policy(tiny_checkpoint), load_processor(tiny_checkpoint)


@pytest.fixture
def generate(policy, image_files):
    """Generation over rows of four prompts, plain or after a shared prefill."""
    model, processor = policy
    images = [Image.open(path).convert("RGB") for path in image_files[:3]]
    prompts = [
        ("Say a word. ", []),
        (f"{IMAGE} What is it? ", images[:1]),
        (f"{IMAGE} and {IMAGE}: compare. ", images[1:]),
        ("A longer line of text, without images. ", []),
    ]

    def encode(numbers):
        flat = [image for number in numbers for image in prompts[number][1]]
        text = [prompts[number][0] for number in numbers]
        return dict(processor(text=text, images=flat or None, return_tensors="pt", padding=True))

    def run(rows, shared, seed=0, **settings):
        defaults = dict(
            max_new_tokens=48, do_sample=False, output_logits=True, return_dict_in_generate=True, disable_compile=True,
            pad_token_id=processor.tokenizer.pad_token_id, eos_token_id=processor.tokenizer.eos_token_id,
            suppress_tokens=[model.config.image_token_id],
        )  # fmt: skip
        config = GenerationConfig(**{**defaults, **settings})
        inputs = encode(rows)
        torch.manual_seed(seed)
        with torch.no_grad():
            if not shared:
                return model.generate(**inputs, generation_config=config)
            distinct = list(dict.fromkeys(rows))
            fields = {k: v for k, v in encode(distinct).items() if k not in ("input_ids", "attention_mask")}
            with shared_prefill(model, [distinct.index(row) for row in rows]):
                return model.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    generation_config=config,
                    **fields,
                )

    return run


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("name", ROWS)
def test_tokens_and_logits_are_those_of_plain_generation(generate, name, sample):
    settings = dict(do_sample=sample, top_k=None, seed=4)
    plain, shared = (generate(ROWS[name], is_shared, **settings) for is_shared in (False, True))
    assert torch.equal(shared.sequences, plain.sequences)
    for ours, theirs in zip(shared.logits, plain.logits, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4  # logits of up to 30
    assert len({tuple(row) for row in plain.sequences.tolist()}) >= (len(ROWS[name]) if sample else 1)


@pytest.mark.parametrize("name", ["every kind", "no group"])
def test_copied_prompts_give_the_same(generate, copying, name):
    settings = dict(do_sample=True, top_k=None, seed=4)
    plain, shared = (generate(ROWS[name], is_shared, **settings) for is_shared in (False, True))
    assert torch.equal(shared.sequences, plain.sequences)
    for ours, theirs in zip(shared.logits, plain.logits, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4
    assert not isinstance(shared.past_key_values, rollout.PrefixCache)


def test_small_prompts_are_copied_on_a_gpu_only():
    assert copies_prompts(torch.device("cuda"), COPIED_BYTES)
    assert not copies_prompts(torch.device("cuda"), COPIED_BYTES + 1)
    assert not copies_prompts(torch.device("cpu"), 1)


def test_truncated_sampling_and_penalties_draw_the_same(generate):
    settings = dict(do_sample=True, temperature=0.7, top_p=0.9, top_k=12, repetition_penalty=1.2, seed=1)
    plain, shared = (generate(ROWS["every kind"], is_shared, **settings) for is_shared in (False, True))
    assert torch.equal(shared.sequences, plain.sequences)


def test_completions_that_end_at_once(generate, policy):
    """Every token ends a completion: one token a row, and nothing is decoded after it."""
    everything = list(range(len(policy[1].tokenizer)))
    plain, shared = (generate(ROWS["every kind"], is_shared, eos_token_id=everything) for is_shared in (False, True))
    assert len(plain.logits) == len(shared.logits) == 1
    assert torch.equal(shared.sequences, plain.sequences)


def test_one_row_ends_before_the_others(generate, policy):
    eos = generate([1, 1, 0, 0], False).sequences[0, -40].item()
    plain, shared = (generate([1, 1, 0, 0], is_shared, eos_token_id=eos) for is_shared in (False, True))
    assert torch.equal(shared.sequences, plain.sequences)
    assert (plain.sequences[:, -1] == policy[1].tokenizer.pad_token_id).any()


def test_prompts_of_one_token(policy):
    model, processor = policy
    config = GenerationConfig(max_new_tokens=8, pad_token_id=processor.tokenizer.pad_token_id)
    inputs = {
        "input_ids": torch.tensor([[65], [65], [66]]),
        "attention_mask": torch.ones(3, 1, dtype=torch.long),
    }
    with torch.no_grad():
        plain = model.generate(**inputs, generation_config=config)
        with shared_prefill(model, [0, 0, 1]):
            assert torch.equal(model.generate(**inputs, generation_config=config), plain)


def test_the_vision_tower_runs_once_over_the_distinct_images(generate, policy):
    grids = []
    tower = policy[0].get_encoder(modality="image")
    handle = tower.register_forward_hook(
        lambda module, args, kwargs, output: grids.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    generate(ROWS["every kind"], True)
    handle.remove()
    assert grids == [3]  # of six images in the rows


def test_generate_is_as_before_afterwards(generate, policy):
    plain = generate([1, 1], False).sequences
    generate([2, 2, 2], True)
    assert "generate" not in vars(policy[0])
    assert torch.equal(generate([1, 1], False).sequences, plain)


def p_value(statistic, n_classes):
    return chi2.sf(float(statistic), n_classes - 1)


def test_draws_have_the_distribution_of_the_model(generate, policy):
    """3,000 draws of the first token against its probabilities, and of the fourth against plain generation's."""
    settings = dict(do_sample=True, top_k=0, temperature=1.5, max_new_tokens=4)

    def draw(shared, seeds):
        return torch.cat([generate([1] * 500, shared, seed=s, **settings).sequences[:, -4:] for s in seeds])

    shared, plain = draw(True, range(6)), draw(False, range(100, 106))
    logits = generate([1], False, **settings).logits[0][0].float()
    logits[policy[0].config.image_token_id] = -torch.inf
    expected = 3_000 * (logits / 1.5).softmax(-1).double()
    counts = shared[:, 0].bincount(minlength=len(expected)).double()
    rare = expected < 5
    counts, expected = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (counts, expected))
    assert p_value(((counts - expected) ** 2 / expected).sum(), len(counts)) > 1e-4

    ours, theirs = (x[:, 3].bincount(minlength=len(rare)).double() for x in (shared, plain))
    rare = ours + theirs < 10
    ours, theirs = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (ours, theirs))
    assert p_value(((ours - theirs) ** 2 / (ours + theirs)).sum(), len(ours)) > 1e-4


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([0, 0, 0, 1, 1, 1], (3, [0, 1])),
        ([0, 0, 1, 1, 1, 1], (2, [0, 1, 1])),
        ([0, 1], (1, [0, 1])),
        ([0], (1, [0])),
    ],
)
def test_blocks(rows, expected):
    assert blocks(rows) == expected
