"""Which rows share a prompt, what rewards and logs see of them, and what the shuffle does with them."""

import pytest
import torch

from omnirl_core.data.images import open_image
from omnirl_core.trainer.shared_prefix.runtime import PROMPTS, SharedBatch, regrouped

EIGHT_ROWS = {"num_generations": 4, "per_device_train_batch_size": 8, "max_steps": 1}


@pytest.fixture
def mixed(rows):
    return [rows[2], rows[0], rows[1], rows[3]]


def test_rewards_see_the_rows_as_without_sharing(trainer, mixed):
    seen = []

    def reward(prompts, completions, images, image_sizes, resized_sizes, row_id, solution, **columns):
        parts = [part for prompt in prompts for part in prompt[0]["content"] if part["type"] == "image"]
        pixels = [part["image"].tobytes() for part in parts]
        n_images = [len(image_files) for image_files in images]
        seen.append((pixels, n_images, image_sizes, resized_sizes, row_id, solution, completions))
        return [0.0] * len(prompts)

    for shared in ("on", "off"):
        settings = {**EIGHT_ROWS, "per_device_train_batch_size": 16}
        trainer(mixed, reward=reward, shared_prefix=shared, **settings).train()
    assert seen[0] == seen[1]
    assert len(seen[0][0]) == 16


def test_the_completions_log_is_the_same(trainer, mixed, tmp_path):
    texts = []
    for shared in ("on", "off"):
        out = tmp_path / shared
        settings = {**EIGHT_ROWS, "log_completions": True, "output_dir": str(out)}
        trainer(mixed, shared_prefix=shared, **settings).train()
        texts.append((out / "completions.jsonl").read_text())
    assert texts[0] == texts[1]


def test_rows_share_a_prompt_only_if_words_and_pixels_agree(image_files):
    def opened(path):
        return open_image(path, None)

    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    other = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it"}]}]
    same_size = opened(image_files[0]).transpose(0)
    rows = [
        {"prompt": chat, "images": [opened(image_files[0])]},
        {"prompt": chat, "images": [opened(image_files[0])]},  # decoded twice, the same pixels
        {"prompt": other, "images": [opened(image_files[0])]},
        {"prompt": chat, "images": [same_size]},
        {"prompt": chat, "images": []},
        {"prompt": "What is it?"},
        {"prompt": "What is it?"},
    ]
    assert SharedBatch(rows).prompt_of_sample == [0, 0, 1, 2, 3, 4, 4]


def test_what_trl_is_shown_has_one_prompt_a_group_and_no_images(image_files):
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    batch = SharedBatch([{"prompt": [*chat], "images": [open_image(image_files[i // 2], None)]} for i in range(4)])
    shown = batch.placeholder_samples
    assert [sample["prompt"] for sample in shown] == [chat] * 4
    assert [sample["prompt"] is shown[0]["prompt"] for sample in shown] == [True, True, False, False]
    assert not any("images" in sample for sample in shown)
    assert [prompt[0]["content"][0]["image"] for prompt in batch.prompts] == [s["images"][0] for s in batch.samples]


def test_images_that_differ_within_a_group_are_kept_apart(trainer, rows):
    """A transform that augments at random gives the rows of one group different images: each is encoded."""
    worker = trainer([rows[1]] * 2, shared_prefix="on", scripted=True, **EIGHT_ROWS)
    inputs = [dict(rows[1], images=[rows[1 + i % 2]["images"][0]]) for i in range(8)]
    output = worker._generate_and_score_completions(inputs)
    assert len(set(output[PROMPTS])) == 8
    assert len({len(prompt) for prompt in output[PROMPTS]}) == 2


def test_regrouped_rows_keep_their_values_and_their_company():
    prompts = [object() for _ in range(3)]
    owner = [0, 1, 0, 2, 2, 1, 1, 0, 2, 1, 0, 2]
    batches = [
        {
            "ids": torch.arange(start, start + 4)[:, None] * 10,
            "names": [f"row {i}" for i in range(start, start + 4)],
            "total": torch.tensor(12),
            "absent": None,
            PROMPTS: [prompts[o] for o in owner[start : start + 4]],
        }
        for start in (0, 4, 8)
    ]
    made = regrouped(batches)
    assert [len(batch["names"]) for batch in made] == [4, 4, 4]
    assert [len(set(batch[PROMPTS])) for batch in made] == [1, 1, 1]
    assert [batch[PROMPTS][0] for batch in made] == [prompts[0], prompts[1], prompts[2]]  # by first row
    ids = torch.cat([batch["ids"] for batch in made])[:, 0] // 10
    assert [f"row {i}" for i in ids] == [name for batch in made for name in batch["names"]]
    assert sorted(ids.tolist()) == list(range(12))
    assert [prompts[owner[i]] for i in ids] == [p for batch in made for p in batch[PROMPTS]]
    assert all(batch["total"] == 12 and batch["absent"] is None for batch in made)


def test_every_group_is_as_likely_in_every_step():
    """The claim of `regrouped` about steps that share a generation batch, over 600 shuffles."""
    prompts = [object() for _ in range(4)]
    places = torch.zeros(4, 4)
    for _ in range(600):
        rows = torch.randperm(16).tolist()
        batches = [{PROMPTS: [prompts[r // 4] for r in rows[i : i + 4]]} for i in range(0, 16, 4)]
        for step, batch in enumerate(regrouped(batches)):
            places[step, prompts.index(batch[PROMPTS][0])] += 1
    assert ((places - 150).abs() < 5 * (600 * 3 / 16) ** 0.5).all()
