"""The model card of a run whose policy came from a folder, or which is in no hub."""

import os
from pathlib import Path

from transformers import PreTrainedConfig
from trl.trainer.utils import get_config_model_id


def mend_model_card(folder: str | os.PathLike[str], config: PreTrainedConfig) -> None:
    """Say in `folder`/README.md what TRL 1.16 leaves as None: the policy that was trained, and where to load it."""
    card = Path(folder) / "README.md"
    policy = Path(get_config_model_id(config) or "").name
    before = f"a checkpoint from a folder (`{policy}`)" if policy else "a model that was made in the run"
    text = card.read_text(encoding="utf-8")
    text = text.replace("[None](https://huggingface.co/None)", before)
    text = text.replace('model="None"', f'model="{os.fspath(folder)}"')
    card.write_text(text, encoding="utf-8")
