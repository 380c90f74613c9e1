"""Train a vision-language model by GRPO on text, images, or any mix of the two.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/grpo.py --config recipes/mixed/demo.yaml

Every key of the YAML can be given on the command line too, as `--key value`.
"""

from omnirl_core.quiet_imports import silence_imports

if __name__ == "__main__":
    silence_imports()
    from omnirl_core.run import main

    main()
