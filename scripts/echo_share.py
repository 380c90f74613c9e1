"""Whether a policy drifts to echoing the question: 300 GRPO steps with recipes/rewards/unified_text.yaml.

    python scripts/echo_share.py --out outputs/echo_share --figure docs/pictures/echo_share.png   # minutes on a CPU

The samples are questions about drawn images that are answered by a sentence ("The color of the star is red."). The
tiny policy first imitates a mixture of answers, so that it finds every kind of them: 4 in 10 right, 2 with a guessed
fact, 4 made of the question alone. Then GRPO trains it, once with the reward as it is and once without the
content weighting (`light: 1, contradiction: 1`, as the reward was before). Two rewards of weight 0 count, in each
batch, the completions that echo the question and those that are right.
"""

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from transformers import AutoModelForImageTextToText, AutoProcessor, set_seed

from omnirl_core.data import load_dataset
from omnirl_core.rewards import load_rewards
from omnirl_core.shapes import tiny_policy, write_dataset
from omnirl_core.text import answer_text, tokens
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from omnirl_tools.report.figures import COLORS, draw_curve, style
from omnirl_tools.report.panels import read_metrics

REWARDS = Path(__file__).parents[1] / "recipes" / "rewards" / "unified_text.yaml"
TASKS = ("color", "shape", "count")
FILLERS = {"it", "is", "the", "a", "an", "are", "there", "that", "of", "s"}
RUNS = {"content weights (as shipped)": {}, "all words alike (before)": {"light": 1.0, "contradiction": 1.0}}
FACTS = {
    "color": ("red", "green", "blue", "yellow", "purple", "black"),
    "shape": ("circle", "square", "triangle", "star"),
    "count": ("0", "1", "2", "3"),
}


# --- samples ---


def asked(sample: dict[str, Any]) -> str:
    """What a question asks about: the star, the red shape, the red shapes."""
    last = sample["problem"].rstrip(".?").split()
    if sample["task"] == "color":
        return next(word for word in last if word in FACTS["shape"])
    if sample["task"] == "shape":
        return next(word for word in last if word in FACTS["color"])
    return " ".join(word for word in last if word.endswith("s") and word not in ("is", "shapes")) or "shapes"


def sentence(sample: dict[str, Any], fact: str) -> str:
    """The answer as a sentence that repeats the words of the question."""
    about = asked(sample)
    if sample["task"] == "color":
        return f"The color of the {about} is {fact}."
    if sample["task"] == "shape":
        return f"The {about} shape is a {fact}."
    return f"The number of {about} is {fact}."


def echo(sample: dict[str, Any]) -> str:
    """The same sentence without its fact."""
    return sentence(sample, "").replace(" is a .", ".").replace(" is .", ".")


def draw(folder: Path, n: int) -> Path:
    """Rows of the drawn world whose solutions are sentences."""
    path = write_dataset(folder, TASKS, n=n, seed=0)
    rows = json.loads(path.read_text())
    for row in rows:
        row["fact"] = str(row["solution"])
        row["solution"] = sentence(row, row["fact"])
    path = folder / "sentences.json"
    path.write_text(json.dumps(rows))
    return path


# --- counting ---


def is_echo(answer: str, problem: str) -> bool:
    """Whether an answer of at least two words has none but the question's and fillers.

    >>> is_echo("The color of the star.", "What color is the star?"), is_echo("red", "What color is the star?")
    (True, False)
    """
    words = tokens(answer)
    return len(words) > 1 and set(words) <= set(tokens(problem)) | FILLERS | {"color", "shape", "number"}


def counter(judge: Callable[[str, str, str], bool], name: str) -> Callable[..., list[float]]:
    """A reward of TRL's form that counts the completions of one kind."""

    def count(completions: list[Any], problem: list[str], solution: list[str], **columns: Any) -> list[float]:
        texts = [answer_text(completion) or "" for completion in completions]
        return [float(judge(*one)) for one in zip(texts, problem, solution, strict=True)]

    count.__name__ = name
    return count


COUNTERS = [
    counter(lambda answer, problem, solution: is_echo(answer, problem), "echo"),
    counter(lambda answer, problem, solution: tokens(answer) == tokens(solution), "right"),
]


# --- training ---


def imitate(folder: Path, rows: Dataset, steps: int, batch_size: int = 32) -> Path:
    """The tiny policy after some steps of imitation of the mixture; saved to `folder`."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_policy(), dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tiny_policy())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rng = random.Random(0)
    for step in range(steps):
        samples = [rows[rng.randrange(len(rows))] for _ in range(batch_size)]
        loss = model(**batch(samples, processor, rng)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 19:
            print(f"imitation {step + 1}/{steps}  loss {loss.item():.3f}", flush=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def response(sample: dict[str, Any], rng: random.Random) -> str:
    kind = rng.random()
    answer = sample["solution"] if kind < 0.4 else sentence(sample, rng.choice(FACTS[sample["task"]]))
    if kind >= 0.6:
        answer = echo(sample)
    return f"<think>I look at the picture.</think><answer>{answer}</answer>"


def batch(samples: list[dict[str, Any]], processor: Any, rng: random.Random) -> dict[str, torch.Tensor]:
    """Padded prompts and responses, with labels (-100 elsewhere) on the responses."""
    end = processor.tokenizer.eos_token
    responses = [response(sample, rng) + end for sample in samples]
    prompts = [processor.apply_chat_template(sample["prompt"], add_generation_prompt=True) for sample in samples]
    texts = [prompt + said for prompt, said in zip(prompts, responses, strict=True)]
    images = [image for sample in samples for image in sample["images"]]
    inputs = processor(text=texts, images=images, padding=True, padding_side="right", return_tensors="pt")
    labels = torch.full_like(inputs["input_ids"], -100)  # (B, P + C)
    for k, said in enumerate(responses):
        size = len(processor.tokenizer(said)["input_ids"])
        stop = int(inputs["attention_mask"][k].sum())
        labels[k, stop - size : stop] = inputs["input_ids"][k, stop - size : stop]
    return {**inputs, "labels": labels}


def train(policy: Path, rows: Dataset, folder: Path, settings: dict[str, float], steps: int, seed: int) -> None:
    """One run; its log is in the folder."""
    config = yaml.safe_load(REWARDS.read_text())
    overlap = next(entry for entry in config["rewards"] if entry["name"] == "overlap")
    overlap["settings"] |= settings
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rewards.yaml").write_text(yaml.safe_dump(config))
    rewards = load_rewards(folder / "rewards.yaml")
    args = OmniGRPOConfig(
        output_dir=str(folder), reward_weights=[*(reward.weight for reward in rewards), 0.0, 0.0],
        max_steps=steps, num_generations=8, per_device_train_batch_size=64, max_completion_length=40,
        learning_rate=1e-4, lr_scheduler_type="constant", seed=seed, logging_steps=5, save_strategy="no",
        report_to="none", disable_tqdm=True, use_cpu=True, bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = OmniGRPOTrainer(str(policy), [*rewards, *COUNTERS], args, train_dataset=rows)
    trainer.train()


def shares(folder: Path) -> list[dict[str, float]]:
    """The logged steps of a run, finished or not: step, and the shares of echoes and of right answers."""
    return [
        {"step": line["step"], **{name: line[f"rewards/{name}/mean"] for name in ("echo", "right")}}
        for line in read_metrics(folder)
        if "rewards/echo/mean" in line
    ]


# --- the figure ---


def plot(runs: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Shares of echoes and right answers over the steps."""
    style()
    figure = Figure(figsize=(8.6, 3.1), dpi=130)
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"echo": "Completions that echo the question", "right": "Completions that are right"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for (label, lines), color in zip(runs.items(), COLORS, strict=False):
            draw_curve(axes, [(line["step"], line[name]) for line in lines], label, color)
        axes.set(title=title, xlabel="step", ylim=(-0.02, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    panels[1].legend(loc="lower right")
    figure.savefig(path)


def share(lines: list[dict[str, float]], name: str, last: bool) -> float:
    part = lines[-5:] if last else lines[:2]
    return sum(line[name] for line in part) / len(part)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder for data, policy and runs")
    parser.add_argument("--figure", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--imitation_steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", action="store_true", help="draw the runs that are in --out, train none")
    args = parser.parse_args(argv)
    folders = {label: args.out / f"run_{place}" for place, label in enumerate(RUNS)}
    if not args.plot:
        set_seed(args.seed)
        rows = load_dataset(draw(args.out / "data", 3000), templates={"default": "plain"})
        policy = imitate(args.out / "policy", rows, args.imitation_steps)
        for label, settings in RUNS.items():
            train(policy, rows, folders[label], settings, args.steps, args.seed)
    runs = {label: shares(folder) for label, folder in folders.items()}
    for label, lines in runs.items():
        for name in ("echo", "right"):
            print(f"{label}: {name} {share(lines, name, False):.2f} (the first 10 steps) -> "
                  f"{share(lines, name, True):.2f} (25 steps up to {lines[-1]['step']:.0f})")  # fmt: skip
    plot(runs, args.figure)


if __name__ == "__main__":
    main()
