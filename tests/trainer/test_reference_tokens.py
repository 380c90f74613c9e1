"""`reference_probability` without a model: where a completion is cut, the papers' formulas, and faults of an entry."""

import logging
import re

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
)

from omnirl_core.rewards import Reward, load_rewards
from omnirl_core.rewards.load import RewardsError
from omnirl_core.rewards.reference_probability import COLUMN, ReferenceTokens, reference_probability
from omnirl_core.rewards.reward import _say_no_policy
from omnirl_core.trainer.reference_probability import Tokens

# --- where a completion is cut ---

CORPUS = [
    "</think><answer>The capital is Paris.</answer>",
    "<answer> [1, 2]</answer>",
    "<think>so</think>\n\n<answer>\n",
]
REFERENCES = ["The sea", "[3]", "4.", "", "北京", "a b"]


@pytest.fixture(scope="module")
def merging() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose tokens cross the tags, as `>The` and `.</` do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=["<|im_end|>"])
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def test_sampled_tokens_are_kept_and_the_reference_is_asked_for_as_the_policy_writes(merging):
    tokens, n_crossing = Tokens(merging), 0
    for body in ("Paris", "The sea", " x ", "\ny\n", "[1, 2]", "北", ""):
        for thought in ("<think>so</think>", "<think>so</think>\n\n", "so</think>", "", "<think>😀</think>"):
            text = f"{thought}<answer>{body}</answer>"
            whole = list(tokens.ids(text))
            for ids in (whole, [t for char in text for t in tokens.ids(char)], [*whole, merging.eos_token_id]):
                for reference in filter(None, REFERENCES):
                    (found,) = tokens.questions(ids, [reference], alone=True)
                    start = len(thought) + len("<answer>")
                    space = body[: len(body) - len(body.lstrip())]
                    asked = tokens.text(found.after.token_ids)
                    assert (text[:start] + space + reference).startswith(asked[: start + len(space + reference)])
                    assert len(asked) >= start + len(space + reference)
                    n_crossing += tokens.cut(ids, text, start)[1] < start
                    kept, _ = tokens.cut(ids, text, start - len("<answer>"))
                    assert list(found.after.token_ids[:kept]) == ids[:kept], "a sampled token was changed"
                    n = found.after.n_scored
                    assert found.alone.token_ids[-n:] == found.after.token_ids[-n:]
                    assert tokens.text(found.alone.token_ids).endswith(tokens.text(found.after.token_ids[-n:]))
                    assert ("<think>" in tokens.text(found.alone.token_ids)) == ("<think>" in thought)
                    assert "so" not in tokens.text(found.alone.token_ids).partition("<answer>")[0]
    assert n_crossing > 10  # the comparison has met tokens in which tag and answer meet


@pytest.mark.parametrize("text", ["", "Paris", "<think>so</think>", "<answer>a", "<think>is it <answer>3</answer>?"])
def test_a_completion_without_an_answer_part_is_asked_nothing(merging, text):
    assert Tokens(merging).questions(Tokens(merging).ids(text), ["a"], alone=True) == ()


# --- the score ---


def test_the_papers_formulas():
    tokens = ReferenceTokens(after=(0.9, 0.5, 0.1), alone=(0.2, 0.2, 0.2))
    worse = ReferenceTokens(after=(0.1,), alone=(0.4,))
    assert tokens.score("rlpr") == pytest.approx(0.3)
    assert tokens.score("verifree") == pytest.approx(0.045)
    assert worse.score("rlpr") == 0.0

    def score(answer="x", solution="a", given=(worse, tokens), **settings):
        return reference_probability(answer, solution, reference_probabilities=given, **settings)

    assert score() == pytest.approx(0.3)  # the best reference
    assert score(variant="verifree") == pytest.approx(0.1)
    assert score(given=()) == 0.0  # no answer part
    assert (
        score(solution=None)
        is score(solution="")
        is score(given=None)
        is score(given=["a column of the data"])
        is None
    )
    reward = Reward("rp", reference_probability)
    given = {COLUMN: [(tokens,), (tokens,), ()], "solution": ["a", None, "a"]}
    assert reward(completions=["<answer>b</answer>"] * 2 + ["b"], **given) == [pytest.approx(0.3), None, 0.0]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ("{variant: rplr}", "variant: 'rplr' is not a choice; did you mean 'rlpr'?"),
        ("{min_spread: -1}", "min_spread: -1 must be 0 or more"),
        ("{reference_probabilities: 1}", "'reference_probabilities' comes with each row and cannot be set"),
    ],
)
def test_faults_of_its_entry(settings, fault, tmp_path):
    (tmp_path / "rewards.yaml").write_text(f"rewards:\n- {{name: reference_probability, settings: {settings}}}")
    with pytest.raises(RewardsError, match=re.escape(fault)):
        load_rewards(tmp_path / "rewards.yaml")


def test_without_a_policy_it_says_so_and_judges_nothing(caplog):
    _say_no_policy.cache_clear()
    reward = Reward("mine", reference_probability)
    with caplog.at_level(logging.WARNING):
        assert [reward(completions=["<answer>a</answer>"], solution=["a"]) for _ in range(2)] == [[None], [None]]
    (said,) = [line for line in caplog.messages if "'mine' needs the policy" in line]
    assert "OmniGRPOTrainer" in said
