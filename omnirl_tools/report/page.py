"""The report's HTML: a template, its style and its one script, filled into a single file."""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from omnirl_core.types import JsonObject
from omnirl_tools.evaluation.compare import Change
from omnirl_tools.evaluation.metrics import Figure
from omnirl_tools.report.panels import Panel
from omnirl_tools.report.svg import panel_svg

HERE = Path(__file__).parent
NOT_GIVEN: dict[str, Any] = {
    "kind": "Run report",
    "summary": [],
    "tiles": [],
    "changes": [],
    "figures": [],
    "panels": [],
    "run": {},
    "n_completions": 0,
}
BOTH = "Each row with both answers, their scores, their rewards and their boxes."
ALONE = "Each row with its answer, its score, its rewards and its boxes."
TRAINING = (
    "What the policy answered while it trained: the completions of one prompt stand together, best first, with the "
    "advantage that each got over its group."
)


def write_page(path: Path, name: str, data: JsonObject, **facts: Any) -> Path:
    """Fill the template and write the page.

    The template escapes all text; `data` goes in as JSON that no HTML parser can end early, for the script to
    show. `data["names"]` are what the two answers of a row are called. `facts` are the template's, see NOT_GIVEN.
    """
    script, style = (HERE / "page.js").read_text("utf-8"), (HERE / "page.css").read_text("utf-8")
    facts = NOT_GIVEN | facts
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("page.html").render(
        name=name,
        names=data["names"],
        at=_axis([*facts["changes"], *facts["figures"]]),
        curve=_curve,
        script=Markup(script),
        script_hash=_hash(script),
        style=Markup(style),
        data=_island(data),
        data_rows=len(data["rows"]),
        parts=(
            {"id": "rows", "title": "Held-out rows", "lead": BOTH if len(data["names"]) > 1 else ALONE},
            {"id": "training", "title": "Training completions", "lead": TRAINING},
        ),
        **facts,
    )
    path.write_text(html, encoding="utf-8", errors="backslashreplace")  # text may hold half a surrogate pair
    return path


def _curve(panel: Panel) -> Markup:
    return Markup(panel_svg(panel))


def _axis(intervals: Sequence[Change | Figure]) -> Callable[[float], str]:
    """Place a value on the axis of the intervals: 200 units that hold 0 and the ends of all."""
    ends = [0.0, *(end for one in intervals for end in (one.low, one.high))]
    low, reach = min(ends), (max(ends) - min(ends)) or 1.0
    return lambda value: f"{200 * (value - low) / reach:.1f}"


def _hash(script: str) -> str:
    """Name the one script that the page's policy lets run: one that a completion smuggles in would not."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _island(data: dict[str, Any]) -> Markup:
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)  # ASCII: any character as \u....
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
