"""Figures of a run: `plot_curves` and `write_completions` read the files in its folder."""

from omnirl_tools.report.boxes import draw_boxes
from omnirl_tools.report.completions import write_comparison, write_completions
from omnirl_tools.report.curves import plot_curves
from omnirl_tools.report.evaluation import write_evaluation

__all__ = ["draw_boxes", "plot_curves", "write_comparison", "write_completions", "write_evaluation"]
