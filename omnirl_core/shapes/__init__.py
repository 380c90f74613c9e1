"""A small drawn world and a policy small enough to learn in it on a laptop."""

from .dataset import write_dataset
from .policy import tiny_policy
from .tasks import GROUPS, TASKS

__all__ = ["GROUPS", "TASKS", "tiny_policy", "write_dataset"]
