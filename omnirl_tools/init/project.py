"""A project of the user's own: data, model and GPU looked at, and the files that follow from them."""

import tempfile
from dataclasses import replace
from pathlib import Path

from transformers import AutoTokenizer

from omnirl_core.config import DataArguments
from omnirl_core.data import Record
from omnirl_core.data.columns import ColumnNames
from omnirl_core.data.record import modality
from omnirl_core.launch import silence_upstream_noise
from omnirl_core.shapes import tiny_policy
from omnirl_core.types import counted
from omnirl_tools.commands import CannotRun
from omnirl_tools.init.data import Data, images_inside, lines_of, read_data
from omnirl_tools.init.folder import Written, commands, readme
from omnirl_tools.init.model import Fit, Model, fit
from omnirl_tools.init.settings import GPU_PIXELS, TINY_PIXELS, Plan, config_text, sft_text
from omnirl_tools.memory import Prompt
from omnirl_tools.memory.fitting import GIB
from omnirl_tools.memory.prompts import longest_prompt
from omnirl_tools.sft import answer_text
from omnirl_tools.suggest_rewards import Suggestion, suggest
from omnirl_tools.suggestion.judges import FAMILIES
from omnirl_tools.suggestion.kinds import read_reference

ROOM = 1024
"""Tokens of thought and answer for a model that thinks."""


def project(
    folder: str, given: str, model: Model, image_root: str | None, columns: ColumnNames | None, gib: float | None
) -> Written:
    """All files for this data, model and GPU. CannotRun says what cannot be trained on."""
    silence_upstream_noise()
    data = read_data(given, image_root, columns)
    if data.share("images") and not model.sees:
        raise CannotRun(f"the data has images, and {model.name} is a language model; take a vision-language model")
    rewards = rewards_for(data, model)
    plan = _plan(folder, data, model, gib)
    files = {
        "config.yaml": config_text(plan),
        "rewards.yaml": rewards.yaml_text,
        "data/train.jsonl": lines_of(data.train, data.image_root),
        "data/test.jsonl": lines_of(data.held_out, data.image_root),
    }
    if plan.warm_start:
        files["sft.yaml"] = sft_text(plan)
    if data.left_out:
        files["data/left_out.txt"] = "".join(f"{reason.splitlines()[0]}\n" for reason in data.left_out)
    written = Written(files, _seen(plan), [*data.unclear, *rewards.unclear, *model.unclear, *plan.fit.unclear])
    written.seen += [f"it needs {extra}" for extra in _extras(plan, rewards)]
    inside = images_inside(data.samples, data.image_root)
    written.images = {f"data/{name}": path for name, path in inside.items()}
    written.commands = commands(folder, plan.start if plan.warm_start else None)
    files["README.md"] = readme(folder, f"{given}, {model.name}, {_machine(plan.fit)}", written)
    return written


def rewards_for(data: Data, model: Model) -> Suggestion:
    """Rewards by what the answers are; samples of a mix without tasks get the names of their kinds."""
    found = suggest(data.samples, space=model.space)
    if not found.yaml_text:
        raise CannotRun(f"--data {data.given}: no reward fits the answers: {'; '.join(found.unclear)}")
    tasks = {record.task for record in data.samples}
    if not set(found.judges) - tasks:
        return found
    data.train, data.held_out = (
        [_with_task(record, found) for record in part] for part in (data.train, data.held_out)
    )
    named = suggest(data.samples, space=model.space)
    kinds = ", ".join(str(task) for task in named.judges)
    data.unclear.append(f"the answers are of several kinds; each sample's `task` says which: {kinds}")
    return named


def _with_task(record: Record, found: Suggestion) -> Record:
    kind = read_reference(record).kind
    family = next((name for name, kinds in FAMILIES.items() if kind in kinds), None)
    name = family if record.task is None else f"{record.task}_{family}"
    return replace(record, task=name) if name in found.judges else record


def _extras(plan: Plan, rewards: Suggestion) -> list[str]:
    """Packages that the run needs beside omnirl-core's own."""
    needed = {
        "bitsandbytes": plan.fit.how == "QLoRA",
        "math-verify": any("math" in one for one in rewards.judges.values()),
    }
    return [f"`pip install {name}`" for name, is_so in needed.items() if is_so]


def _plan(folder: str, data: Data, model: Model, gib: float | None) -> Plan:
    max_pixels = (
        (TINY_PIXELS if model.is_tiny else GPU_PIXELS) if data.share("images") and model.bounds_pixels else None
    )
    template = _template(data, model)
    answer_tokens = _answer_tokens(data, model)
    prompt = _longest(data, model, template, max_pixels)
    shared = {"max_completion_length": answer_tokens, "max_pixels": max_pixels}
    memory = fit(model, gib, prompt, {name: value for name, value in shared.items() if value is not None})
    why = _why_warm_start(model)
    return Plan(folder, data, model, memory, prompt.tokens, max_pixels, template, answer_tokens, why)


def _template(data: Data, model: Model) -> str | None:
    """`{problem}` for the tiny policy; None where the default, `r1`, holds."""
    lists_options = data.share("options") == 1 and not _shows_options(data.samples)
    if model.is_tiny:
        return "{problem}\n{options}" if lists_options else "plain"
    boxes = all(read_reference(record).kind == "box" for record in data.samples[:200])
    return "choice" if lists_options else "rec_r1" if boxes else None


def _shows_options(samples: list[Record]) -> bool:
    """Whether the questions have the options in their own text."""

    def shows(record: Record) -> bool:
        options = record.extra.get("options")
        texts = options.values() if isinstance(options, dict) else options if isinstance(options, list) else []
        return bool(texts) and all(str(text) in record.problem for text in texts)

    return sum(map(shows, samples[:200])) > 0.5 * len(samples[:200])


def _answer_tokens(data: Data, model: Model) -> int:
    if not model.is_tiny:
        return ROOM
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy())
    answers = [answer_text(record.solution) for record in data.samples[:500]]
    longest = max(len(tokenizer(text)["input_ids"]) for text in answers)
    return max(48, min(256, -(-(longest + 32) // 16) * 16))


def _longest(data: Data, model: Model, template: str | None, max_pixels: int | None) -> Prompt:
    with tempfile.TemporaryDirectory(prefix="omnirl_init_") as place:
        path = Path(place, "samples.jsonl")
        path.write_text(lines_of(data.samples, place), encoding="utf-8")
        templates = None if template is None else {"default": template}
        arguments = DataArguments(str(path), templates=templates, allow_outside_image_root=True)
        return longest_prompt(arguments, model.config, None, max_pixels) or Prompt(256)


def _why_warm_start(model: Model) -> str | None:
    if model.is_tiny:
        return "the tiny policy knows drawn shapes only"
    if model.is_read and model.parameters < 1e9:
        return "models below a billion parameters seldom answer in the form that is asked for"
    is_tuned = any(
        word in model.name.lower() for word in ("instruct", "-it", "chat", "vl", "thinking", "smolvlm", "llava")
    )
    return None if is_tuned else "the name does not say that it is tuned to follow instructions"


def _seen(plan: Plan) -> list[str]:
    data = plan.data
    kinds = {
        kind: sum(modality(record) == kind for record in data.samples) for kind in ("text", "image", "multi-image")
    }
    shown = ", ".join(f"{n} {kind}" for kind, n in kinds.items() if n)
    n_train, n_test = len(data.train), len(data.held_out)
    lines = [f"{counted(len(data.samples), 'sample')} ({shown}): {n_train} to train on, {n_test} held out"]
    if data.columns.names:
        names = ", ".join(f"{ours}: {_plain(theirs)}" for ours, theirs in data.columns.names.items())
        lines.append(f"columns: {{{names}}}")
    if data.columns.lettered:
        lines.append(f"options from the columns {', '.join(data.columns.lettered)}")
    rest = sorted({name for one in data.samples for name in one.extra} - {"options"})
    if rest:
        lines.append(f"columns that are neither in the prompt nor the answer: {', '.join(rest)}")
    if data.left_out:
        lines.append(f"{counted(len(data.left_out), 'row')} left out, each with its reason in data/left_out.txt")
    lines.append(f"prompts of up to about {plan.prompt_tokens:,} tokens, image tokens included")
    return [*lines, f"{plan.model.name} on {_machine(plan.fit)}"]


def _plain(theirs: object) -> str:
    return str(theirs).replace("'", "")


def _machine(found: Fit) -> str:
    return "a CPU" if found.gpu is None else f"a GPU of {found.gpu / GIB:.0f} GiB, {found.how}"
