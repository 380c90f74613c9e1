"""The report in a real browser, headless Chromium: it opens, draws images and boxes, filters, and fits a phone.

Needs playwright and a Chromium; without one these tests are skipped, unless OMNIRL_BROWSER=required, as in CI.
"""

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from omnirl_tools.evaluation.lines import read_lines, write_lines
from omnirl_tools.report import write_comparison, write_completions, write_evaluation

ROOT = Path(__file__).parents[2]
REQUIRED = os.environ.get("OMNIRL_BROWSER") == "required"
WATCHDOG_MS = 60_000
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

if not REQUIRED:
    pytest.importorskip("playwright.sync_api", reason="pip install playwright, and a Chromium, to see the report")
from playwright.sync_api import Browser, Error, Page, sync_playwright  # noqa: E402


def load_benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("report_page", ROOT / "benchmarks" / "report_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


report_page = load_benchmark()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        try:
            started = driver.chromium.launch(
                executable_path=report_page.find_browser(),
                args=report_page.CHROMIUM_FLAGS,
                timeout=WATCHDOG_MS,
            )
        except Error as error:
            if REQUIRED:
                raise
            pytest.skip(f"no Chromium to see the report in: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of the long run: 1,000 steps, 8,000 completions, photographs."""
    folder = tmp_path_factory.mktemp("long")
    report_page.write_run(folder)
    write_completions(folder)
    return folder


@pytest.fixture
def opened(browser) -> Iterator[Callable[..., Page]]:
    """Open a page; what it complains about fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_page(path: Path, width: int = 1280, scheme: str = "light") -> Page:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(WATCHDOG_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on(
            "request",
            lambda asked: None if asked.url[:5] in ("file:", "data:") else complaints.append(asked.url),
        )
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


LOADED = """async () => {
    const inSight = ({top, bottom}) => top < innerHeight && bottom > 0;
    const images = [...document.images].filter((image) => inSight(image.getBoundingClientRect()));
    await Promise.all(images.map((image) => { image.loading = "eager"; return image.decode(); }));
}"""


def shot(page: Page, name: str, folder: Path) -> np.ndarray:
    """A screenshot's pixels; kept where OMNIRL_SCREENSHOTS says, to be looked at."""
    kept = os.environ.get("OMNIRL_SCREENSHOTS")
    path = (Path(kept) if kept else folder) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path)
    return np.asarray(Image.open(path).convert("RGB"))


def count(page: Page, section: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", page.locator(f"#{section} .count").inner_text()))


def test_a_long_run_is_small_and_shows_its_completions(run, opened):
    assert (run / "completions.html").stat().st_size < 25_000_000
    page = opened(run / "completions.html")
    assert count(page, "training") == (20, 500, 2000)
    assert count(page, "rows") == (20, 400)
    page.locator("#training .more").click()
    assert count(page, "training")[0] == page.locator("#training .answer-card").count() == 40
    titles = page.locator("#curves figcaption strong").all_inner_texts()
    wanted = {
        "Reward",
        "box_iou",
        "KL to the reference",
        "Gradient norm",
        "Completion length",
        "Where the time goes",
    }
    assert wanted < set(titles)
    assert page.locator("#curves svg.curve").count() == len(titles)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_looks_like_something_in_light_and_dark(run, opened, tmp_path, scheme):
    page = opened(run / "completions.html", scheme=scheme)
    for section in ("change", "curves", "rows", "training"):
        page.locator(f"#{section} h2").evaluate("heading => heading.scrollIntoView()")
        page.evaluate(LOADED)
        pixels = shot(page, f"{section}-{scheme}", tmp_path)
        assert (pixels.mean() > 150) == (scheme == "light")
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    page.locator("#theme").click()
    assert (shot(page, f"switched-{scheme}", tmp_path).mean() > 150) == (scheme == "dark")


def test_completions_are_filtered_by_step_reward_task_and_text(run, opened):
    page = opened(run / "completions.html")
    form = page.locator("#training form")
    everything = count(page, "training")
    form.locator("[name=stepFrom]").fill("900")
    steps = [
        int(re.search(r"\d+", text)[0])
        for text in page.locator("#training .card-head .chip:first-child").all_inner_texts()
    ]
    assert steps
    assert min(steps) >= 900
    late = count(page, "training")[2]
    assert 150 <= late <= 250  # a tenth of the steps
    form.locator("[name=task]").select_option("boxes")
    boxes = count(page, "training")[2]
    assert 0 < boxes < late
    form.locator("[name=measure]").select_option("box_iou")
    form.locator("[name=scoreFrom]").fill("0.9")
    assert 0 < count(page, "training")[2] < boxes
    shown = page.locator("#training .answer .chips li", has_text="box_iou").all_inner_texts()
    assert shown
    assert all(float(text.split()[1]) >= 0.9 for text in shown)
    form.locator("[name=text]").fill("no such words")
    assert count(page, "training") == (0, 0, 0)
    form.get_by_text("Clear").click()
    page.locator("#training .answer-card").first.wait_for()
    assert count(page, "training") == everything


def test_held_out_rows_are_filtered_and_ordered(run, opened):
    page = opened(run / "completions.html")
    form = page.locator("#rows form")
    form.locator("[name=change]").select_option("down")
    form.locator("[name=order]").select_option("loss")
    changes = page.locator("#rows .card-head b").all_inner_texts()
    values = [float(text.replace("−", "-")) for text in changes]
    assert values == sorted(values)
    assert values[-1] < 0
    lines = {
        name: {x["row_id"]: x["score"] for x in read_lines(run / f"{name}.jsonl")} for name in ("before", "after")
    }
    lost = sum(lines["after"][key] < lines["before"][key] for key in lines["before"])
    assert count(page, "rows")[1] == lost


def test_boxes_lie_where_the_numbers_say(run, opened):
    """On screen, the true box of [100, 80, 380, 300] in an image of 640 x 480."""
    page = opened(run / "completions.html")
    card = page.locator("#rows .answer-card").first
    image, true, answer = (
        card.locator(name).first.bounding_box() for name in (".image img", ".box-true", ".box-after")
    )
    scale = image["width"] / 640
    assert image["width"] / image["height"] == pytest.approx(640 / 480, rel=0.02)
    for side, expected in (("x", 100), ("y", 80)):
        assert (true[side] - image[side]) / scale == pytest.approx(expected, abs=8)
    assert true["width"] / scale == pytest.approx(280, abs=12)
    line = read_lines(run / "after.jsonl")[0]
    x1 = int(re.search(r"\[(\d+)", line["completion"])[1]) * 640 / 644  # as the model saw it
    assert (answer["x"] - image["x"]) / scale == pytest.approx(x1, abs=8)


def test_the_answer_stands_above_a_long_text(run, opened):
    page = opened(run / "completions.html")
    said = page.locator("#training .answer .reply b").first
    assert re.fullmatch(r"\[[\d, ]+\]|the second", said.inner_text())


def test_a_short_text_stands_alone(run_folder, opened):
    """`append` of a browser writes out the `false` and `null` that it is given."""
    page = opened(write_completions(run_folder))
    kinds = "blocks => blocks.map((block) => [...block.childNodes].map((node) => node.nodeName).join(' '))"
    assert set(page.locator("#rows .answer").evaluate_all(kinds)) == {"DIV DIV UL"}
    assert page.locator("#rows .reply").count() == 0


def test_it_fits_a_phone(run, opened, tmp_path):
    page = opened(run / "completions.html", width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("nav").get_by_text("Held-out rows").click()
    heading, nav = page.locator("#rows h2").bounding_box(), page.locator("nav").bounding_box()
    assert heading["y"] >= nav["y"] + nav["height"]
    shot(page, "phone", tmp_path)


def test_pages_of_an_evaluation_and_of_two(run, opened, tmp_path):
    write_lines(tmp_path / "predictions.jsonl", read_lines(run / "after.jsonl")[:40])
    page = opened(write_evaluation(tmp_path))
    assert count(page, "rows") == (20, 40)
    assert page.locator("#rows [name=change]").count() == 0
    assert page.locator("#rows .answer-card").first.locator(".answer").count() == 1
    assert page.locator("#rows .box-after").count() > 0
    assert page.title().endswith("· evaluation")
    shot(page, "evaluation", tmp_path)
    page = opened(
        write_comparison(run / "before.jsonl", run / "after.jsonl", tmp_path / "c.html", names=("old", "new"))
    )
    assert page.locator("#rows .answer-card").first.locator(".answer .title").all_inner_texts() == [
        "Old",
        "New",
    ]
    shot(page, "comparison", tmp_path)


@pytest.fixture(scope="module")
def pages(run, tmp_path_factory) -> dict[str, Path]:
    """Every kind of page; long names in the comparison, as those of folders are."""
    folder = tmp_path_factory.mktemp("pages")
    lines = {name: read_lines(run / f"{name}.jsonl")[:12] for name in ("before", "after")}
    write_lines(folder / "predictions.jsonl", lines["after"])
    for name, kept in lines.items():
        write_lines(folder / f"{name}.jsonl", kept)
    bare = folder / "bare"  # a run without held-out rows
    for name in ("metrics", "completions"):
        write_lines(bare / f"{name}.jsonl", read_lines(run / f"{name}.jsonl")[:40])
    files = folder / "before.jsonl", folder / "after.jsonl"
    names = (
        "qwen2_5_vl_3b_instruct_base_model_as_published",
        "qwen2_5_vl_3b_grpo_after_600_steps_on_mixed_rows",
    )
    return {
        "run": run / "completions.html",
        "bare": write_completions(bare),
        "evaluation": write_evaluation(folder),
        "comparison": write_comparison(*files, folder / "comparison.html", names=names),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1400])
def test_every_page_fits_its_window(pages, opened, tmp_path, width, scheme):
    for name, path in pages.items():
        page = opened(path, width=width, scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == width, name
        button = page.locator("#theme").bounding_box()
        assert button["height"] < 40, "its words stand on one line"
        assert button["x"] + button["width"] <= width
        page.evaluate(LOADED)
        pixels = shot(page, f"{name}-{width}-{scheme}", tmp_path)
        assert (pixels.mean() > 150) == (scheme == "light")


def test_a_curve_tells_its_values(run, opened):
    page = opened(run / "completions.html")
    curve, said = page.locator("#curves svg.curve").nth(1), page.locator("#curves .said-value").nth(1)
    assert not said.is_visible()
    curve.focus()
    page.keyboard.press("End")
    metrics = [line for line in read_lines(run / "metrics.jsonl") if "rewards/box_iou/mean" in line]
    last = metrics[-3:]  # 1,000 logged steps, 400 points: each the mean of two or three
    step, value = said.inner_text().split("\n")
    assert step == f"step {last[-1]['step']}"
    means = [fmean(line["rewards/box_iou/mean"] for line in last[-n:]) for n in (2, 3)]
    assert min(abs(float(value.split()[0]) - mean) for mean in means) < 0.001
    page.keyboard.press("Escape")
    assert not said.is_visible()
    curve.hover(position={"x": 150, "y": 60})
    middle = int(said.inner_text().split("\n")[0].split()[1])
    assert 300 < middle < 700
    page.mouse.move(0, 0)
    assert not said.is_visible()


def test_a_sample_has_a_link_that_leads_to_it(run, opened):
    page = opened(run / "completions.html")
    for section, many in (("rows", 60), ("training", 45)):
        data = page.evaluate("([key, many]) => data[key][many]", ["rows" if section == "rows" else "groups", many])
        assert page.locator(f"[id='{data['anchor']}']").count() == 0, "not drawn yet"
        page.evaluate("anchor => { location.hash = anchor; }", data["anchor"])
        card = page.locator(f"#{section} .linked")
        card.wait_for()
        assert data["problem"] in card.inner_text()
        assert card.locator("a.where").get_attribute("href") == f"#{data['anchor']}"
        assert 0 <= card.bounding_box()["y"] < 200
    page.locator("#training form [name=text]").fill("no such words")
    page.evaluate("location.hash = ''")
    page.evaluate("anchor => { location.hash = anchor; }", data["anchor"])
    page.locator("#training .linked").wait_for()  # filters that hide it are cleared


def test_hostile_text_runs_nothing(run_folder, opened):
    page = opened(write_completions(run_folder))
    page.on("dialog", lambda dialog: pytest.fail(f"a completion opened {dialog.message}"))
    assert "<script>alert(1)</script>" in page.locator("#rows .answer .text").first.inner_text()
    assert page.locator("img[src=x]").count() == 0
