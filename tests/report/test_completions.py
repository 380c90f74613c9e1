"""The report as a file: whole, self-contained, safe with hostile text, bounded, and made from any folder."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnirl_tools.report import write_comparison, write_completions

VOID = {"meta", "img", "br", "input", "link", "hr"}


class Page(HTMLParser):
    """The page's elements and texts; fails on tags that do not nest."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.text.append(data)


def page_of(path: Path) -> tuple[Page, dict]:
    page = Page(path.read_text("utf-8"))
    return page, json.loads(page.scripts[0])


def test_page_is_one_file_that_asks_the_network_for_nothing(run_folder):
    path = write_completions(run_folder)
    assert path == run_folder / "completions.html"
    page, _ = page_of(path)
    linked = [value for _, attrs in page.elements for name, value in attrs.items() if name in ("src", "href")]
    assert all(value.startswith("#") for value in linked)
    html = path.read_text("utf-8")
    assert re.findall(r"https?://[^\"\s]+", html) == ["http://www.w3.org/2000/svg"]  # a name space, not an address
    assert "@import" not in html
    assert "url(" not in html


def test_only_the_pages_own_script_may_run(run_folder):
    page, _ = page_of(write_completions(run_folder))
    assert len(page.scripts) == 2  # the data, and the script; hostile text opened none
    policies = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    (policy,) = policies
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert "innerHTML" not in page.scripts[1]


def test_hostile_text_arrives_whole_and_as_text(run_folder):
    _, data = page_of(write_completions(run_folder))
    hostile = json.loads((run_folder / "before.jsonl").read_text().splitlines()[0])["completion"]
    assert {row["before"]["text"] for row in data["rows"]} == {hostile}
    html = (run_folder / "completions.html").read_text("utf-8")
    assert "<script>alert" not in html
    assert "onerror=alert(2)>" not in html
    assert "<b>tiny</b>" not in html
    assert "&lt;b&gt;tiny&lt;/b&gt;" in html
    assert "a run &amp; &lt;its&gt; folder" in html


def test_rows_images_and_boxes(run_folder, image_files):
    _, data = page_of(write_completions(run_folder))
    row = data["rows"][2]
    assert (row["id"], row["task"], row["modality"]) == ("test.json:2", "boxes", "image")
    assert row["boxes"] == [[10, 10, 50, 40]]
    assert row["after"]["boxes"] == [[10, 10, 50, 40]]  # [20, 10, 100, 40] of the resized image, twice as wide
    assert row["before"]["boxes"] == []
    image = data["images"][row["images"][0]]
    assert (image["width"], image["height"]) == Image.open(image_files[2]).size
    assert row["after"]["score"] == (0.5 + 0.75) / 1.5
    assert data["rows"][1]["images"] == data["rows"][1]["boxes"] == []


def test_rows_of_a_json_file_on_one_line_are_all_shown(run_folder):
    for path in run_folder.glob("*.jsonl"):
        path.write_text(re.sub(r"(test|train).json:\d", r"\1.json:1", path.read_text()))
    page, data = page_of(write_completions(run_folder))
    assert len(data["rows"]) == 8
    assert all(row["before"] and row["after"] for row in data["rows"])
    assert "score 8 0.500 0.833" in " ".join(" ".join(page.text).split())


def test_training_groups_are_read_like_held_out_rows_of_their_task(run_folder):
    _, data = page_of(write_completions(run_folder))
    group = data["groups"][0]
    assert (group["step"], group["phase"], group["id"]) == (1, "train", "train.json:0")
    first, second = group["answers"]
    assert first["boxes"] == [[10, 10, 50, 40]]
    assert (first["advantage"], second["advantage"]) == (-1.5, -0.5)
    assert first["score"] == pytest.approx((0.5 * 1 + 0.0) / 1.5)  # weights from the held-out lines
    assert len(data["groups"]) == 20


def test_change_table_and_settings_are_in_the_page_itself(run_folder):
    page, _ = page_of(write_completions(run_folder))
    text = " ".join(" ".join(page.text).split())
    assert "score 8 0.500 0.833 ▲ +0.333" in text
    assert "modality multi-image" not in text
    assert '"hub_token": "(hidden)"' in text
    assert "hf_secret" not in text
    assert "last logged step 30" in text


def test_accuracy_of_the_page_leaves_out_the_format_rewards_that_it_is_given(run_folder):
    page, _ = page_of(write_completions(run_folder, format_rewards=("think_format", "box_iou")))
    text = " ".join(" ".join(page.text).split())
    assert "accuracy 4 0.250 0.750" in text


@pytest.mark.parametrize("missing", ["metrics", "completions", "before", "after", "run"])
def test_each_file_may_be_missing(run_folder, missing):
    for path in run_folder.glob(f"{missing}.*"):
        path.unlink()
    page, data = page_of(write_completions(run_folder))
    sections = {attrs["id"] for tag, attrs in page.elements if tag == "section" and "id" in attrs}
    assert {"rows", "training"} <= sections
    assert ("curves" in sections) == (missing != "metrics")
    assert ("change" in sections) == (missing not in ("before", "after"))
    assert ("settings" in sections) == (missing != "run")
    if missing == "after":
        assert {row["after"] for row in data["rows"]} == {None}


def test_empty_folder_says_so(tmp_path):
    page, data = page_of(write_completions(tmp_path))
    assert "Nothing has been written to this run's folder yet." in " ".join(page.text)
    assert (data["images"], data["rows"], data["groups"]) == ({}, [], [])


def test_run_killed_in_the_middle_of_its_last_evaluation(run_folder):
    lines = (run_folder / "after.jsonl").read_text().splitlines()
    (run_folder / "after.jsonl").write_text("\n".join(lines[:3]) + "\n" + lines[3][:40])
    (run_folder / "run.json").write_text('{"config": {"mod')
    page, data = page_of(write_completions(run_folder))
    assert "score 3 0.500 0.833" in " ".join(" ".join(page.text).split())
    assert [row["after"] is not None for row in data["rows"]] == [True] * 3 + [False] * 5


def test_images_that_moved_are_named(run_folder, image_files, tmp_path):
    text = (run_folder / "after.jsonl").read_text().replace(image_files[2], str(tmp_path / "gone.png"))
    (run_folder / "after.jsonl").write_text(text)
    (run_folder / "before.jsonl").unlink()
    _, data = page_of(write_completions(run_folder))
    image = data["images"][data["rows"][2]["images"][0]]
    assert image["source"] == ""
    assert "gone.png" in image["fault"]


def test_long_run_stays_small(tmp_path):
    """1,000 steps, 4,000 completions of 8,000 characters, 200 photographs: 34 MB of log."""
    noise = np.random.default_rng(0)
    paths = []
    for number in range(200):
        pixels = noise.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        paths.append(str(tmp_path / f"{number}.jpg"))
        Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC).save(paths[-1], quality=85)
    text = "many words " * 727
    with (tmp_path / "completions.jsonl").open("w") as file:
        for step in range(1, 1001):
            for answer in range(4):
                line = {
                    "step": step, "phase": "train", "row_id": f"t:{step}", "task": "t",
                    "images": [paths[step % 200]], "problem": "?", "solution": "yes", "completion": f"{text}{answer}",
                    "rewards": {"exact": answer / 4}, "advantage": answer - 2.0,
                }  # fmt: skip
                file.write(json.dumps(line) + "\n")
    path = write_completions(tmp_path)
    assert path.stat().st_size < 25_000_000
    _, data = page_of(path)
    assert sum(len(group["answers"]) for group in data["groups"]) == 2000
    assert len(data["images"]) == 200
    assert all(image["source"] for image in data["images"].values())
    answer = data["groups"][0]["answers"][0]
    assert (len(answer["text"]), answer["cut"]) == (6000, 7998 - 6000)
    assert (data["groups"][0]["step"], data["groups"][-1]["step"]) == (1, 1000)


def test_two_evaluations_side_by_side(run_folder, tmp_path):
    """The rows that changed most come first, whichever way they went."""
    lines = [json.loads(line) for line in (run_folder / "after.jsonl").read_text().splitlines()]
    for line, score in zip(lines, (0.5, 0.1, 0.9, 0.5, 0.5, 0.2, 0.5, 0.5), strict=True):
        line["score"] = score
    (tmp_path / "second.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[::-1]))
    for line in lines:
        line["score"] = 0.5
    (tmp_path / "first.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = (tmp_path / "first.jsonl", tmp_path / "second.jsonl")
    page, data = page_of(write_comparison(*files, tmp_path / "c.html", names=("base", "tuned"), most_rows=4))
    assert [row["id"][-1] for row in data["rows"]] == ["1", "2", "5", "0"]
    assert [row["after"]["score"] for row in data["rows"]] == [0.1, 0.9, 0.2, 0.5]
    text = " ".join(" ".join(page.text).split())
    assert "Measure Rows Base Tuned Change" in text
    assert "Base and tuned" in text
    (tmp_path / "second.jsonl").write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(ValueError, match="7 rows are in only one"):
        write_comparison(*files, tmp_path / "c.html")


def test_page_goes_where_it_is_asked(run_folder, tmp_path):
    path = write_completions(run_folder, tmp_path / "elsewhere.html")
    shutil.rmtree(run_folder)
    page_of(path)
