"""One row alone = the same row in any batch; and what ends, limits and suppresses a completion."""

import random

import pytest
import torch
from PIL import Image

from omnirl_core.boxes import resized_size
from omnirl_core.models import load_policy, load_processor, vision_token_ids
from omnirl_tools.evaluation.generate import generate

LIMIT = 12


def one_by_one(policy, processor, rows, **settings):
    return [generate(policy, processor, [row], max_new_tokens=LIMIT, **settings)[0] for row in rows]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 16])
def test_greedy_answer_alone_is_the_answer_in_a_batch(policy, processor, mixed_rows, batch_size):
    together = generate(policy, processor, mixed_rows, max_new_tokens=LIMIT, batch_size=batch_size)
    assert together == one_by_one(policy, processor, mixed_rows)
    assert len({answer.token_ids for answer in together}) == len(mixed_rows)  # rows do differ


def test_answers_come_back_in_the_order_of_the_rows(policy, processor, mixed_rows):
    expected = dict(zip([row["row_id"] for row in mixed_rows], one_by_one(policy, processor, mixed_rows), strict=True))
    random.Random(0).shuffle(mixed_rows)
    shuffled = generate(policy, processor, mixed_rows, max_new_tokens=LIMIT, batch_size=3)
    assert shuffled == [expected[row["row_id"]] for row in mixed_rows]


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_sample_alone_is_the_sample_in_a_batch(policy, processor, mixed_rows, temperature):
    settings = {"temperature": temperature, "seed": 5}
    together = generate(policy, processor, mixed_rows, max_new_tokens=LIMIT, batch_size=4, **settings)
    assert together == one_by_one(policy, processor, mixed_rows, **settings)


def test_seed_and_temperature_change_a_sample_and_leave_torch_alone(policy, processor, mixed_rows):
    state = torch.get_rng_state()
    draws = {
        generate(policy, processor, mixed_rows[:1], max_new_tokens=LIMIT, temperature=t, seed=seed)[0].token_ids
        for t, seed in [(1.0, 0), (1.0, 1), (1.0, 2), (0.0, 0), (3.0, 0)]
    }
    assert len(draws) == 5
    assert torch.equal(torch.get_rng_state(), state)


def test_a_row_asked_again_is_sampled_anew_and_rows_with_one_id_are_kept_apart(policy, processor, mixed_rows):
    """A `row_id` is `file:line`: all rows of a JSON file on a single line have the same."""
    settings = {"max_new_tokens": LIMIT, "temperature": 1.0}
    again = generate(policy, processor, [mixed_rows[1]] * 3, **settings)
    assert len({answer.token_ids for answer in again}) == 3
    assert again[0] == generate(policy, processor, mixed_rows[1:2], **settings)[0]
    alike = [{**row, "row_id": "rows.json:1"} for row in mixed_rows]
    backwards = generate(policy, processor, alike[::-1], **settings)[::-1]
    assert backwards == generate(policy, processor, alike, **settings)


def test_samples_follow_the_softmax(policy, processor, mixed_rows):
    """Frequencies of 3,000 first tokens against the policy's own probabilities."""
    question, temperature, n = mixed_rows[1], 0.7, 3000
    inputs = processor.apply_chat_template(
        [question["prompt"]], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = policy(**inputs).logits[0, -1].double()
    logits[vision_token_ids(policy.config, processor.tokenizer)] = -torch.inf
    rows = [{**question, "row_id": str(number)} for number in range(n)]
    answers = generate(policy, processor, rows, max_new_tokens=1, batch_size=500, temperature=temperature)
    counts = torch.bincount(torch.tensor([a.token_ids[0] for a in answers]), minlength=len(logits))

    def worst(expected: torch.Tensor) -> float:
        """Largest deviation of a count, in standard deviations."""
        sigma = (n * expected * (1 - expected)).sqrt().clamp(min=1)
        return ((counts - n * expected).abs() / sigma).max().item()

    assert worst((logits / temperature).softmax(-1)) < 4.5
    assert worst((logits / (1.3 * temperature)).softmax(-1)) > 4.5  # the check can tell


def test_vision_tokens_are_never_sampled(policy, processor, mixed_rows):
    rows = [{**mixed_rows[1], "row_id": str(number)} for number in range(60)]
    answers = generate(policy, processor, rows, max_new_tokens=30, batch_size=60, temperature=50.0)
    drawn = {token for answer in answers for token in answer.token_ids}
    assert len(drawn) > 200  # nearly uniform over 264 tokens: without suppression they would come up
    assert not drawn & set(vision_token_ids(policy.config, processor.tokenizer))


def test_any_declared_end_token_ends_a_completion(tiny_checkpoint, processor, mixed_rows):
    policy = load_policy(tiny_checkpoint)
    whole = generate(policy, processor, mixed_rows, max_new_tokens=LIMIT)
    assert all(answer.clipped and answer.n_tokens == LIMIT for answer in whole)
    end = whole[2].token_ids[4]
    policy.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, end]
    for before, after in zip(
        whole, generate(policy, processor, mixed_rows, max_new_tokens=LIMIT, batch_size=3), strict=True
    ):
        if end in before.token_ids:
            place = before.token_ids.index(end)
            assert (after.token_ids, after.clipped) == (before.token_ids[: place + 1], False)
        else:
            assert after == before


def test_end_token_on_the_last_place_is_not_clipped(tiny_checkpoint, processor, mixed_rows):
    policy = load_policy(tiny_checkpoint)
    (whole,) = generate(policy, processor, mixed_rows[:1], max_new_tokens=LIMIT)
    first_seen = [token for place, token in enumerate(whole.token_ids) if token not in whole.token_ids[:place]]
    limit = whole.token_ids.index(first_seen[-1]) + 1
    policy.generation_config.eos_token_id = first_seen[-1]
    (cut,) = generate(policy, processor, mixed_rows[:1], max_new_tokens=limit)
    assert (cut.n_tokens, cut.clipped) == (limit, False)


def test_checkpoints_own_generation_settings_change_nothing(tiny_checkpoint, policy, processor, mixed_rows):
    other = load_policy(tiny_checkpoint)
    config = other.generation_config
    config.repetition_penalty, config.do_sample, config.temperature, config.top_k = 1.5, True, 0.1, 1
    config.no_repeat_ngram_size, config.min_new_tokens = 2, 1
    assert generate(other, processor, mixed_rows, max_new_tokens=LIMIT) == generate(
        policy, processor, mixed_rows, max_new_tokens=LIMIT
    )


def test_checkpoints_own_settings_apply_where_they_are_asked_for(tiny_checkpoint, processor, mixed_rows):
    """As the plain `generate` of others: oracle is that call itself, one row at a time."""
    policy = load_policy(tiny_checkpoint)
    policy.generation_config.repetition_penalty = 1.5
    found = generate(policy, processor, mixed_rows, max_new_tokens=LIMIT, batch_size=3, checkpoint_settings=True)
    for row, answer in zip(mixed_rows, found, strict=True):
        image_files = iter(Image.open(path) for path in row["images"])
        blocks = [
            {"type": "image", "image": next(image_files)} if block["type"] == "image" else block
            for block in row["prompt"][0]["content"]
        ]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": blocks}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        plain = policy.generate(**inputs, max_new_tokens=LIMIT, do_sample=False)
        assert answer.token_ids == tuple(plain[0, inputs["input_ids"].shape[1] :].tolist())
    assert found != generate(policy, processor, mixed_rows, max_new_tokens=LIMIT)


def test_each_module_gets_its_mode_back(tiny_checkpoint, processor, mixed_rows):
    policy = load_policy(tiny_checkpoint)
    policy.train()
    policy.model.visual.eval()
    before = {name: module.training for name, module in policy.named_modules()}
    generate(policy, processor, mixed_rows[:2], max_new_tokens=2)
    assert {name: module.training for name, module in policy.named_modules()} == before
    with pytest.raises(ValueError, match="not found"):
        generate(policy, processor, [{**mixed_rows[0], "images": ["/nowhere.png"]}], max_new_tokens=2)
    assert {name: module.training for name, module in policy.named_modules()} == before


def test_sizes_as_opened_and_as_the_policy_saw_them(policy, processor, mixed_rows, tmp_path):
    sideways = Image.new("RGB", (90, 40), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    sideways.save(tmp_path / "sideways.jpg", exif=exif)
    rows = [*mixed_rows, {**mixed_rows[0], "images": [str(tmp_path / "sideways.jpg")]}]
    answers = generate(policy, processor, rows, max_new_tokens=1, batch_size=3)
    assert answers[2].image_sizes == ((48, 32), (32, 64), (100, 60))
    assert answers[-1].image_sizes == ((40, 90),)
    assert answers[1].image_sizes == answers[1].resized_sizes == ()
    for answer in answers:
        budget = {"factor": 16, "min_pixels": 16 * 16, "max_pixels": 64 * 64}
        assert answer.resized_sizes == tuple(resized_size(size, **budget) for size in answer.image_sizes)


def test_images_in_memory_answer_like_their_files(policy, processor, mixed_rows):
    opened = [{**row, "images": [Image.open(path) for path in row["images"]]} for row in mixed_rows]
    assert generate(policy, processor, opened, max_new_tokens=LIMIT) == generate(
        policy, processor, mixed_rows, max_new_tokens=LIMIT
    )


def test_system_turn_and_string_content(policy, processor, mixed_rows):
    as_blocks = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}]
    as_string = [{"role": "system", "content": "Be brief."}]
    reported = [{**row, "prompt": as_blocks + row["prompt"]} for row in mixed_rows]
    written = [{**row, "prompt": as_string + row["prompt"]} for row in mixed_rows]
    answers = generate(policy, processor, reported, max_new_tokens=LIMIT)
    assert answers == generate(policy, processor, written, max_new_tokens=LIMIT)
    assert answers != generate(policy, processor, mixed_rows, max_new_tokens=LIMIT)


def test_text_only_policy(tiny_text_checkpoint, mixed_rows):
    policy, tokenizer = load_policy(tiny_text_checkpoint), load_processor(tiny_text_checkpoint)
    rows = [row for row in mixed_rows if not row["images"]]
    together = generate(policy, tokenizer, rows, max_new_tokens=LIMIT, batch_size=3)
    assert together == one_by_one(policy, tokenizer, rows)


def test_no_rows(policy, processor):
    assert generate(policy, processor, [], max_new_tokens=LIMIT) == []
