"""Train a vision-language model by GRPO on text, images, or any mix of the two.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/grpo.py --config recipes/mixed/demo.yaml

Every key of the YAML can be given on the command line too, as `--key value`; `--debug` shows errors with their
traceback.
"""

from omnirl_core.launch import start

if __name__ == "__main__":
    start("omnirl_tools.run")
