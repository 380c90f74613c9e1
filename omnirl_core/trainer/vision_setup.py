"""What a run does to the policy's vision side once TRL has made the trainer."""

from typing import Any

from omnirl_core.models import freeze_vision_tower, keep_4bit_trainable
from omnirl_core.trainer.dummy_image import add_dummy_images, remove_dummy_image, takes_part_whole
from omnirl_core.trainer.multimodal import suppress_vision_tokens
from omnirl_core.trainer.preparation import stop_ddp_search


def set_up_vision(trainer: Any, ddp_search: bool | None) -> None:
    """Freeze the tower, keep it in every forward, and keep its tokens out of completions, as the run needs it.

    Args:
        trainer: OmniGRPOTrainer.
        ddp_search: the user's `ddp_find_unused_parameters`.
    """
    keep_4bit_trainable(trainer.model)
    if trainer.settings.freeze_vision_tower:
        freeze_vision_tower(trainer.model)
    trainer.dummy_image = add_dummy_images(trainer) if trainer._is_mixed else None
    if trainer.dummy_image is None:
        remove_dummy_image(trainer.model)
    elif ddp_search is None and takes_part_whole(trainer.model):
        stop_ddp_search(trainer)
    if trainer._is_vlm:
        suppress_vision_tokens(trainer)
