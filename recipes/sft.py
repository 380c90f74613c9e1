"""Warm start: teach the policy the form and the answers of your rows by TRL's SFTTrainer, before GRPO.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/sft.py --config recipes/mixed/sft.yaml

It reads the rows that recipes/grpo.py reads, text-only, one picture or many. What it saves is a policy that
recipes/grpo.py starts from: `--model_name_or_path <output_dir>`.
"""

from omnirl_core.launch import start

if __name__ == "__main__":
    start("omnirl_tools.sft")
