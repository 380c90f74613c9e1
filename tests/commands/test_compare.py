"""`omnirl compare` and `omnirl report`: what they print, what they write, and what they refuse."""

import json
import re
import shutil

import pytest

from omnirl_tools.cli import main
from omnirl_tools.evaluation.lines import read_lines, write_lines


def graded(number: int, image: str, right: float, score: float) -> dict:
    return {
        "row_id": f"t:{number}", "task": "boxes" if number % 2 else "words", "problem": f"What is {number}?",
        "modality": "image" if number % 2 else "text", "images": [image] if number % 2 else [],
        "solution": [1, 2, 9, 9] if number % 2 else "cat", "completion": f"<answer>{number}</answer>",
        "clipped": number == 3, "n_tokens": 4, "image_sizes": [[32, 32]], "resized_sizes": [[32, 32]],
        "rewards": {"exact": right, "think_format": 1.0}, "weights": {"exact": 1.0, "think_format": 0.5},
        "score": score, "boxes": {"space": "pixels", "solution_space": "pixels", "image_index": 0},
    }  # fmt: skip


@pytest.fixture
def two(tmp_path, image_files) -> tuple[str, str]:
    """Folders of two evaluations: of 20 rows, nine turn right and one wrong."""
    for name, right in (("base", lambda k: float(k == 0)), ("tuned", lambda k: float(0 < k < 10))):
        lines = [graded(k, image_files[0], right(k), (right(k) + 0.5 + k / 100) / 1.5) for k in range(20)]
        if name == "tuned":  # an answer without its tags is shown as it is
            lines = [line | {"completion": "it is\nmore than ten"} for line in lines]
        write_lines(tmp_path / name / "predictions.jsonl", lines if name == "base" else lines[::-1])
    return str(tmp_path / "base"), str(tmp_path / "tuned")


def test_compare_prints_the_table_and_the_rows_that_moved(two, capsys):
    assert main(["compare", *two]) == 0
    printed = capsys.readouterr().out
    head, _, *rest = printed.splitlines()
    assert head.split() == ["rows", "base", "tuned", "change", "95", "%", "interval", "rows", "up/down", "p"]
    exact = next(line for line in rest if line.startswith("exact")).split()
    assert exact[:4] == ["exact", "20", "0.050", "0.450"]
    assert exact[-3:] == ["9/1", "0.021", "up"]  # 2 * (1 + 10) / 2**10
    assert "  modality image" in printed
    assert "  task words" in printed
    wins = printed.split("Largest wins\n")[1].splitlines()
    assert re.fullmatch(r"  \+0\.667  t:\d+  What is \d+\?", wins[0])
    assert re.fullmatch(r"  +base   0\.3\d\d  [1-9]", wins[1])
    assert re.fullmatch(r"  +tuned  1\.0[0-6]\d  it is more than ten", wins[2])
    losses = [line.split() for line in printed.split("Largest losses\n")[1].splitlines()]
    assert losses[0] == ["-0.667", "t:0", "What", "is", "0?"]
    assert losses[1:] == [["base", "1.000", "0"], ["tuned", "0.333", "it", "is", "more", "than", "ten"]]


def test_compare_writes_a_page_with_images(two, tmp_path, capsys):
    assert main(["compare", *two, "--html", str(tmp_path / "c.html"), "--names", "old", "new"]) == 0
    page = (tmp_path / "c.html").read_text()
    assert "Old and new" in page
    assert "data:image/" in page
    assert str(tmp_path / "c.html") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: shutil.rmtree(folder), "neither a file nor a folder with predictions.jsonl"),
        (
            lambda folder: (folder / "predictions.jsonl").write_text('{"completion": "a"}\n'),
            "no graded lines",
        ),
        (
            lambda folder: (folder / "predictions.jsonl").write_text('{"rewards": 3, "score": 1}\n'),
            "no graded lines",
        ),
        (
            lambda folder: write_lines(folder / "predictions.jsonl", read_lines(folder / "predictions.jsonl")[:19]),
            "1 rows are in only one of the two evaluations: 't:0'",
        ),
    ],
)
def test_compare_says_what_cannot_be_compared(two, tmp_path, capsys, spoil, said):
    spoil(tmp_path / "tuned")
    assert main(["compare", *two]) == 2
    assert said in capsys.readouterr().err


def test_report_of_an_evaluation(two, tmp_path, capsys):
    (tmp_path / "tuned" / "metrics.json").write_text(
        json.dumps({"model": "a/b", "parse_failure_rate": 0.25, "clipped_rate": 0.05, "max_new_tokens": 7})
    )
    assert main(["report", two[1]]) == 0
    path = tmp_path / "tuned" / "completions.html"
    assert capsys.readouterr().out == f"Look at\n  {path}\n"
    page = path.read_text()
    text = " ".join(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", page, flags=re.DOTALL).split())
    assert "Answers not read 25.0%" in text
    assert "exact 20 0.450 0.258 … 0.658" in text  # Wilson's of 9 in 20
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))
    assert data["names"] == ["answer"]
    assert len(data["rows"]) == 20
    assert all(row["before"] is None and row["after"] for row in data["rows"])


def test_report_of_a_run_goes_where_it_is_asked(tmp_path, capsys):
    write_lines(tmp_path / "run" / "metrics.jsonl", [{"step": 1, "reward": 0.5}, {"step": 2, "reward": 0.6}])
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    made = [line.strip() for line in capsys.readouterr().out.splitlines()[1:]]
    assert made == [str(tmp_path / "out" / "curves.png"), str(tmp_path / "out" / "completions.html")]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["metrics.jsonl"]


def test_report_of_nothing(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "has none of metrics.jsonl" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    (tmp_path / "after.jsonl").write_text('{"prediction": "another program\'s"}\n')
    assert main(["report", str(tmp_path)]) == 2
    assert "after.jsonl: no graded lines" in capsys.readouterr().err
    (tmp_path / "rows.jsonl").touch()
    assert main(["report", str(tmp_path / "rows.jsonl")]) == 2
    said = capsys.readouterr().err
    assert "rows.jsonl: a file; give a run's output_dir" in said
    assert "did you mean" not in said
