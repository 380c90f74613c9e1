"""Answer a recipe's held-out rows with any model and judge the answers by the recipe's rewards.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/evaluate.py \\
        --config recipes/mixed/demo.yaml --model_name_or_path outputs/mixed_demo

The model is a hub id, a run's folder, a checkpoint or a LoRA adapter; `--completions FILE` judges answers that
are there already. docs/evaluation.md says what is written and how REC's protocols are chosen.
"""

from omnirl_core.launch import start

if __name__ == "__main__":
    start("omnirl_tools.evaluate")
