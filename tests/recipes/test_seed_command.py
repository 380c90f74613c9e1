"""The earlier OmniRL's own command line starts the REC recipe.

Taken from its README, with the script's path changed. Forced by this machine, and nothing else: four processes in place
of eight (the fewest whose batch of 1, accumulated twice, holds a group of 8), the tiny policy in place of the 3B,
`none` in place of `wandb`, which is not installed, and one step on the CPU. flash_attention_2 stays: it falls back.
"""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from forked import environment, python

from omnirl_core.shapes import tiny_policy, write_dataset
from scripts.ports import free_port

ROOT = Path(__file__).parents[2]
COMMAND = """
torchrun --nproc_per_node="8" \
    --nnodes="1" \
    --node_rank="0" \
    --master_addr="127.0.0.1" \
    --master_port="12346" \
    src/open_r1/grpo_rec.py \
    --deepspeed local_scripts/zero3.json \
    --output_dir output/$RUN_NAME \
    --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct \
    --dataset_name data_config/rec.yaml \
    --image_root <your_image_root> \
    --max_prompt_length 1024 \
    --num_generations 8 \
    --per_device_train_batch_size 1 \
    --gradient_accumulation_steps 2 \
    --logging_steps 1 \
    --bf16 \
    --torch_dtype bfloat16 \
    --data_seed 42 \
    --report_to wandb \
    --gradient_checkpointing false \
    --attn_implementation flash_attention_2 \
    --num_train_epochs 2 \
    --run_name $RUN_NAME \
    --save_steps 100 \
    --save_only_model true
"""
ZERO3 = {
    "bf16": {"enabled": "auto"},
    "zero_optimization": {
        "stage": 3, "overlap_comm": True, "contiguous_gradients": True, "sub_group_size": 1e9,
        "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto", "stage3_gather_16bit_weights_on_model_save": True,
    },
    "gradient_accumulation_steps": "auto", "gradient_clipping": "auto", "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto", "wall_clock_breakdown": False,
}  # fmt: skip


def seed_command(folder: Path) -> list[str]:
    changes = {
        "src/open_r1/grpo_rec.py": str(ROOT / "recipes" / "grpo.py"),
        "<your_image_root>": "images",
        "$RUN_NAME": "rec",
        "8\" ": "4\" ", "12346": str(free_port()),
        "Qwen/Qwen2.5-VL-3B-Instruct": tiny_policy(),
        "wandb": "none",
    }  # fmt: skip
    text = COMMAND
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return shlex.split(text.replace("torchrun", f"{python()} -m torch.distributed.run", 1))


@pytest.mark.slow
def test_it_starts_the_rec_recipe(tmp_path):
    write_dataset(tmp_path / "images", "rec", 8, 0)
    for folder in ("local_scripts", "data_config"):
        (tmp_path / folder).mkdir()
    (tmp_path / "local_scripts" / "zero3.json").write_text(json.dumps(ZERO3))
    (tmp_path / "data_config" / "rec.yaml").write_text("datasets:\n    - json_path: ../images/train.json\n")
    command = [
        *seed_command(tmp_path),
        "--use_cpu",
        "true",
        "--max_steps",
        "1",
        "--max_output_token_length",
        "16",
    ]
    given = environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(
        command, cwd=tmp_path, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=540
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert "flash_attention_2 needs a GPU" in done.stdout
    assert "box_iou judges them (space: resized, pick: only)" in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "output/rec/completions.jsonl").read_text().splitlines()]
    assert len(lines) == 4 * 1 * 2, "processes x batch x accumulation: all four took part"
    assert set(lines[0]["rewards"]) == {"think_format", "box_iou"}
    facts = json.loads((tmp_path / "output/rec/run.json").read_text())
    assert facts["config"]["max_completion_length"] == 16
    assert (tmp_path / "output/rec/model.safetensors").exists()
