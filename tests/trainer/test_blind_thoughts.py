"""What `reference_probability` pays for thoughts that know nothing: it needs a policy, which a table of hacks lacks."""

import random

import pytest
import torch
from conftest import lazily

from omnirl_core.rewards import Reward
from omnirl_core.rewards.reference_probability import reference_probability
from omnirl_core.shapes import tiny_policy
from omnirl_core.shapes.tasks import make_example
from omnirl_core.trainer import OmniGRPOTrainer
from omnirl_tools.checks.hacks import BLIND, THOUGHT, Sample, formed

THOUGHTS = ["", "ok", "," * 60, "the " * 20, THOUGHT, "red, green, blue, circle, square, star, 1, 2, 3", None]
"""None: the question."""


HACKS = sorted(BLIND.keys() - {"tag soup", "commas", "ramble", "all boxes", "echo"})
"""Those of the hack table that are of a few hundred tokens; commas and the question are among the thoughts."""


def completions(one):
    """Blind thoughts, the completions of the hack table, a thought that saw the image twice, and the reference."""
    sample = Sample(one.problem, str(one.solution), str(one.solution), ("red", "square", "7"))
    return [
        *(formed("x", think=one.problem if thought is None else thought) for thought in THOUGHTS),
        *(BLIND[name](sample) for name in HACKS),
        formed("x", think=one.thought), formed(str(one.solution), think=one.thought),
        formed("x", think=str(one.solution)),
    ]  # fmt: skip


@pytest.mark.parametrize("variant", ["rlpr", "verifree"])
def test_what_thoughts_earn_of_a_policy_that_answers(config, variant):
    """The tiny policy on drawn images: what is answered is not read; blind thoughts pay under `verifree` alone."""
    drawn = [make_example(task, random.Random(0), "test") for task in ("color", "shape", "count")]
    data = [
        {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": one.problem}]}],
         "images": [scene.draw() for scene in one.scenes], "solution": str(one.solution)} for one in drawn
    ]  # fmt: skip
    said = [completions(one) for one in drawn]
    n = len(said[0])

    class Scripted(OmniGRPOTrainer):
        def _generate_single_turn(self, *args, **kwargs):
            texts = [text for own in said for text in own]
            return [[*self._tokenizer(text)["input_ids"], self._tokenizer.eos_token_id] for text in texts], None

    trainer = Scripted(
        tiny_policy(), Reward("rp", reference_probability, settings={"variant": variant}),
        config(num_generations=n, per_device_train_batch_size=n, gradient_accumulation_steps=len(drawn),
               shuffle_dataset=False, learning_rate=0.0, shared_prefix="auto"), lazily(data),
    )  # fmt: skip
    trainer.train()
    scores = trainer._rewards.view(len(drawn), n)
    assert torch.equal(scores[:, -3], scores[:, -2])
    blind = scores[:, : len(THOUGHTS) + len(HACKS)]
    if variant == "rlpr":  # a policy that sees the answer in the image is sure of it after any thought
        assert blind.max() <= 0.25
    else:  # docs/rewards.md and docs/choose_rewards.md say so
        assert 0.25 < blind.max() < 0.6
