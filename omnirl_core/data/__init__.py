"""Data: rows from files to prompts and image paths. Start at `load_dataset`; formats are in docs/data.md."""

from omnirl_core.data.dataset import load_dataset
from omnirl_core.data.images import image_size, open_image
from omnirl_core.data.prompts import TEMPLATES, PromptFormat
from omnirl_core.data.record import DataError, Record, modality
from omnirl_core.data.sources import load_records

__all__ = [
    "TEMPLATES",
    "DataError",
    "PromptFormat",
    "Record",
    "image_size",
    "load_dataset",
    "load_records",
    "modality",
    "open_image",
]
