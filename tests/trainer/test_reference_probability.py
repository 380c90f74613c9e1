"""`reference_probability`: the policy's own probabilities, whichever path asks; and which prompts are left out."""

import json
import math
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import lazily, row
from datasets import Dataset
from peft import LoraConfig
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    TrainerState,
)

from omnirl_core.rewards import Reward, load_rewards
from omnirl_core.rewards.reference_probability import COLUMN, reference_probability
from omnirl_core.trainer import OmniGRPOTrainer
from omnirl_core.trainer.reward_stats import FIRST_STEPS, LowSpread

FILE = """
rewards:
  - {name: think_format, weight: 0.2}
  - {name: reference_probability, weight: 0.5, tasks: [free], settings: {variant: verifree, min_spread: 0.1}}
  - {name: length_band, gated_by: reference_probability}
  - {name: exact, tasks: [test]}
"""


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
    trainer.given, plain = [], trainer.reference_probability.given

    def remember(*args):
        given = plain(*args)
        trainer.given = [sample[COLUMN] for sample in given]
        return given

    trainer.reference_probability.given = remember
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


def furthest(found, right):
    """Largest difference of two sides' log-probabilities."""
    values = [
        (torch.as_tensor(one).log() - torch.as_tensor(other).log()).abs().max()
        for own, its in zip(found, right, strict=True)
        for pair, other_pair in zip(own or (), its or (), strict=True)
        for one, other in zip(pair, other_pair, strict=True)
    ]
    return float(max(values))


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
    "language model": ("TT", {"text": True}), "bf16 autocast": ("TIM", {"bf16": True}),
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
    model, processor = model_of(trainer), AutoProcessor.from_pretrained(checkpoint)
    right, bound = expected(model, processor, data), 1e-5
    assert [asked is None for asked in right] == [given is None for given in trainer.given]
    given = [[(one.after, one.alone) for one in own or ()] for own in trainer.given]
    if settings.get("bf16"):  # twice what autocast does to the plain forward
        with torch.autocast("cpu", torch.bfloat16):
            bound = 2 * furthest(expected(model, processor, data), right)
        assert bound > 1e-3
        assert furthest(given, right) > 1e-5
    assert furthest(given, right) <= bound
    scores = torch.tensor([by_the_papers(asked) for asked in right])
    assert torch.equal(trainer._rewards.isnan(), scores.isnan())
    assert (trainer._rewards - scores).nan_to_num().abs().max() <= bound


# --- as any other reward ---


def test_named_in_a_file_with_tasks_weight_gate_and_log(config, tiny_checkpoint, image_files, tmp_path):
    (tmp_path / "rewards.yaml").write_text(FILE)
    data = samples("TI", image_files)
    data[0]["task"] = "free"
    rewards = load_rewards(tmp_path / "rewards.yaml")
    trainer = asking(tiny_checkpoint, data, config, rewards, shared_prefix="auto")
    assert trainer.reward_weights.tolist() == pytest.approx([0.2, 0.5, 1.0, 1.0])
    given = [own and own[0].score("verifree") for own in trainer.given]
    found = {name: trainer._rewards[:, k].tolist() for k, name in enumerate(trainer.reward_func_names)}
    assert found["reference_probability"][:2] == pytest.approx(given[:2])
    assert found["reference_probability"][2:4] == [0.0, 0.0]
    assert given[4:] == [None] * 4
    assert trainer._rewards[4:, 1].isnan().all()
    assert trainer._rewards[4:, 2].isnan().all()  # gated by what does not judge
    assert found["length_band"][0] <= given[0] * (1 + 1e-6)
    lines = [json.loads(line) for line in (tmp_path / "run" / "completions.jsonl").read_text().splitlines()]
    logged = [line["rewards"]["reference_probability"] for line in lines]
    assert sorted(one for one in logged if one is not None) == pytest.approx(
        sorted(found["reference_probability"][:4])
    )
    (log,) = [line for line in trainer.state.log_history if "reference_probability/after" in line]
    assert 0 < log["reference_probability/after"] < 1
    assert "reference_probability/alone" not in log  # nobody asks for it
    assert "rewards/reference_probability/spread" in log


def test_in_evaluation_too(config, tiny_checkpoint, image_files):
    data = samples("TI", image_files)
    worker = Answering(
        tiny_checkpoint, Reward("rp", reference_probability, settings=VERIFREE),
        config(per_device_eval_batch_size=2), lazily(data), lazily(data),
    )  # fmt: skip
    assert worker.evaluate()["eval_reference_probability/after"] > 0


def test_refused_where_the_completions_are_not_the_policys_own(config, tiny_checkpoint, rows):
    def rollout(prompts, trainer):
        raise AssertionError

    with pytest.raises(ValueError, match=r"reward 'rp' is not supported with a rollout_func"):
        OmniGRPOTrainer(
            tiny_checkpoint, Reward("rp", reference_probability), config(), lazily(rows), rollout_func=rollout
        )


# --- learning ---

LETTERS = "abcdefgh"


class Choosing(OmniGRPOTrainer):
    """Its thoughts are one letter, drawn by the policy's own probabilities of these letters."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        made = []
        for ids in prompt_ids:
            letter = LETTERS[int(torch.multinomial(chances(self.model, self._tokenizer, ids), 1))]
            made.append(self._tokenizer.encode(f"<think>{letter}</think><answer>x</answer><|im_end|>"))
        return made, None


def chances(model, tokenizer, prompt_ids):
    """(8,) of the letters as the thought."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt_ids, *tokenizer.encode("<think>")]])).logits[0, -1]
    return logits[tokenizer.encode(LETTERS)].softmax(-1)


def held_out(trainer, prompts, reference):
    """Probability of the reference over the policy's own thoughts, by plain forwards."""
    processor, found = trainer.processing_class, []
    for prompt in prompts:
        chat = processor.apply_chat_template([prompt], add_generation_prompt=True, tokenize=False)[0]
        after = [
            tokens_of(trainer.model, processor, prompt, [], f"<think>{letter}</think><answer>", reference).prod()
            for letter in LETTERS
        ]
        own = chances(trainer.model, processor.tokenizer, processor.tokenizer.encode(chat))
        found.append(float(own.double() @ torch.stack(after)))
    return sum(found) / len(found)


@pytest.mark.parametrize(("shared", "bf16"), [("on", False), ("off", False), ("on", True)])
def test_held_out_probability_rises_in_a_few_steps(config, tiny_checkpoint, shared, bf16):
    def ask(words):
        return [[{"role": "user", "content": f"Say {word}."}] for word in words]

    data = [{"prompt": prompt, "solution": "k"} for prompt in ask(["one", "two", "three", "four"])]
    trainer = Choosing(
        tiny_checkpoint, Reward("rp", reference_probability, settings=VERIFREE),
        config(num_generations=8, per_device_train_batch_size=32, max_steps=8, shared_prefix=shared,
               learning_rate=3e-3, bf16=bf16),
        Dataset.from_list(data),
    )  # fmt: skip
    prompts = ask(["five", "six", "seven"])
    before = held_out(trainer, prompts, "k")
    trainer.train()
    after = held_out(trainer, prompts, "k")
    assert after > 1.2 * before, (before, after)


# --- prompts of low spread ---


class Given:
    """What LowSpread reads of a trainer."""

    def __init__(self, size):
        self.num_generations, self.reward_func_names, self.dynamic_sampling = size, ["form", "rp"], None
        self.state = TrainerState()
        self._metrics, self._logs = {"train": defaultdict(list)}, {"advantages": []}
        self.accelerator = SimpleNamespace(process_index=0)


def step(filtered, worker, *spreads):
    """One step with groups of two, the second reward apart by so much; the advantages that are left."""
    rewards = torch.tensor([[one, value] for s in spreads for one, value in ((0.0, 0.5), (1.0, 0.5 + s * 2**0.5))])
    output = {"advantages": torch.ones(len(rewards))}
    worker._logs["advantages"] = [1.0] * len(rewards)
    filtered.apply(output, rewards)
    assert worker._logs["advantages"] == output["advantages"].tolist()
    return output["advantages"][::2].tolist()


def test_prompts_below_a_share_of_the_average_spread_are_left_out():
    worker = Given(2)
    filtered = LowSpread(worker, {"rp": 0.5})
    for _ in range(FIRST_STEPS):
        assert step(filtered, worker, 0.1, 0.3, 0.0) == [1, 1, 1]  # mean .1333
    assert step(filtered, worker, 0.06, 0.07, math.nan) == [0, 1, 1]  # what it does not judge it does not leave out
    average = worker.state.stateful_callbacks["LowSpread"]["rp"]["mean"]
    assert average == pytest.approx(0.99 * 0.4 / 3 + 0.01 * 0.065)
    worker.state = TrainerState(**json.loads(json.dumps(asdict(worker.state))))  # as a checkpoint keeps it
    assert step(LowSpread(worker, {"rp": 0.5}), worker, 0.06, 0.07) == [0, 1]
    assert worker._metrics["train"]["reference_probability/left_out"][-2:] == pytest.approx([1 / 3, 1 / 2])
    assert step(LowSpread(worker, {}), worker, 0.06, 0.07) == [1, 1]  # min_spread: 0


def test_a_resumed_run_knows_the_average(config, tiny_checkpoint, image_files, tmp_path):
    reward, settings = Reward("rp", reference_probability), {"save_strategy": "steps", "save_steps": 1}
    first = asking(tiny_checkpoint, samples("T", image_files), config, reward, max_steps=1, **settings)
    kept = first.state.stateful_callbacks["LowSpread"]["rp"]
    assert kept["steps"] == 1
    assert kept["mean"] > 0
    again = Answering(
        tiny_checkpoint, reward,
        config(num_generations=4, per_device_train_batch_size=4, max_steps=2), lazily(samples("T", image_files)),
    )  # fmt: skip
    again.train(resume_from_checkpoint=True)
    assert again.state.stateful_callbacks["LowSpread"]["rp"]["steps"] == 2


def test_with_dynamic_sampling_other_prompts_take_their_place(config, tiny_checkpoint, image_files):
    data = samples("TI", image_files)
    trainer = Answering(
        tiny_checkpoint, Reward("rp", reference_probability, settings={"variant": "verifree", "min_spread": 1.0}),
        config(num_generations=4, per_device_train_batch_size=8, dynamic_sampling="resample", max_steps=1,
               max_resample_rounds=1, learning_rate=0.0), lazily(data),
    )  # fmt: skip
    trainer.state.stateful_callbacks = {}
    plain = trainer._open_samples

    def begin(inputs):  # as after ten steps, with an average that no spread comes near
        trainer.state.stateful_callbacks["LowSpread"] = {"rp": {"steps": 10, "mean": 1.0}}
        return plain(inputs)

    trainer._open_samples = begin
    trainer.train()
    (log,) = [line for line in trainer.state.log_history if "dynamic_sampling/kept_groups" in line]
    assert log["dynamic_sampling/kept_groups"] == 0
    assert log["reference_probability/left_out"] == 1
    assert trainer.state.stateful_callbacks["LowSpread"]["rp"]["steps"] == 11
