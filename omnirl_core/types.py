"""Names shared by every module, and the glossary of tensor shapes.

Shapes, written as a comment on the line where a tensor changes: `B` prompts in a batch, `G` completions per
prompt (one group), `P` prompt tokens, `C` completion tokens, `V` vocabulary, `N` patches of all images of a batch.
"""

from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]
"""One chat turn: `{"role": "user", "content": "..." | [{"type": "text" | "image", ...}, ...]}`."""

Sample: TypeAlias = dict[str, Any]
"""One sample of a data set: its columns by name."""

Line: TypeAlias = dict[str, Any]
"""One line of a JSON Lines file."""

Completion: TypeAlias = str | list[Message]
"""What a model answered: plain text, or (conversational data sets) a list of assistant messages."""

Box: TypeAlias = tuple[float, float, float, float]
"""`(x1, y1, x2, y2)`, exclusive end, in pixels of the original image unless a name says otherwise."""
