"""The documents' numbers are those of the kept results, and a run that failed stays in the table."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("learning_table", ROOT / "scripts" / "learning_table.py")
learning_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(learning_table)

RECIPES = ROOT / "recipes"


@pytest.mark.parametrize("document", learning_table.documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_say_what_the_script_writes(document):
    text = document.read_text()
    assert learning_table.render(text, learning_table.load()) == text, "run scripts/learning_table.py"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A folder of results and one of images in the place of the repository's."""
    for name in ("RESULTS", "FIGURES"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(learning_table, name, tmp_path / name)

    def run(name, **result):
        folder = tmp_path / name
        folder.mkdir()
        facts = {"started": "2026-01-01", "config": {"max_steps": 3, "rewards": "x.yaml"}, "versions": {}}
        (folder / "run.json").write_text(json.dumps(facts))
        (folder / "curves.png").write_bytes(b"png")
        if result:
            (folder / "result.json").write_text(json.dumps(result))
        learning_table.keep(folder)

    return run


def change(measure, before, after, low, high):
    return {
        "measure": measure, "kind": "all", "group": "all", "n": 40, "before": before, "after": after,
        "low": low, "high": high, "wins": 0, "losses": 0, "p_value": None,
    }  # fmt: skip


def test_failures_stay_in_the_table(kept):
    worse = [change("score", 0.5, 0.4, -0.2, -0.01), change("accuracy", 0.3, 0.31, -0.1, 0.12)]
    kept("a_demo", minutes=2.04, peak_memory_gib={"host": 1.26, "gpu": 20.0}, changes=worse)
    kept("b_demo")
    _, _, first, second = learning_table.learning_table(learning_table.load()).strip().split("\n")
    assert first == (
        "| a_demo | 40 | 0.500 → 0.400 | -0.200 .. -0.010 (lower) | 0.300 → 0.310 | -0.100 .. +0.120 (no change shown) "
        "| 2.0 | 1.3 GiB, 20.0 GiB gpu |"
    )
    assert second.startswith("| b_demo | | stopped before its end |")
    assert (learning_table.FIGURES / "a_demo_curves.png").exists()


def test_every_demo_holds_what_the_recipes_promise():
    """At least 0.15 on the score, and the accuracy's interval above 0, for each kept run of a demo."""
    for name, result in learning_table.load().items():
        if name.endswith("_demo"):
            found = {item["measure"]: item for item in result["changes"] if item["kind"] == "all"}
            assert found["score"]["after"] - found["score"]["before"] >= 0.15, name
            assert found["accuracy"]["low"] > 0, name
