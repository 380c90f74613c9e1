"""A run's config: every fault told before a model is loaded, at once, with its place and the nearest valid choice."""

import inspect
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trl.trainer.grpo_trainer
from forked import environment, python
from trl import GRPOConfig

from omnirl_core.config import TRL_CHOICES, DataArguments, making_faults, parse
from omnirl_core.yaml_loader import ConfigError
from omnirl_tools.checks.path_checks import file_faults
from recipes.grpo import main

ROOT = Path(__file__).parents[2]
WHOLE = "dataset_name: d.json\nrewards: r.yaml\nuse_cpu: true\nbf16: false\n"


def faults(text: str, *options: str, folder: Path, check_files: bool = False) -> list[str]:
    """What is said of a config with these lines."""
    (folder / "run.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        parse(["--config", str(folder / "run.yaml"), *options], [file_faults] if check_files else [])
    return [line.removeprefix(f"{folder}/") for line in error.value.faults]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("learning_rat: 1e-6", "run.yaml:5: unknown setting 'learning_rat'; did you mean 'learning_rate'?"),
        ("zzzz: 1", "run.yaml:5: unknown setting 'zzzz'; --help lists all"),
        ("use_cpu: false", "run.yaml:5: 'use_cpu' appears twice; keep one"),
        ("learning_rate: fast", "run.yaml:5: learning_rate: 'fast' is not float"),
        ("max_steps: 1.5", "run.yaml:5: max_steps: 1.5 is not int"),
        ("max_steps: true", "run.yaml:5: max_steps: True is not int"),
        ("max_steps: [1]", "run.yaml:5: max_steps: [1] is not int"),
        ("max_steps: {a: 1}", "run.yaml:5: max_steps: {'a': 1} is not int"),
        ("max_steps:", "run.yaml:5: max_steps: None is not int"),
        ("gradient_checkpointing: maybe", "run.yaml:5: gradient_checkpointing: 'maybe' is not bool"),
        ("lora_target_modules: [q_proj, 3]", "run.yaml:5: lora_target_modules: 3 is not str"),
        ("run_name: 5", "run.yaml:5: run_name: 5 is not str or null; put it in quotes"),
        ("templates: [plain]", "run.yaml:5: templates: ['plain'] is not dict or str or null"),
        ("on_bad_sample: skipp", "run.yaml:5: on_bad_sample: 'skipp' is not a choice; did you mean 'skip'?"),
        ("check_images: pixel", "run.yaml:5: check_images: 'pixel' is not a choice; did you mean 'pixels'?"),
        ("dtype: bfloat", "run.yaml:5: dtype: 'bfloat' is not a choice; did you mean 'bfloat16'?"),
        ("lr_scheduler_type: cosin", "run.yaml:5: lr_scheduler_type: 'cosin' is not a choice; did you mean 'cosine'?"),
        ("eval_strategy: step", "run.yaml:5: eval_strategy: 'step' is not a choice; did you mean 'steps'?"),
        ("loss_type: dr_grop", "run.yaml:5: loss_type: 'dr_grop' is not a choice; did you mean 'dr_grpo'?"),
        ("scale_rewards: groups", "run.yaml:5: scale_rewards: 'groups' is not a choice; did you mean 'group'?"),
        ("shared_prefix: always", "run.yaml:5: shared_prefix: 'always' is not a choice; known: auto, on, off"),
        ("env: [A]", "run.yaml:5: env: ['A'] is no mapping of names to values"),
        ("max_image_pixels: 0", "run.yaml:5: max_image_pixels 0 is not a whole number above 0"),
        ("max_pixels: -1", "run.yaml:5: max_pixels -1 is not a whole number above 0"),
        ("fp16: true\nhalf_precision: x", "run.yaml:6: unknown setting 'half_precision'"),
        ("generation_batch_size: 8\nsteps_per_generation: 2", "can not be both configured at the same time"),
        ("learning_rate: 2001-99-99", "run.yaml: a value that does not fit its tag or form: month must be in 1..12"),
    ],
)  # fmt: skip
def test_each_fault_of_a_line(tmp_path, line, said):
    found = faults(WHOLE + line, folder=tmp_path)
    assert any(message.startswith(said) or said in message for message in found), found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--learning_rat", "1"],
            "command line: unknown option --learning_rat; did you mean 'learning_rate'?",
        ),
        (["--learn", "1"], "command line: unknown option --learn"),  # no abbreviations
        (["--learning_rate", "fast"], "command line: learning_rate: 'fast' is not float"),
        (["--learning-rate=fast"], "command line: learning_rate: 'fast' is not float"),
        (["--learning_rate"], "command line: --learning_rate wants a value"),
        (["--learning_rate", "1", "2"], "command line: --learning_rate takes one value, found '1 2'"),
        (["--dtype", "bfloat"], "command line: dtype: 'bfloat' is not a choice; did you mean 'bfloat16'?"),
        (["--torch_dtype", "bfloat"], "command line: dtype: 'bfloat' is not a choice"),
        (["--templates", '{"default": '], "command line: templates: "),
        (["--config", "other.yaml"], "command line: --config is given twice; one file holds all settings"),
    ],
)
def test_overrides_are_checked_the_same_way(tmp_path, options, said):
    found = faults(WHOLE, *options, folder=tmp_path)
    assert any(message.startswith(said) for message in found), found


def test_words_before_any_option(tmp_path):
    with pytest.raises(ConfigError, match=r"'run.yaml' belongs to no option; is it --config run.yaml\?"):
        parse(["run.yaml"])


def test_all_at_once_and_in_one_order(tmp_path):
    text = WHOLE + "learning_rat: 1\nmax_steps: ten\nper_device_train_batch_size: 6\nnum_generations: 4\n"
    text += "min_pixels: 9\nmax_pixels: 3\nimage_root: nowhere\ntemplates: {default: no place}\n"
    text += "model_name_or_path: ./gone\n"
    text += "save_strategy: epoch\nload_best_model_at_end: true\n"
    found = faults(text, "--temprature", "2", folder=tmp_path, check_files=True)
    starts = [
        "run.yaml:5: unknown setting 'learning_rat'",
        "command line: unknown option --temprature; did you mean 'temperature'?",
        "run.yaml:6: max_steps: 'ten' is not int",
        "run.yaml:2: rewards: no file r.yaml",
        "run.yaml:1: dataset_name: d.json: no such data file",
        "run.yaml:12: templates: template of 'default' is 'no place'",
        "run.yaml:11: image_root: no folder nowhere",
        "run.yaml:13: model_name_or_path: no folder ./gone",
        "min_pixels 9 is above max_pixels 3",
        "generation_batch_size (6) must be divisible by num_generations (4)",
        "--load_best_model_at_end requires the save and eval strategy to match",
    ]
    for start in starts:
        assert any(start in message for message in found), (start, found)
    assert all(any(start in message for start in starts) or "strategy" in message for message in found), found


def test_what_is_valid_passes(tmp_path):
    (tmp_path / "run.yaml").write_text(
        WHOLE + "learning_rate: 1e-6\nwarmup_steps: 5\nshared_prefix: off\nsave_strategy: no\nscale_rewards: false\n"
        "report_to: [none]\ntemplates: {default: plain}\nlora_target_modules: [q_proj, v_proj]\nrun_name: '5'\n"
        "torch_dtype: bfloat16\nmodel_name_or_path: tiny_policy\nlr_scheduler_kwargs: {a: 1}\n"
    )
    options = [
        "--max_steps=7",
        "--no_use_cpu",
        "--use_cpu",
        "--draw_shapes",
        '{"task": "rec"}',
        "--learning-rate",
        "2e-6",
    ]
    data, training, model = parse(["--config", str(tmp_path / "run.yaml"), *options])
    assert (training.learning_rate, training.warmup_steps, training.max_steps, training.use_cpu) == (
        2e-6,
        5,
        7,
        True,
    )
    assert (training.shared_prefix, training.save_strategy, training.scale_rewards) == ("off", "no", "none")
    assert (data.templates, data.draw_shapes) == ({"default": "plain"}, {"task": "rec"})
    assert (model.lora_target_modules, model.dtype, training.lr_scheduler_kwargs) == (
        ["q_proj", "v_proj"],
        "bfloat16",
        {"a": 1},
    )
    assert training.run_name == "5"


def test_it_makes_what_trls_parser_makes(tmp_path, monkeypatch):
    """The demo's config, on the command line or in the file: the same objects as TrlParser's."""
    import yaml
    from trl import ModelConfig, TrlParser

    from omnirl_core.trainer import OmniGRPOConfig
    from omnirl_core.yaml_loader import read_config

    monkeypatch.chdir(ROOT)
    (tmp_path / "flat.yaml").write_text(yaml.safe_dump(read_config("recipes/mixed/demo.yaml")))
    kinds = [DataArguments, OmniGRPOConfig, ModelConfig]
    options = ["--max_steps", "9", "--lora_target_modules", "a", "b", "--report_to", "none", "--use_peft"]
    theirs = TrlParser(kinds).parse_args_and_config(["--config", str(tmp_path / "flat.yaml"), *options])
    ours = parse(["--config", "recipes/mixed/demo.yaml", *options])
    for one, other in zip(theirs, ours, strict=True):
        fields = [name for name in vars(one) if name not in ("distributed_state", "logging_dir")]
        assert {name: vars(one)[name] for name in fields} == {name: vars(other)[name] for name in fields}


def test_the_choices_that_are_kept_here_are_trls():
    """All that TRL's documentation of a setting quotes, and nothing that its trainer does not know."""
    source = inspect.getsource(trl.trainer.grpo_trainer) + inspect.getsource(GRPOConfig)
    for name, choices in TRL_CHOICES.items():
        words = [word for word in choices if isinstance(word, str)]
        assert all(f'"{word}"' in source for word in words), name
        assert GRPOConfig.__dataclass_fields__[name].default in choices


@dataclass
class Picky:
    """Stops at its first fault, as most configs do."""

    a: int = 0
    b: int = 0
    c: int = field(default=0)

    def __post_init__(self):
        for name in ("a", "b", "c"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} is below 0")
        if self.b and not self.a:
            raise ValueError("b wants a")


def test_making_tells_more_than_the_first_fault():
    assert making_faults(Picky, {"a": -1, "b": 1, "c": -2}) == [
        "a -1 is below 0",
        "c -2 is below 0",
        "b wants a",
    ]
    assert making_faults(Picky, {"a": 1, "b": 1}) == []


def test_missing_settings_say_what_they_are():
    with pytest.raises(ConfigError, match="dataset_name is missing: training rows: JSON, JSONL, Parquet") as error:
        parse([])
    assert "rewards is missing" not in str(error.value)  # without one, the rows' answers decide


def test_a_config_that_is_not_there_names_its_neighbour(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=r"no such config file.*did you mean 'recipes/mixed/demo.yaml'\?"):
        parse(["--config", "recipes/mixed/dmo.yaml"])


def test_an_include_of_earlier_versions_is_refused_with_what_to_do(tmp_path):
    found = faults("include: [part.yaml, ../other.yaml]\n" + WHOLE, folder=tmp_path)
    assert found == [
        "run.yaml:1: `include` is not supported: a config holds all of its settings. Copy those of part.yaml, "
        "../other.yaml into this file, above the file's own, and remove the line"
    ]


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.json").write_text('[{"problem": "Q", "solution": 1}]')
    (tmp_path / "r.yaml").write_text("rewards:\n- {name: exact}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("eval_dataset_name: dd.json", "eval_dataset_name: dd.json: no such data file"),
        ("eval_dataset_name: dd.json", "did you mean 'd.json'?"),
        ("image_root: no", "image_root: False is not str or null; put it in quotes"),
        ("image_root: imgs", "image_root: no folder imgs"),
        ("output_dir: d.json", "output_dir: d.json is a file"),
        ("fsdp_config: dd.json", "fsdp_config: no file dd.json; did you mean 'd.json'?"),
        ("accelerator_config: dd.json", "accelerator_config: no file dd.json; did you mean 'd.json'?"),
        ("deepspeed: dd.json", "deepspeed: no file dd.json; did you mean 'd.json'?"),
        ("deepspeed: r.yaml", "deepspeed: r.yaml is no JSON file that can be read: Expecting value"),
        ("fsdp_config: empty", "fsdp_config: empty is no JSON file that can be read"),
        ("temperature: 0", "temperature 0 is not above 0: greedy completions of a group are all the same"),
        ("max_completion_length: 0", "max_completion_length 0 is not a number from 1 on"),
        ("per_device_train_batch_size: 0", "per_device_train_batch_size 0 is not a number from 1 on"),
        ("gradient_accumulation_steps: 0", "gradient_accumulation_steps 0 is not a number from 1 on"),
        ("learning_rate: .nan", "learning_rate nan is not a number from 0 on"),
        ("learning_rate: -1e-6", "learning_rate -1e-06 is not a number from 0 on"),
        ("chat_template_kwargs: nope", "chat_template_kwargs: 'nope' is no mapping; write"),
        ("attn_implementation: sdpaa", "attn_implementation: 'sdpaa' is not known; did you mean 'sdpa'?"),
        ("report_to: [wandbb]", "report_to: 'wandbb' is no tracker; did you mean 'wandb'?"),
        ("model_name_or_path: /no/model", "model_name_or_path: no folder /no/model; there is no folder /no"),
        ("model_name_or_path: org/not-there", "not in the hub's cache, and HF_HUB_OFFLINE is set"),
        ("model_name_or_path: ./empty", "./empty holds no config.json, so it is no model's folder"),
        ("model_name_or_path: ./pickled", "./pickled has its weights in pytorch_model.bin, a pickle"),
        ("draw_shapes: {task: mixd}", "draw_shapes: task 'mixd' is not known; did you mean 'mixed'?"),
        ("draw_shapes: {tasks: mixed}", "draw_shapes: unknown key 'tasks'; did you mean 'task'?"),
        ("draw_shapes: {task: mixed, train: -1}", "draw_shapes: train -1 is not a whole number"),
        ("templates: {default: plan}", "templates: template of 'default' is 'plan'; give one of plain, r1"),
    ],
)
def test_files_are_looked_up(files, monkeypatch, line, said):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (files / "empty").mkdir()
    (files / "pickled").mkdir()
    (files / "pickled" / "config.json").write_text("{}")
    (files / "pickled" / "pytorch_model.bin").write_bytes(b"")
    found = faults(WHOLE + line, folder=files, check_files=True)
    assert any(said in message for message in found), found


def test_faults_of_the_rewards_and_the_mixture_are_reported_with_the_config(files):
    (files / "r.yaml").write_text("rewards:\n- {name: exactt}\n- {name: exact, weigth: 1}\n")
    (files / "mix.yaml").write_text(
        "datasets:\n- {json_path: d.json, sampling_strategy: last:3}\n- {json_path: e.json}\n"
    )
    found = faults(WHOLE.replace("d.json", "mix.yaml") + "max_steps: x", folder=files, check_files=True)
    assert [message.split(": ")[0] for message in found] == [
        "run.yaml:5", "r.yaml:2", "r.yaml:3", "run.yaml:1", "run.yaml:1",
    ]  # fmt: skip
    assert "mix.yaml:2: sampling_strategy" in found[3]
    assert "e.json: no such data file" in found[4]


def test_a_run_stops_there(files):
    with pytest.raises(ConfigError, match=r"no file gone\.yaml"):
        main(["--dataset_name", "d.json", "--rewards", "gone.yaml", "--use_cpu", "--bf16", "false"])


@pytest.mark.slow
def test_the_command_line_gets_lines_and_not_a_traceback(files):
    """As argparse ends: the faults on stderr, exit code 2; the second process of a machine says nothing."""
    command = [
        python(),
        str(ROOT / "recipes/grpo.py"),
        "--dataset_name",
        "d.json",
        "--rewads",
        "r.yaml",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment(PYTHONPATH=str(ROOT)))
    assert done.returncode == 2
    assert "command line: unknown option --rewads; did you mean 'rewards'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_remote_code_is_off_unless_asked_for(files):
    (files / "run.yaml").write_text(WHOLE)
    _, training, _ = parse(["--config", "run.yaml"])
    assert training.trust_remote_code is False
    configs = [*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("accelerate_configs/*.yaml")]
    assert len(configs) > 10
    assert not [path for path in configs if "trust_remote_code" in path.read_text()]
    assert json.dumps(training.model_init_kwargs) in ("null", "{}")


@pytest.mark.parametrize("text", ['{"problem": "question"}', "{problem: question}"])
def test_a_mapping_on_the_command_line_is_json_or_yaml(text, files):
    (files / "run.yaml").write_text(
        "dataset_name: d.json\nmodel_name_or_path: m\noutput_dir: out\nuse_cpu: true\nbf16: false\n"
    )
    data, _, _ = parse(["--config", "run.yaml", "--columns", text])
    assert data.columns == {"problem": "question"}
