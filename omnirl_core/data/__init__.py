"""Data: rows from files to prompts and image paths. Start at `load_dataset`; formats are in docs/data.md."""

from omnirl_core.data.dataset import TEMPLATES, PromptFormat, load_dataset
from omnirl_core.data.images import image_size, limit_pixels, open_image, picture_problem
from omnirl_core.data.record import DataError, Record, modality
from omnirl_core.data.sources import find_bad_rows, load_records

__all__ = [
    "TEMPLATES",
    "DataError",
    "PromptFormat",
    "Record",
    "find_bad_rows",
    "image_size",
    "limit_pixels",
    "load_dataset",
    "load_records",
    "modality",
    "open_image",
    "picture_problem",
]
