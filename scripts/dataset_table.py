"""The table of recipes/datasets/README.md, from the YAMLs: `python scripts/dataset_table.py` renews it."""

import re
import sys
from pathlib import Path

from omnirl_core.yaml_loader import read_config

FOLDER = Path(__file__).parents[1] / "recipes" / "datasets"
PAGE = FOLDER / "README.md"
START, END = "<!-- made by scripts/dataset_table.py -->", "<!-- end of scripts/dataset_table.py -->"
HEAD = ["recipe", "what", "hub", "licence", "rewards"]


def recipes() -> list[Path]:
    """The configs of runs, one a data set."""
    return [path for path in sorted(FOLDER.glob("*.yaml")) if not path.name.endswith("rewards.yaml")]


def line(path: Path) -> str:
    """A row of the table; ValueError where the head of the file does not say it."""
    text, own = path.read_text(encoding="utf-8"), read_config(path)
    what = re.match(r"# GRPO on (.+): LoRA", text)
    licence = re.search(r"^# Licence: (.+)$", text, re.MULTILINE)
    if not what or not licence:
        raise ValueError(f"{path}: the head lacks `# GRPO on ...: LoRA` or `# Licence: ...`")
    hub = own["dataset_name"].partition(":")[0]
    rewards = Path(own["rewards"])
    target = rewards.name if rewards.parent.name == FOLDER.name else f"../rewards/{rewards.name}"
    cells = [
        f"[{path.stem}]({path.name})", what[1], f"[{hub}](https://huggingface.co/datasets/{hub})", licence[1],
        f"[{rewards.name}]({target})",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def table() -> str:
    head = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    return "\n".join([START, *head, *(line(path) for path in recipes()), END])


def main() -> int:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(before + table() + rest.partition(END)[2], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
