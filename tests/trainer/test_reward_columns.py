"""Rewards get what they ask for, and images that no other completion's reward has drawn on."""

import asyncio
import base64
import io
import json

import pytest
from PIL import Image, ImageDraw

from omnirl_core.data import DataError
from omnirl_core.models import load_policy
from omnirl_core.rewards import Reward, overlap
from omnirl_core.rewards.judge import judge
from omnirl_core.trainer import multimodal
from omnirl_core.trainer.multimodal import mixed_samples, with_own_images
from omnirl_core.trainer.prompt_length import _size


def columns():
    """Two completions of one prompt: its image is one object."""
    image = Image.new("RGB", (8, 8), "white")
    prompt = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "?"}]}]
    given = {"prompts": [prompt, prompt], "completions": ["a", "b"], "images": [[image], [image]]}
    return {**given, "image_sizes": [[(8, 8)]] * 2, "resized_sizes": [[(8, 8)]] * 2, "solution": ["x", "y"]}


def drawing(completions, images, prompts, **others):
    """Counts black pixels, then adds a line of eight."""
    found = []
    for [image], prompt in zip(images, prompts, strict=True):
        assert image is prompt[0]["content"][0]["image"]  # one image, one copy
        found.append(float(image.convert("L").histogram()[0]))
        ImageDraw.Draw(image).line([(0, 0), (7, 0)], fill="black")
    return found


def test_what_a_reward_draws_stays_with_its_completion():
    given = columns()
    assert with_own_images(drawing)(**given) == [0.0, 0.0]
    assert with_own_images(drawing)(**given) == [0.0, 0.0]  # the next function sees the image as it was
    assert drawing(**given) == [0.0, 8.0]  # what happened


def test_asynchronous_rewards_and_scorers_that_look_have_their_own_too():
    async def later(**given):
        return drawing(**given)

    def looks(text, solution, images):
        return drawing([text], [images], [[{"content": [{"image": images[0]}]}]])[0]

    assert asyncio.run(with_own_images(later)(**columns())) == [0.0, 0.0]
    assert with_own_images(Reward("looks", looks))(**columns()) == [0.0, 0.0]


def test_rewards_that_look_at_nothing_stay_as_they_are():
    reward = Reward("exact", lambda text, solution: float(text == solution))
    assert with_own_images(reward) is reward
    assert with_own_images(Reward("all", lambda text, **row: 1.0, timeout_s=3.0)).timeout_s == 3.0
    for scorer in (overlap, judge):  # one reads the prompt's words, the other looks at images
        reward = Reward("ours", scorer)
        assert (with_own_images(reward) is reward) == (scorer is overlap)


def test_a_function_without_kwargs_gets_only_what_it_names():
    def sizes(prompts, completions, solution, image_sizes):
        return [float(len(sizes)) for sizes in image_sizes]

    def plain(prompts, completions, solution):
        return [1.0] * len(completions)

    assert with_own_images(sizes)(**columns()) == [1.0, 1.0]
    assert with_own_images(plain)(**columns()) == [1.0, 1.0]
    with pytest.raises(TypeError, match="other"):  # a column of the data set is the user's to take
        with_own_images(plain)(**columns(), other=[1, 2])


def test_a_run_of_such_rewards(trainer, rows, tmp_path):
    calls = []

    def same(prompts, completions, completion_ids, images, solution, task, row_id, trainer_state, log_extra,
             log_metric):  # fmt: skip
        calls.append([image.tobytes() for [image] in images])
        for [image] in images:
            image.paste("black", (0, 0, *image.size))
        return [float(len(calls)) + i for i in range(len(completions))]

    worker = trainer([rows[1]], reward=[same, same], log_completions=False)
    worker.train()
    assert calls[0] == calls[1]
    assert len(set(calls[0])) == 1
    lines = (tmp_path / "run" / "completions.jsonl").read_text().splitlines()
    assert [json.loads(line)["rewards"] for line in lines] == [
        {"same": 1.0, "same_2": 2.0},
        {"same": 2.0, "same_2": 3.0},
    ]


def test_every_token_that_ends_a_completion_ends_it(trainer, rows, tiny_checkpoint, tmp_path):
    model = load_policy(tiny_checkpoint)
    model.generation_config.eos_token_id = [model.generation_config.eos_token_id, 65]
    worker = trainer([rows[0]], model=model, reward=lambda completions, **row: [0.0, 1.0])
    worker._generate_single_turn = lambda ids, *rest, **settings: ([[66, 65], [66, 67]], None)
    worker.train()
    lines = (tmp_path / "run" / "completions.jsonl").read_text().splitlines()
    assert [json.loads(line)["clipped"] for line in lines] == [False, True]
    assert worker.state.log_history[0]["completions/clipped_ratio"] == 0.5


def encoded(kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("image", [encoded(), encoded("JPEG"), "data:image/png;base64," + encoded()])
def test_image_strings_that_trl_takes(image):
    prompt = [{"role": "user", "content": "?"}]
    [row] = mixed_samples([{"prompt": prompt, "images": [image]}])
    assert row["images"][0].size == (30, 20)
    assert row["image_sizes"] == [(30, 20)] == [_size(image)]


def test_a_url_is_read(monkeypatch):
    asked = []

    def load(url, timeout):
        asked.append((url, timeout))
        return Image.new("RGB", (4, 4))

    monkeypatch.setattr(multimodal, "load_image", load)
    [row] = mixed_samples([{"prompt": "?", "image": "https://example.org/a.png"}])
    assert asked == [("https://example.org/a.png", multimodal.URL_TIMEOUT_S)]
    assert row["images"][0].size == (4, 4)


def test_a_string_that_is_none_of_these_names_its_row():
    with pytest.raises(DataError, match=r"r:9: image 'data:image/png;base64,abc' is no URL"):
        mixed_samples([{"prompt": "?", "images": ["data:image/png;base64,abc"], "row_id": "r:9"}])
