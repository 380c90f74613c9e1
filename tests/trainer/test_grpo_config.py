import dataclasses
import json
import pickle
import warnings

import pytest
from transformers import HfArgumentParser
from trl import TrlParser

from omnirl_core.trainer import OmniGRPOConfig


def test_default_length_is_trls(config):
    made = OmniGRPOConfig("runs/x", use_cpu=True, bf16=False)
    assert made.max_completion_length == 512
    assert type(made.max_completion_length) is int


@pytest.mark.parametrize("settings", [{"max_output_token_length": 100}, {"max_completion_length": 100},
                                      {"max_output_token_length": 100, "max_completion_length": 100}])  # fmt: skip
def test_both_names_of_the_length(settings):
    made = OmniGRPOConfig("runs/x", use_cpu=True, bf16=False, **settings)
    assert made.max_completion_length == 100
    assert dataclasses.replace(made, max_completion_length=7, generation_batch_size=None).max_completion_length == 7
    assert pickle.loads(pickle.dumps(made)).max_completion_length == 100
    assert json.loads(made.to_json_string())["max_completion_length"] == 100


@pytest.mark.parametrize("given", [512, 64])
def test_two_lengths_that_differ_are_an_error(given):
    with pytest.raises(ValueError, match=f"100 and max_completion_length {given} are two names"):
        OmniGRPOConfig("x", use_cpu=True, bf16=False, max_output_token_length=100, max_completion_length=given)


def test_all_faults_at_once():
    with pytest.raises(ValueError, match="above 0") as error:
        OmniGRPOConfig(
            "x", use_cpu=True, bf16=False, min_pixels=0, max_pixels=-3, max_prompt_length=1.5,  # type: ignore[arg-type]
            on_long_prompt="cut", max_output_token_length=0, num_generations=1,
        )  # fmt: skip
    assert str(error.value).splitlines() == [
        "max_output_token_length 0 is not a whole number above 0",
        "min_pixels 0 is not a whole number above 0",
        "max_pixels -3 is not a whole number above 0",
        "max_prompt_length 1.5 is not a whole number above 0",
        "on_long_prompt 'cut' is neither 'error' nor 'drop'",
        "GRPO requires at least 2 generations per prompt to calculate the advantages. You provided 1, which is less "
        "than the minimum required.",
    ]


def test_pixel_limits_in_the_wrong_order():
    with pytest.raises(ValueError, match="min_pixels 9,000 is above max_pixels 4,000"):
        OmniGRPOConfig("x", use_cpu=True, bf16=False, min_pixels=9000, max_pixels=4000)


def test_command_line_and_yaml(tmp_path):
    words = (
        "--output_dir x --use_cpu --bf16 false --max_output_token_length 64 --max_pixels 4096 --on_long_prompt drop"
    )
    [made] = HfArgumentParser(OmniGRPOConfig).parse_args_into_dataclasses(words.split())
    assert (made.max_completion_length, made.max_pixels, made.on_long_prompt) == (64, 4096, "drop")
    path = tmp_path / "c.yaml"
    path.write_text(
        "output_dir: x\nuse_cpu: true\nbf16: false\nmax_completion_length: 32\nfreeze_vision_tower: true\n"
    )
    [made] = TrlParser(OmniGRPOConfig).parse_args_and_config(["--config", str(path), "--max_prompt_length", "99"])
    assert (made.max_completion_length, made.freeze_vision_tower, made.max_prompt_length) == (32, True, 99)


def test_making_one_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OmniGRPOConfig("x", use_cpu=True)
        OmniGRPOConfig("x", use_cpu=True, gradient_checkpointing=False)
    assert OmniGRPOConfig("x", use_cpu=True).gradient_checkpointing is True
    assert OmniGRPOConfig("x", use_cpu=True, activation_checkpointing=False).gradient_checkpointing is False
