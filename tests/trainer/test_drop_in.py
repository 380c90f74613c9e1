"""What TRL's own trainer does, this one does: the same losses on the same seed, in every path of TRL."""

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from transformers import AutoConfig, LlamaConfig, LlamaForSequenceClassification
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_chat_template

from omnirl_core.models import load_policy, load_processor, vision_token_ids
from omnirl_core.trainer import OmniGRPOTrainer

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
PLAIN = [{"prompt": f"Say {word} ", "answer": word} for word in WORDS]
CHAT = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in PLAIN]


def letters(completions, answer=None, **columns):
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [sum(map(ord, text)) % 97 / 97 for text in texts]


def lengths(completions, completion_ids, **columns):
    return [len(ids) / 8 for ids in completion_ids]


async def later(completions, **columns):
    return [0.5 + 0.1 * (i % 2) for i in range(len(completions))]


def sometimes(completions, answer, **columns):
    return [None if word == "two" else 1.0 * i for i, word in enumerate(answer)]


@pytest.fixture
def losses(tmp_path, tiny_text_checkpoint):
    """The log and the final weights of a run of either trainer."""

    def run(kind, data, rewards=letters, model=None, processing_class=None, extra=None, **settings):
        defaults = dict(
            use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, save_strategy="no", logging_steps=1,
            max_steps=2, num_generations=2, per_device_train_batch_size=4, max_completion_length=8,
            learning_rate=1e-2, seed=3, gradient_checkpointing=False,
        )  # fmt: skip
        config = GRPOConfig(str(tmp_path / kind.__name__), **{**defaults, **settings})
        model = model() if callable(model) else model or tiny_text_checkpoint
        rewards = rewards() if rewards is reward_model else rewards
        worker = kind(model, rewards, config, data, processing_class=processing_class, **(extra or {}))
        worker.train()
        lines = [line for line in worker.state.log_history if "loss" in line]
        log = [(line["loss"], line.get("reward"), line["grad_norm"]) for line in lines]
        weights = torch.cat([p.detach().flatten() for p in worker.model.parameters()])
        return log, weights

    return run


@pytest.fixture
def same(losses):
    def check(*args, **kwargs):
        theirs, ours = losses(GRPOTrainer, *args, **kwargs), losses(OmniGRPOTrainer, *args, **kwargs)
        assert ours[0] == theirs[0]
        assert len(ours[0]) == 2
        assert torch.equal(ours[1], theirs[1])

    return check


def never(checkpoint):
    """TRL's own trainer suppresses one token only; with the same ones suppressed, samples must be the same."""
    tokenizer = load_processor(checkpoint).tokenizer
    return {"suppress_tokens": vision_token_ids(AutoConfig.from_pretrained(checkpoint), tokenizer)}


def reward_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=264, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, pad_token_id=0,
    )  # fmt: skip
    return LlamaForSequenceClassification(config)


@pytest.mark.parametrize("data", [PLAIN, CHAT], ids=["plain", "chat"])
def test_prompts(same, data):
    same(Dataset.from_list(data))


@pytest.mark.parametrize("rewards", [[letters, lengths], [letters, later], [sometimes, letters]])
def test_rewards(same, rewards):
    same(Dataset.from_list(CHAT), rewards, reward_weights=[0.5, 2.0])


@pytest.mark.parametrize("data", [PLAIN, CHAT], ids=["plain", "chat"])
def test_reward_models(same, data, tiny_text_checkpoint):
    tokenizer = load_processor(tiny_text_checkpoint)
    same(Dataset.from_list(data), reward_model, extra={"reward_processing_classes": tokenizer})


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo", "dr_grpo", "cispo", "sapo", "vespo"])
def test_losses(same, loss_type):
    same(Dataset.from_list(CHAT), loss_type=loss_type, beta=0.05, gradient_accumulation_steps=2)


@pytest.mark.parametrize(
    "settings",
    [
        dict(num_iterations=2), dict(importance_sampling_level="sequence", loss_type="grpo"),
        dict(multi_objective_aggregation="normalize_then_sum"), dict(scale_rewards="batch"),
        dict(mask_truncated_completions=True), dict(top_entropy_quantile=0.5), dict(bf16=True),
        dict(steps_per_generation=4, gradient_accumulation_steps=2), dict(gradient_checkpointing=True),
        dict(beta=0.1, sync_ref_model=True, ref_model_sync_steps=1), dict(log_completions=True),
    ],
    ids=str,
)  # fmt: skip
def test_settings(same, settings):
    same(Dataset.from_list(CHAT), [letters, lengths], **settings)


def test_streams(same):
    same(Dataset.from_list(CHAT).to_iterable_dataset())
    same(IterableDataset.from_generator(lambda: iter(PLAIN)))


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_adapters(same, beta):
    same(
        Dataset.from_list(CHAT),
        extra={"peft_config": LoraConfig(target_modules=["q_proj", "v_proj"])},
        beta=beta,
    )


def test_model_objects(same, tiny_text_checkpoint):
    same(Dataset.from_list(CHAT), model=lambda: load_policy(tiny_text_checkpoint))


def test_eval_data(losses, same):
    data = Dataset.from_list(CHAT)
    evaluated = dict(eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=4)
    same(data, extra={"eval_dataset": data}, **evaluated)
    same(data, extra={"eval_dataset": {"a": data, "b": data.select(range(2))}}, **evaluated)


@pytest.mark.parametrize("content", ["string", "blocks"])
def test_a_vision_language_model_on_text(same, tiny_checkpoint, content):
    rows = CHAT
    if content == "blocks":
        rows = [{**r, "prompt": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]} for r in CHAT]
    same(Dataset.from_list(rows), model=tiny_checkpoint, generation_kwargs=never(tiny_checkpoint))
    same(Dataset.from_list(PLAIN), model=tiny_checkpoint, generation_kwargs=never(tiny_checkpoint))


@pytest.mark.parametrize("column", ["images", "image"])
def test_a_vision_language_model_on_images(same, tiny_checkpoint, image_files, column):
    from datasets import Image, List

    value = (lambda path: [path]) if column == "images" else (lambda path: path)
    rows = [{**row, column: value(path)} for row, path in zip(CHAT, image_files, strict=False)]
    feature = List(Image()) if column == "images" else Image()
    same(
        Dataset.from_list(rows).cast_column(column, feature),
        model=tiny_checkpoint,
        generation_kwargs=never(tiny_checkpoint),
    )


def test_custom_rollouts(same, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")

    def rollout(prompts, trainer):
        ids = [[1, 2, 3] for _ in prompts]
        answers = [[5 + i % 7, 6, trainer._tokenizer.eos_token_id] for i in range(len(prompts))]
        return {
            "prompt_ids": ids,
            "completion_ids": answers,
            "logprobs": None,
            "seen": list(range(len(prompts))),
        }

    def reward(completions, seen, **columns):
        return [float(number) for number in seen]

    same(Dataset.from_list(CHAT), reward, extra={"rollout_func": rollout})


class Counter:
    """An environment that counts."""

    def reset(self, **row) -> str | None:
        self.count = 0
        return f" Start at {len(row.get('answer', ''))}."

    def add(self, number: int) -> str:
        """Add to the count.

        Args:
            number: What to add.

        Returns:
            The count.
        """
        self.count += number
        return str(self.count)

    def get_reward(self) -> float:
        return float(self.count)


def test_environments_own_their_rows_and_rewards(same, tiny_text_checkpoint, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    tokenizer = load_processor(tiny_text_checkpoint)
    tokenizer.chat_template = qwen3_chat_template
    data = Dataset.from_list(CHAT)
    same(data, [letters], processing_class=tokenizer, extra={"environment_factory": Counter})
    same(data, None, processing_class=tokenizer, extra={"environment_factory": Counter})
    same(data, [letters], processing_class=tokenizer, extra={"tools": [Counter().add]})


def bare(kind):
    """As TRL's own tests make a trainer: no __init__, and what the method at hand reads."""
    worker = object.__new__(kind)
    worker.accelerator = SimpleNamespace(
        device=torch.device("cpu"), is_main_process=True, process_index=0, gather=lambda values: values
    )
    worker.args = SimpleNamespace(report_to=[])
    worker.model = SimpleNamespace(training=True)
    worker.state = SimpleNamespace(global_step=0, num_input_tokens_seen=0)
    worker._last_loaded_step = 0
    worker.use_vllm = True
    worker._tokenizer = SimpleNamespace(eos_token_id=2, pad_token_id=0)
    worker.eos_token_ids, worker.tools, worker.rollout_func = [2], None, None
    worker.num_generations = 2
    worker._metrics = {"train": defaultdict(list)}
    worker.processing_class = SimpleNamespace(batch_decode=lambda ids, **_: [str(row) for row in ids])
    worker._tokenize_prompts = lambda prompts: ([[5, 6] for _ in prompts], None, {})
    answers = [[7, 2], [8, 9]]
    generate = lambda **_: (None, answers, [[[-0.1], [-0.2]]] * 2, None)  # noqa: E731
    worker.vllm_generation = SimpleNamespace(generate=generate)
    return worker


@pytest.mark.parametrize("tokenizes", [False, True])
def test_a_trainer_without_its_constructor_generates_as_trls(tokenizes):
    found = []
    for kind in (GRPOTrainer, OmniGRPOTrainer):
        worker = bare(kind)
        if tokenizes:
            del worker._tokenize_prompts
            worker._is_vlm, worker.chat_template_kwargs, worker.environment_factories = False, {}, None
            worker.processing_class = FakeTokenizer()
        found.append((worker._generate(["one", "two"]), dict(worker._metrics["train"])))
    assert found[0] == found[1]


class FakeTokenizer(SimpleNamespace):
    def __call__(self, text, **_):
        return {"input_ids": [[len(word)] for word in text]}

    def batch_decode(self, ids, **_):
        return [str(row) for row in ids]


def test_the_model_card_has_no_none(tmp_path, tiny_text_checkpoint):
    config = GRPOConfig(str(tmp_path / "run"), use_cpu=True, bf16=False, report_to="none", num_generations=2)
    worker = OmniGRPOTrainer(tiny_text_checkpoint, letters, config, Dataset.from_list(PLAIN))
    worker.create_model_card("mine")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "None" not in card
    assert f"fine-tuned version of a checkpoint from a folder (`{Path(tiny_text_checkpoint).name}`)." in card
    assert f'model="{tmp_path / "run"}"' in card
