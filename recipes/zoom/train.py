"""GRPO with a tool that returns an image: the policy may enlarge a part of the sample's image before it answers.

    accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/zoom/train.py \\
        --config recipes/zoom/qwen3_vl_4b.yaml

TRL runs the tools: it parses the call, appends what the tool returns to the answer, and lets the policy go on. Tokens
of the tool's turn, those of its images among them, have no part in the loss. What a tool needs of the sample comes to
it through an environment, whose `reset` is given the sample. Samples without an image may stand
in the same data. Of a run, all else is as in recipes/grpo.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from omnirl_core import launch

if __name__ == "__main__":
    launch.before_imports()  # they take seconds

from PIL import Image
from trl import get_peft_config

from omnirl_core.config import parse
from omnirl_core.data import open_image
from omnirl_core.rewards import load_rewards
from omnirl_core.trainer import OmniGRPOTrainer
from omnirl_tools.checks.path_checks import file_faults
from omnirl_tools.model_settings import model_settings, policy_path, quantization_settings
from omnirl_tools.run import checkpoint_to_resume, fitted, start_quietly
from omnirl_tools.samples import read_rows

SIDE = 448
"""Pixels of the longer side of what is enlarged: 196 image tokens of Qwen3-VL for a square."""


class Zoom:
    """The environment of one answer: its methods are the tools that the policy may call."""

    def reset(self, **sample) -> None:
        """Take the sample's images, opened or as paths."""
        images = sample.get("images") or []
        self.images: list[Image.Image] = [open_image(one) if isinstance(one, str) else one for one in images]

    def zoom(self, x1: int, y1: int, x2: int, y2: int) -> list | str:
        """Enlarge a part of the image.

        Args:
            x1: Left edge, in thousandths of the width.
            y1: Upper edge, in thousandths of the height.
            x2: Right edge, in thousandths of the width.
            y2: Lower edge, in thousandths of the height.

        Returns:
            An image of that part.
        """
        if not self.images:
            return "There is no image."
        image = self.images[0]
        box = [min(max(int(edge), 0), 1000) / 1000 for edge in (x1, y1, x2, y2)]
        left, upper, right, lower = (edge * size for edge, size in zip(box, image.size * 2, strict=True))
        if right - left < 1 or lower - upper < 1:
            return "The part is empty: x2 and y2 must lie beyond x1 and y1."
        part = image.crop((int(left), int(upper), int(right + 0.5), int(lower + 0.5)))
        scale = SIDE / max(part.size)
        part = part.resize([max(round(side * scale), 1) for side in part.size])
        return [{"type": "image", "image": part}, {"type": "text", "text": "The part, enlarged."}]


@launch.ending_all_ranks
def main(argv: list[str] | None = None) -> OmniGRPOTrainer:
    """Run the config that `argv` (default: the command line) names; the trainer after training."""
    data_args, training_args, model_args = parse(argv, [file_faults])
    start_quietly(training_args)
    checkpoint = checkpoint_to_resume(training_args)
    output_dir = Path(str(training_args.output_dir))
    dataset = read_rows(data_args, data_args.dataset_name, training_args.seed, output_dir / "bad_rows.txt")
    rewards = fitted(load_rewards(str(data_args.rewards)), dataset, None)
    training_args.model_init_kwargs = model_settings(model_args)
    trainer = OmniGRPOTrainer(
        model=policy_path(model_args),
        args=training_args,
        reward_funcs=rewards,
        train_dataset=dataset,
        quantization_config=quantization_settings(model_args),
        peft_config=get_peft_config(model_args),
        environment_factory=Zoom,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    return trainer


if __name__ == "__main__":
    launch.start(main)
