"""Which reward teaches what: docs/reward_study.md, its runs, its figures and its tables.

    python scripts/reward_study.py --folder outputs/reward_study                  # trains what is not there yet
    python scripts/reward_study.py --folder outputs/reward_study --only 'shapes/*/0'
    python scripts/reward_study.py --folder outputs/reward_study --write          # judges, keeps the numbers, writes
    python scripts/reward_study.py --write                                        # writes again from what is kept

A run is one world, one reward and one seed, `shapes/bleu/0`; finished, it is one JSON file in the folder, so that a
study that was stopped goes on where it was, and several processes share it. What the page needs of the runs is kept in
docs/reward_study.json. The runs on SmolLM2 want its checkpoint (recipes/text_only/prepare_smollm2.py) in --smollm2.
"""

import argparse
import fcntl
import fnmatch
import gc
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from scripts.reward_study_page import write_page  # noqa: E402

Settings = dict[str, Any]
FORMAT_WEIGHT = 0.2
JUDGES = str(ROOT / "scripts" / "reward_study_judges.py")
SHAPES_TASKS = ("caption", "text", "caption", "color")
"""Half captions, a quarter about one shape's colour, a quarter sums, comparisons and orderings."""

REWARDS: dict[str, Settings] = {
    "exact": {"scorer": "exact"},
    "bleu": {"scorer": "bleu", "settings": {"light": 1}},
    "rouge": {"scorer": "rouge", "settings": {"light": 1}},
    "meteor": {"scorer": "meteor", "settings": {"light": 1}},
    "original": {"scorer": "overlap", "settings": {"preset": "seed"}},
    "unified": {"scorer": "answer_or_overlap", "settings": {"light": 1, "contradiction": 1}},
    "reference_probability": {"scorer": "reference_probability"},
}
"""The reward that judges the answer -> its entry in rewards.yaml."""


@dataclass(frozen=True)
class World:
    """What is trained on what."""

    settings: Settings
    tags: bool
    """Whether answers stand in tags, with a reward for the form."""
    rewards: tuple[str, ...] = tuple(REWARDS)
    seeds: tuple[int, ...] = (0, 1, 2)
    rows: tuple[int, int] = (3000, 240)
    """Samples to train on, and held out."""


COMMON: Settings = {
    "templates": '{"default": "plain"}', "use_cpu": "true", "bf16": "false", "gradient_checkpointing": "false",
    "lr_scheduler_type": "constant_with_warmup", "save_strategy": "no", "logging_steps": 1, "report_to": "none",
    "disable_tqdm": "true", "num_generations": 8,
}  # fmt: skip
WORLDS = {
    "shapes": World(
        COMMON | {
            "model_name_or_path": "tiny_policy", "max_steps": 80, "per_device_train_batch_size": 64,
            "max_completion_length": 48, "learning_rate": 2e-4, "warmup_steps": 5, "per_device_eval_batch_size": 120,
        },
        tags=True,
    ),
    "facts": World(
        COMMON | {
            "use_peft": "true", "lora_target_modules": "all-linear", "max_steps": 12,
            "per_device_train_batch_size": 16, "max_completion_length": 32, "learning_rate": 8e-4, "warmup_steps": 2,
            "per_device_eval_batch_size": 24,
        },
        tags=False,
        rewards=("unified", "exact", "original"),  # a run takes minutes; reference_probability wants tags
        seeds=(0,),
        rows=(400, 48),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Skill:
    """One change to the run of the unified reward, for the README's training skills."""

    settings: Settings = field(default_factory=dict)
    rewards: tuple[Settings, ...] = ()
    format_weight: float = FORMAT_WEIGHT


LENGTH: Settings = {"name": "length_band", "settings": {"low": 20, "high": 40}}
SKILLS = {
    "length_500": Skill(rewards=({**LENGTH, "weight": 500.0},)),
    "length_small": Skill(rewards=({**LENGTH, "weight": 0.2},)),
    "format_none": Skill(format_weight=0.0),
    "format_heavy": Skill(format_weight=5.0),
    "cut_8": Skill(settings={"max_completion_length": 8}),
}


@dataclass(frozen=True)
class Run:
    """One training, or with the reward `before` none."""

    world: str
    reward: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.world}/{self.reward}/{self.seed}"

    def file(self, folder: Path) -> Path:
        return folder / f"{self.name.replace('/', '-')}.json"


def all_runs() -> list[Run]:
    """Every run of the study, seed by seed, so that what is there is a whole comparison early."""
    runs = [Run(world, "before", 0) for world in WORLDS]
    runs += [Run("shapes", reward, 0) for reward in WORLDS["shapes"].rewards]
    runs += [Run("skills", name, 0) for name in SKILLS]
    runs += [Run("shapes", reward, seed) for seed in (1, 2) for reward in WORLDS["shapes"].rewards]
    return runs + [Run("facts", reward, seed) for seed in WORLDS["facts"].seeds for reward in WORLDS["facts"].rewards]


# --- one run ---


def rewards_of(run: Run) -> list[Settings]:
    """The rewards.yaml of a run: the form, the reward that it is about, and the check of facts, which only looks."""
    skill = SKILLS.get(run.reward, Skill())
    judge = {"name": "judge", "weight": 1.0, **REWARDS.get(run.reward, REWARDS["unified"])}
    if not world_of(run).tags:
        return [{**judge, "reads": "completion"}]
    form = {"name": "think_format", "weight": skill.format_weight}
    watched = {"name": "right", "function": f"{JUDGES}:right", "weight": 0.0}
    return [form, judge, *skill.rewards, watched]


def world_of(run: Run) -> World:
    return WORLDS["shapes" if run.world == "skills" else run.world]


def prepare(world: str, folder: Path, rows: tuple[int, int]) -> tuple[Path, Path]:
    """The samples to train on and those held out; drawn once."""
    from omnirl_core.shapes import write_dataset
    from recipes.text_only.prepare_facts import write_facts

    place = folder / "data" / f"{world}_{rows[0]}_{rows[1]}"
    if world == "facts":
        train, test = (write_facts(place, n, split=split) for split, n in zip(("train", "test"), rows, strict=True))
    else:
        train, test = (
            write_dataset(place, SHAPES_TASKS, n, 0, split) for split, n in zip(("train", "test"), rows, strict=True)
        )
    return train, test


def train(run: Run, folder: Path, given: Mapping[str, Any], rows: tuple[int, int] | None = None) -> dict[str, Any]:
    """Train one run and answer the held-out samples greedily; what its JSON holds."""
    from omnirl_core.config import parse
    from omnirl_tools.run import answered, start_quietly
    from recipes import grpo

    world, place = world_of(run), folder / "work" / run.name.replace("/", "-")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "rewards.yaml").write_text(yaml.safe_dump({"rewards": rewards_of(run)}, sort_keys=False))
    data, held_out = prepare("facts" if run.world == "facts" else "shapes", folder, rows or world.rows)
    settings = {
        **world.settings, **SKILLS.get(run.reward, Skill()).settings, "dataset_name": data, "seed": run.seed,
        "eval_dataset_name": held_out, "rewards": place / "rewards.yaml", "output_dir": place / "out", **given,
    }  # fmt: skip
    arguments = parse([str(part) for key, value in settings.items() for part in (f"--{key}", value)])
    start_quietly(arguments[1])
    started, cpu = time.monotonic(), time.process_time()
    trainer, _, samples = grpo.build(*arguments)
    if run.reward != "before":
        trainer.train()
    trainer.args.max_completion_length = world.settings["max_completion_length"]  # held-out answers are never cut
    lines = answered(trainer, [], samples)
    kept = ("task", "problem", "solution", "completion", "n_tokens")
    found = {
        "run": run.name,
        "settings": {key: settings[key] for key in ("max_steps", "per_device_train_batch_size", "learning_rate")},
        "minutes": round((time.monotonic() - started) / 60, 2),
        "cpu_minutes": round((time.process_time() - cpu) / 60, 2),
        "curves": curves(place / "out"),
        "answers": [{key: line[key] for key in kept} for line in lines],
    }
    del trainer
    gc.collect()
    shutil.rmtree(place)
    return found


CURVES = {
    "reward": "reward",
    "judge": "rewards/judge/mean",
    "form": "rewards/think_format/mean",
    "right": "rewards/right/mean",
    "length_reward": "rewards/length_band/mean",
    "constant": "frac_reward_zero_std",
    "tokens": "completions/mean_length",
    "cut": "completions/clipped_ratio",
}
"""Name in the JSON -> name in the log."""


def curves(output: Path) -> dict[str, list[list[float]]]:
    """The series of a run's log, `[step, value]`."""
    from omnirl_tools.report.panels import read_metrics

    lines = [line for line in read_metrics(output) if "reward" in line]
    found = {
        key: [[line["step"], round(float(line[logged]), 4)] for line in lines if line.get(logged) is not None]
        for key, logged in CURVES.items()
    }
    return {key: points for key, points in found.items() if points}


# --- the study ---


@contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Whether this process may make the file: it is not there, and no other process is at it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield not file.exists()


def study(folder: Path, only: str, given: Mapping[str, Any], rows: tuple[int, int] | None = None) -> list[Path]:
    """Train the runs whose name fits the pattern and that are not there; the files that were made."""
    made = []
    for run in all_runs():
        file = run.file(folder)
        if not fnmatch.fnmatch(run.name, only):
            continue
        with claimed(file) as free:
            if free:
                found = train(run, folder, given, rows)
                file.with_suffix(".part").write_text(json.dumps(found, ensure_ascii=False))
                file.with_suffix(".part").replace(file)
                made.append(file)
                print(f"{run.name}: {found['minutes']} minutes, {found['cpu_minutes']} of CPU time", flush=True)
    return made


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where finished runs are; without one --write takes what is kept")
    parser.add_argument("--only", default="*", help="runs whose name fits this pattern")
    parser.add_argument("--smollm2", type=Path, default=ROOT / "outputs" / "smollm2_135m", help="its checkpoint")
    parser.add_argument("--setting", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    parser.add_argument(
        "--rows", nargs=2, type=int, metavar=("TRAIN", "TEST"), help="samples, in place of the study's"
    )
    parser.add_argument("--write", action="store_true", help="train nothing; write the page")
    args = parser.parse_args(argv)
    WORLDS["facts"].settings["model_name_or_path"] = str(args.smollm2)
    if args.write:
        write_page(args.folder)
    elif args.folder is None:
        parser.error("--folder: name the folder of the runs, or give --write")
    else:
        study(args.folder.resolve(), args.only, dict(args.setting), tuple(args.rows) if args.rows else None)


if __name__ == "__main__":
    main()
