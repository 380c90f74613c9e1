"""Names shared by every module, and the glossary of tensor shapes.

Shapes, written as a comment on the line where a tensor changes: `B` prompts in a batch, `G` completions per
prompt (one group), `P` prompt tokens, `C` completion tokens, `V` vocabulary, `N` patches of all images of a batch.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]
"""One chat turn: `{"role": "user", "content": "..." | [{"type": "text" | "image", ...}, ...]}`."""

Sample: TypeAlias = dict[str, Any]
"""One sample of a data set: its columns by name."""

Line: TypeAlias = dict[str, Any]
"""One line of a JSON Lines file."""

JsonObject: TypeAlias = dict[str, Any]
"""A mapping as JSON and YAML have it: settings, facts of a run, what a page shows."""

Columns: TypeAlias = dict[str, list[Any]]
"""A batch of samples as `datasets` has it: the values of each column."""

ModelInputs: TypeAlias = dict[str, Any]
"""What a processor makes and a model takes, by name: tensors, and lists that follow the samples."""

Settings: TypeAlias = Mapping[str, Any]
"""Settings, columns or facts by name, to be read only."""

Completion: TypeAlias = str | list[Message]
"""What a model answered: plain text, or (conversational data sets) a list of assistant messages."""

Box: TypeAlias = tuple[float, float, float, float]
"""`(x1, y1, x2, y2)`, exclusive end, in pixels of the original image unless a name says otherwise."""
