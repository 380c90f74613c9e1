"""A group whose completions all earned the same has no signal, whatever float32 makes of its deviation."""

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig

from omnirl_core.trainer import OmniGRPOTrainer
from omnirl_core.trainer.reward_stats import constant_groups

NAN = float("nan")


def reported(groups, weights, **settings):
    return constant_groups(torch.tensor(groups), weights, **settings).tolist()


@pytest.mark.parametrize("normalize_first", [False, True])
def test_rounding_is_no_signal(normalize_first):
    group = [[0.2, 1.0]] * 8
    sums = torch.tensor(group).sum(1)
    assert sums.std() > 1e-8  # what TRL looks at
    assert reported([group], [1.0, 1.0], normalize_first=normalize_first) == [True]
    assert reported([[[0.1, 0.7]] * 7 + [[0.1, 0.7001]]], [0.3, 0.9], normalize_first=normalize_first) == [False]


def test_the_sum_counts_and_not_its_parts():
    assert reported([[[1.0, 0.0], [0.0, 1.0]]], [0.5, 0.5]) == [True]
    assert reported([[[1.0, 0.0], [0.0, 1.0]]], [0.5, 0.4]) == [False]
    assert reported([[[1.0, 0.3], [1.0, 0.8]]], [1.0, 0.0]) == [True]  # a reward of weight 0 is only shown


def test_where_each_reward_is_normalised_it_is_the_normalised_sum():
    groups = [[[1.0, 0.0], [0.0, 10.0]]]  # two rewards that pull equally, once they are normalised
    assert reported(groups, [1.0, 1.0]) == [False]
    assert reported(groups, [1.0, 1.0], normalize_first=True) == [True]
    assert reported(groups, [1.0, 0.5], normalize_first=True) == [False]


def test_abstentions():
    group = [[NAN, 0.5], [0.0, 0.5], [NAN, NAN]]  # TRL's sum takes the first for 0, and leaves the third out
    assert reported([group, [[NAN, NAN]] * 3], [1.0, 1.0]) == [True, True]
    assert reported([[[NAN, 0.5], [0.1, 0.5], [NAN, NAN]]], [1.0, 1.0]) == [False]
    assert reported([group], [1.0, 1.0], normalize_first=True) == [True]


def test_small_rewards_are_a_signal():
    assert reported([[[0.0], [1e-9]], [[0.0], [0.0]]], [1.0]) == [False, True]


def by_prompt(prompts, **columns):
    """0.2 for the prompts that speak of a word, and a different value for each other completion."""
    texts = [str(prompt) for prompt in prompts]
    return [0.2 if "word" in text else 0.1 * place for place, text in enumerate(texts)]


def form(prompts, **columns):
    return [1.0] * len(prompts)


EIGHT = {"num_generations": 8, "per_device_train_batch_size": 16, "max_steps": 1, "max_completion_length": 2}


@pytest.mark.parametrize(
    ("setting", "aggregation"),
    [
        (True, "sum_then_normalize"),
        (True, "normalize_then_sum"),
        (False, "sum_then_normalize"),
        ("plain GRPOConfig", "sum_then_normalize"),
    ],
)
def test_their_advantages_are_zero(rows, config, tiny_text_checkpoint, setting, aggregation):
    settings = {**EIGHT, "multi_objective_aggregation": aggregation, "log_completions": True}
    if isinstance(setting, bool):
        args = config(**settings, zero_constant_groups=setting)
    else:
        own = config(**settings)
        names = (
            "output_dir",
            "use_cpu",
            "bf16",
            "report_to",
            "seed",
            "disable_tqdm",
            "logging_steps",
            *settings,
        )
        args = GRPOConfig(**{name: getattr(own, name) for name in names})
    data = Dataset.from_dict({"prompt": ["Say a word.", "Say more."]})
    worker = OmniGRPOTrainer(tiny_text_checkpoint, [by_prompt, form], args, data)
    seen = {}
    plain = worker._prepare_inputs

    def prepare(batch):
        inputs = plain(batch)
        seen["advantages"] = inputs["advantages"]
        seen["logged"] = list(worker._logs["advantages"])
        return inputs

    worker._prepare_inputs = prepare
    worker.train()
    line = next(line for line in worker.state.log_history if "frac_reward_zero_std" in line)
    n_zero = int((seen["advantages"] == 0).sum())
    assert n_zero == sum(value == 0 for value in seen["logged"])
    assert sorted(seen["advantages"].tolist()) == pytest.approx(sorted(seen["logged"]))
    if setting is True:
        assert n_zero == 8
        assert line["frac_reward_zero_std"] == 0.5
    else:
        assert n_zero == 0
        assert (seen["advantages"].abs() < 0.02).sum() == 8  # what rounding leaves
        assert line["frac_reward_zero_std"] == (0.0 if setting == "plain GRPOConfig" else 0.5)
