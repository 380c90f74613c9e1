"""What a reward logs in training is what evaluation says of the same completion: 1,000 completions a config.

The trainer's whole path runs but for the sampler: rows drawn, images resized by the real processor, completions
tokenized and decoded, rewards called by TRL, lines written. Evaluation reads the lines.
"""

import random
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from omnirl_core.rewards import load_rewards
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from omnirl_tools.evaluation.lines import read_lines
from omnirl_tools.evaluation.ready import ready_generations
from omnirl_tools.evaluation.score import score_rows

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    {*ROOT.glob("recipes/*/*rewards.yaml"), *ROOT.glob("recipes/rewards/*.yaml")}
    - {ROOT / "recipes/rewards/judge.yaml"}
)
GROUP, PROMPTS, PROMPTS_OF_CODE = 20, 50, 2  # each program runs in a process of its own

TEXT = "a red circle to the left of a small blue square"
REFERENCES = {
    "text": TEXT, "caption": [TEXT, "a blue square right of a red circle"], "choice": "B", "count": 7, "math": "1/2",
    "color": "red", "shape": "circle", "compare": "the second", "boxes": [4, 3, 20, 16],
    "detection": [{"bbox_2d": [4, 3, 20, 16], "label": "dog"}, {"bbox_2d": [1, 1, 9, 9], "label": "cat"}],
    "chinese": "红色的圆在蓝色方块的左边", "yes": "yes", "none": None,
    "code": {"tests": [{"stdin": "1 2", "stdout": "3"}, {"stdin": "4 5", "stdout": "9"}]},
}  # fmt: skip
OF_TASK = {
    "table": "| a | b |\n|---|---|\n| 1 | 2 |", "page": TEXT, "chart": "7", "document": "red circle",
    "tests": [{"type": "present", "text": "red circle"}, {"type": "present", "text": "blue"}],
    "click": [4, 3, 20, 16], "count_points": [[4, 3], [20, 16]],
    "point": [12, 9], "mask": [[4, 3], [20, 3], [20, 16], [4, 16]], "span": [1, 3],
    "qa": TEXT, "vqa": ["red"] * 6 + ["blue"] * 4, "contains": "red", "pattern": "[A-Z]|red", "about": 7,
    "labels": ["red", "circle"], "ranking": [4, 3, 20, 16], "json": {"bbox_2d": [1, 1, 9, 9]}, "report": TEXT,
}  # fmt: skip
"""References of tasks that only one config has; REFERENCES stand in rows of every config."""
SEEN = {"caption", "color", "shape", "count", "boxes", "detection", "compare"}
SAID = [
    TEXT, "a blue circle", "B", "(B) the square", "A", "7", "seven", "7.2", "0.5", "\\frac{1}{2}", "red", "circle",
    "the second", "yes", "", "红色的圆在左边", "[4, 3, 20, 16]", "[5, 2, 22, 15]", "[0, 0, 500, 500]",
    '[{"bbox_2d": [4, 3, 20, 16], "label": "dog"}]', '{"bbox_2d": [1, 1, 9, 9]}', "[[4, 3, 20, 16], [1, 1, 9, 9]]",
    "(4, 3), (20, 16)", "[[4, 3], [20, 16]]",
    "[1, 2", "no box", "| a | b |\n|---|---|\n| 1 | 3 |", "[[4, 3], [20, 3], [20, 16], [4, 16]]",
    f"# Seen\n- {TEXT}", "🙂 é", "red red red red red red red red red",
]  # fmt: skip
PROGRAM = "```python\na, b = map(int, input().split())\nprint(a {} b)\n```"
FRAMES = [
    "<think>{thought}</think><answer>{said}</answer>",
    "<think>{thought}</think>\n<answer> {said} </answer>\n",
    "<answer>{said}</answer>",
    "<think>{thought}</think>{said}",
    "<think>{thought}</think><answer>{said}",
    "<think>{thought}</think><answer>no</answer><answer>{said}</answer>",
    "<think>is it <answer>{said}</answer>?</think>",
    "{said}",
]


class Scripted(OmniGRPOTrainer):
    """Its completions are the next of a list."""

    said: list[str]

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        texts = [self.said.pop() for _ in prompt_ids]
        ids = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return [[*own, self._tokenizer.eos_token_id] if len(own) % 7 else own or [0] for own in ids], None


def asked(number: int, kind: str, image_files: list[str], task: str | None) -> dict[str, Any]:
    images = image_files[number % 5 : number % 5 + (2 if kind == "compare" else 1)] if kind in SEEN else []
    blocks = [*({"type": "image"} for _ in images), {"type": "text", "text": f"What is in question {number}?"}]
    return {
        "prompt": [{"role": "user", "content": blocks}], "images": images, "task": task,
        "solution": (REFERENCES | OF_TASK)[kind],
        "problem": f"What is in question {number}?", "row_id": f"rows.json:{number}",
    }  # fmt: skip


def rows_for(path: Path, image_files: list[str]) -> list[dict[str, Any]]:
    """Rows of every kind, under the tasks that the config knows and under none, each `GROUP` times."""
    rewards = load_rewards(path)
    tasks = [task for reward in rewards for task in reward.tasks or ()]
    kinds = ["code"] if path.stem == "code" else [kind for kind in REFERENCES if kind != "code"]
    rows = []
    for number in range(PROMPTS_OF_CODE if path.stem == "code" else PROMPTS):
        kind = kinds[number % len(kinds)]
        task = tasks[number % len(tasks)] if tasks and number % 9 else None
        kind = task if task in REFERENCES or task in OF_TASK else kind
        if path.parent.name == "documents" and task == "page":  # drawn pages are judged by tests, as olmOCR-Bench's
            kind = "tests"
        rows += [asked(number, kind, image_files, task)] * GROUP
    return rows


def completions(n: int, is_code: bool) -> list[str]:
    chance = random.Random(0)
    pool = [PROGRAM.format(sign) for sign in "+-*%"] if is_code else SAID
    thoughts = ["", "so", "it is red " * 3, "I look at the image and count what I see. " * 4, "想一想"]
    return [
        chance.choice(FRAMES[:1] * 8 + FRAMES).format(said=chance.choice(pool), thought=chance.choice(thoughts))
        for _ in range(n)
    ]


@pytest.fixture(scope="module")
def trained(tiny_checkpoint, image_files, tmp_path_factory):
    """Let a trainer under one reward config score completions; return its rows and the lines it wrote."""

    def score(path: Path) -> tuple[list[dict], Path]:
        rows = rows_for(path, image_files)
        folder = tmp_path_factory.mktemp("run")
        config = OmniGRPOConfig(
            output_dir=str(folder), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            disable_tqdm=True, save_strategy="no", num_generations=GROUP, per_device_train_batch_size=len(rows),
            max_completion_length=4000, shared_prefix="off",
        )  # fmt: skip
        index = Dataset.from_dict({"place": list(range(len(rows)))})
        drawn = index.with_transform(lambda batch: {k: [rows[i][k] for i in batch["place"]] for k in rows[0]})
        trainer = Scripted(tiny_checkpoint, load_rewards(path), config, drawn)
        trainer.said = completions(len(rows), path.stem == "code")
        if path.stem == "answer_form":
            trainer.said[::100] = ["red " * 1200] * len(trainer.said[::100])
        trainer.model.train()
        trainer.jsonl_logger.on_train_begin(trainer.args, trainer.state, trainer.control)  # lines of training
        trainer._generate_and_score_completions([dict(row) for row in rows])
        return rows, folder / "completions.jsonl"

    return score


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_reward_and_evaluation_agree_on_every_row(path, trained):
    rows, file = trained(path)
    logged = read_lines(file)
    assert len(logged) == len(rows) == GROUP * (PROMPTS_OF_CODE if path.stem == "code" else PROMPTS)
    rewards = load_rewards(path)
    lines = score_rows(rows, ready_generations(file, rows), rewards)
    of_policy = {reward.__name__ for reward in rewards if reward.needs_policy}  # which an evaluation has not
    for line, known in zip(lines, logged, strict=True):
        assert line["completion"] == known["completion"]
        expected = {name: None if name in of_policy else value for name, value in known["rewards"].items()}
        assert line["rewards"] == {name: pytest.approx(value, abs=2e-6) for name, value in expected.items()}
    for reward in rewards:
        if reward.__name__ in of_policy:
            continue
        values = {line["rewards"][reward.__name__] for line in lines} - {None}
        assert len(values) > 1, f"{reward.__name__} tells nothing apart: the rows do not test it"


def test_there_are_configs_of_every_recipe():
    recipes = {path.parent.name for path in ROOT.glob("recipes/*/demo.yaml")}
    assert recipes <= {path.parent.name for path in CONFIGS}
