"""Words that this project has given up stay away: in code, comments, documents, notebooks and YAML comments."""

import io
import json
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RETIRED = {
    r"pictures?": "image",
    r"gold": "reference",
    r"numbers that are none": "non-finite values",
    r"the seed's": "the original's (the first OmniRL)",
    r"RunFiles": "JsonlLogger",
    r"PhaseClock": "StepTimer",
    r"ScaleDoctor": "RewardScaleCallback",
    r"Interrupts": "GracefulShutdown",
    r"Heartbeat": "Watchdog",
    r"VisionAnchor": "DummyImage",
    r"told at once|tells at once|only looks on|and back\.": "a sentence that says it",
}
"""Pattern of prose -> what is said instead."""
NAMES = {
    "picture", "pictures", "gold", "told", "settle", "settled", "aside", "heartbeat",
    "phaseclock", "scaledoctor", "runfiles", "visionanchor",
}  # fmt: skip
"""Parts of identifiers."""
ALLOWED = {
    r"picture_problem": "a public name of omnirl_core.data",
    r"(docs/|\.\./)*\bpictures/\w+\.png|docs/pictures\S*|\"docs\" / \"pictures\"": "where the documents' figures lie",
    r"completions/pictures": "a metric's name in wandb",
    r"(in|of) the picture\?|[dD]escribe the picture|What does the picture show\?"
    r"|a caption for the picture|in all pictures|Which picture has|Find the picture with"
    r"|happens in the pictu\b": "questions of the drawn world and of samples: figures depend on them",
}
"""Where a retired word stays -> why."""
VOCABULARY = {"omnirl_core/rewards/answers/units.py", "omnirl_core/rewards/reward.py"}
"""Files whose strings are words that people write in answers and reward functions."""
_ALLOWED = re.compile("|".join(ALLOWED))
_RETIRED = re.compile(rf"\b(?:{'|'.join(RETIRED)})\b", re.IGNORECASE)


def files(*endings: str) -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *(f"*{end}" for end in endings)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    return [ROOT / name for name in names if name and (ROOT / name).exists() and name != "tests/test_words.py"]


def retired(text: str) -> list[str]:
    return [match.group() for match in _RETIRED.finditer(_ALLOWED.sub("", text))]


def prose(source: str, strings: bool) -> Iterator[tuple[int, str]]:
    """(line, text) of each comment, docstring and, with `strings`, any other string."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_docstring = token.type == tokenize.STRING and token.line.lstrip().startswith(('"""', 'r"""'))
        if token.type == tokenize.COMMENT or is_docstring or (strings and token.type == tokenize.STRING):
            yield token.start[0], token.string


def names(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


def bad_names(source: str) -> list[tuple[int, str]]:
    """(line, identifier) of those with a retired part.

    >>> bad_names("def draw_picture(told_apart): pass")
    [(1, 'draw_picture'), (1, 'told_apart')]
    """
    found = []
    for line, name in names(source):
        parts = {*re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().split("_"), name.lower()}
        is_test = name.startswith("test_")  # a test's name is a sentence
        if parts & (NAMES - {"told", "aside"} if is_test else NAMES) and not _ALLOWED.fullmatch(name):
            found.append((line, name))
    return found


def cells(path: Path) -> Iterator[tuple[str, str]]:
    """(kind, text) of a notebook's cells and of what they printed."""
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        yield f"cell {number}", "".join(cell["source"])
        for output in cell.get("outputs", []):
            kept = {key: value for key, value in output.get("data", {}).items() if key.startswith("text")}
            for text in (output.get("text", ""), *kept.values(), json.dumps(output.get("metadata", {}))):
                yield f"output of cell {number}", "".join(text)


def faults(path: Path) -> list[str]:
    place = str(path.relative_to(ROOT))
    if path.suffix == ".ipynb":
        return [f"{place}, {where}: {word}" for where, text in cells(path) for word in retired(text)]
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        is_shipped = place.startswith(("omnirl_", "recipes/")) and place not in VOCABULARY
        lines = [(n, word) for n, text in prose(source, is_shipped) for word in retired(text)]
        return [f"{place}:{n}: {word}" for n, word in [*lines, *bad_names(source)]]
    lines = list(enumerate(source.splitlines(), 1))
    if path.suffix in (".yaml", ".yml"):
        lines = [(n, line.partition("#")[2]) for n, line in lines]
    return [f"{place}:{n}: {word}" for n, line in lines for word in retired(line)]


@pytest.mark.parametrize("ending", [".py", ".md", ".ipynb", ".yaml"])
def test_no_retired_word(ending):
    found = [fault for path in files(ending) for fault in faults(path)]
    assert not found, "\n".join([*found, "say: " + ", ".join(f"{new} ({old})" for old, new in RETIRED.items())])


@pytest.mark.parametrize(
    ("text", "n"),
    [("The gold answers, and a Picture.", 2), ("What does the picture show?", 0), ("golden, picturesque", 0)],
)
def test_words_are_found_as_words(text, n):
    assert len(retired(text)) == n


def test_every_exception_is_still_needed():
    everything = "\n".join(path.read_text(encoding="utf-8") for path in files(".py", ".md", ".ipynb"))
    assert all(re.search(pattern, everything) for pattern in ALLOWED)
    for place in VOCABULARY:
        assert any(retired(text) for _, text in prose((ROOT / place).read_text("utf-8"), strings=True)), place
