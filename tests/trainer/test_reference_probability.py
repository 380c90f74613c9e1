"""`reference_probability`: the policy's own probabilities, whichever path asks for them, and which prompts are left out."""

import json
import logging
from pathlib import Path

import pytest
import torch
from conftest import lazily, row
from peft import LoraConfig
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast

from omnirl_core.rewards import Reward, load_rewards
from omnirl_core.rewards.reference_probability import COLUMN, ReferenceTokens, reference_probability
from omnirl_core.trainer import OmniGRPOTrainer
from omnirl_core.trainer.reference_probability import Tokens
from omnirl_core.trainer.reward_stats import FIRST_STEPS, LowSpread

# --- where a completion is cut ---

CORPUS = ["</think><answer>The capital is Paris.</answer>", "<answer> [1, 2]</answer>", "<think>so</think>\n\n<answer>\n"]
REFERENCES = ["The sea", "[3]", "4.", "", "北京", "a b"]


@pytest.fixture(scope="module")
def merging() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose tokens cross the tags, as `>The` and `.</` do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
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


# --- against transformers alone ---

ANSWERS = [
    "<think>a dog, so</think><answer>a cat</answer>",
    "<think>it is late</think>\n<answer> so </answer>",
    "no tags at all",
    "<think>cut short</think><answer>a",
]


class Answering(OmniGRPOTrainer):
    """Its completions are those of ANSWERS, in turn."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        texts = [f"{ANSWERS[i % 4]}" for i in range(len(prompt_ids))]
        return [[*self._tokenizer(text)["input_ids"], self._tokenizer.eos_token_id] for text in texts], None


def samples(kinds, image_files):
    images = {"T": [], "I": image_files[:1], "M": image_files[1:4]}
    solutions = ["a red cat", ["blue", "a green bird"], "seven", None]
    return [
        {**row(f"Row {i} of kind {kind}?", images[kind], f"r:{i}"), "solution": solutions[i % 4]}
        for i, kind in enumerate(kinds)
    ]


def asking(checkpoint, data, config, reward=None, peft=None, **settings):
    """A trainer that has taken one step of learning rate 0 over all of the data."""
    n = len(data)
    settings = {
        "num_generations": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": n, "learning_rate": 0.0,
        "shuffle_dataset": False, **settings,
    }  # fmt: skip
    rewards = reward or [Reward("rp", reference_probability), Reward("vf", reference_probability, settings=VERIFREE)]
    trainer = Answering(checkpoint, rewards, config(**settings), lazily(data), peft_config=peft)
    trainer.told, plain = [], trainer.reference_probability.told

    def remember(*args):
        given = plain(*args)
        trainer.told = [sample[COLUMN] for sample in given]
        return given

    trainer.reference_probability.told = remember
    trainer.train()
    return trainer


VERIFREE = {"variant": "verifree"}


def tokens_of(model, processor, prompt, images, thought, reference):
    """Probabilities of the bytes of a reference, by one plain forward of one row."""
    images = {"images": images} if images else {}
    chat = processor.apply_chat_template([prompt], add_generation_prompt=True, tokenize=False)
    inputs = processor(text=chat, **images, return_tensors="pt")
    tokenizer = getattr(processor, "tokenizer", processor)
    more = tokenizer(thought + reference, return_tensors="pt")["input_ids"]
    n = len(tokenizer(reference)["input_ids"])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], more], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(more)], 1)
    with torch.no_grad():
        logits = model(**inputs).logits[0].double()
    return logits.softmax(-1)[-n - 1 : -1].gather(1, more[0, -n:, None])[:, 0]


HEADS = [("<think>a dog, so</think><answer>", "<think></think><answer>"),
         ("<think>it is late</think>\n<answer> ", "<think></think>\n<answer> ")]  # fmt: skip


def expected(model, processor, data):
    """Of each sample's group, for each completion, the reference's tokens after its thought and without it."""
    found = []
    for sample in data:
        images = [Image.open(path).convert("RGB") for path in sample["images"]]
        solution = sample["solution"]
        references = solution if isinstance(solution, list) else [solution]
        asked = [
            [[tokens_of(model, processor, sample["prompt"], images, h, one) for h in heads] for one in references]
            if solution is not None
            else None
            for heads in HEADS
        ]
        found += [*asked, *[None if solution is None else []] * 2]
    return found


def by_the_papers(asked):
    """RLPR's and VeriFree's reward of one completion."""
    if asked is None:
        return [float("nan")] * 2
    rlpr = [float((after.mean() - alone.mean()).clip(0, 1)) for after, alone in asked]
    return [max(rlpr, default=0.0), max((float(after.prod()) for after, _ in asked), default=0.0)]


def model_of(trainer):
    """The policy anew, from its files, without anything that a trainer added."""
    folder = Path(trainer.args.output_dir) / "weights"
    model = trainer.model
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    kind = AutoModelForImageTextToText if hasattr(model.config, "vision_config") else AutoModelForCausalLM
    return kind.from_pretrained(folder).eval()


CASES = {
    "text": ("TTTT", {}), "image": ("IMI", {}), "mixed": ("TIMT", {}), "a part of a group": ("TIM", {"size": 2}),
    "LoRA": ("TIM", {"lora": True}), "checkpointing": ("TI", {"gradient_checkpointing": True}),
    "language model": ("TT", {"text": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shared", ["on", "off"])
def test_equal_to_a_plain_forward_of_transformers(
    shared, name, config, tiny_checkpoint, tiny_text_checkpoint, image_files
):
    kinds, settings = CASES[name]
    settings = dict(settings)
    checkpoint = tiny_text_checkpoint if settings.pop("text", False) else tiny_checkpoint
    peft = None
    if settings.pop("lora", False):
        peft = LoraConfig(target_modules="all-linear", r=4, lora_dropout=0.5, init_lora_weights=False)
    if size := settings.pop("size", None):
        settings |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 * len(kinds) // size}
    data = samples(kinds, image_files)
    trainer = asking(checkpoint, data, config, peft=peft, shared_prefix=shared, **settings)
    assert (trainer.shared_prefix is not None) == (shared == "on")
    right = expected(model_of(trainer), AutoProcessor.from_pretrained(checkpoint), data)
    for asked, told in zip(right, trainer.told, strict=True):
        assert (asked is None) == (told is None)
        for pair, tokens in zip(asked or (), told or (), strict=True):
            for values, own in zip(pair, (tokens.after, tokens.alone), strict=True):
                assert (torch.tensor(own).log() - values.log()).abs().max() <= 1e-5
    scores = torch.tensor([by_the_papers(asked) for asked in right])
    assert torch.equal(trainer._rewards.isnan(), scores.isnan())
    assert (trainer._rewards - scores).nan_to_num().abs().max() <= 1e-5
