"""Images in the page: small enough, each once, and named where they cannot be shown."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from omnirl_tools.report.boxes import PREDICTED, TRUE, answered_boxes, draw_boxes, true_boxes
from omnirl_tools.report.images import SIDES, embed


def decoded(source: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))


@pytest.fixture
def photographs(tmp_path) -> list[str]:
    paths = []
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        for kind in ("png", "jpg"):
            paths.append(str(tmp_path / f"{name}.{kind}"))
            Image.fromarray(pixels).save(paths[-1])
    return paths


def test_photographs_are_scaled_and_keep_their_original_size_by_name(photographs):
    found = embed(dict.fromkeys(photographs), max_bytes=10_000_000)
    for path in photographs:
        assert (found[path].width, found[path].height) == (640, 427)
        small = decoded(found[path].source)
        assert small.size == (384, 256)
        original = np.asarray(Image.open(path).convert("RGB").resize(small.size), dtype=float)
        assert np.abs(np.asarray(small.convert("RGB"), dtype=float) - original).mean() < 8


@pytest.mark.parametrize("budget", [400_000, 100_000, 20_000, 3_000, 0])
def test_budget_holds_whatever_it_is(photographs, budget):
    found = embed(dict.fromkeys(photographs), max_bytes=budget)
    assert sum(len(source) for source in {p.source for p in found.values()}) <= budget
    assert all(bool(p.source) != bool(p.fault) for p in found.values())
    if budget >= 20_000:
        assert all(p.source for p in found.values())
        assert max(max(decoded(p.source).size) for p in found.values()) in SIDES


def test_drawings_stay_exact(tmp_path, image_files):
    drawing = Image.new("RGB", (120, 80), "white")
    drawing.paste("red", (10, 10, 50, 50))
    drawing.save(tmp_path / "drawing.png")
    (image,) = embed({str(tmp_path / "drawing.png"): None}, 100_000).values()
    assert image.source.startswith("data:image/png")
    assert len(image.source) < 1000
    assert np.array_equal(np.asarray(decoded(image.source).convert("RGB")), np.asarray(drawing))


def test_same_image_under_two_paths_has_one_key(image_files, tmp_path):
    copy = tmp_path / "copy.png"
    Image.open(image_files[0]).save(copy)
    found = embed(dict.fromkeys([image_files[0], str(copy), image_files[0], image_files[1]]), 1_000_000)
    assert len(found) == 3
    assert found[image_files[0]] == found[str(copy)]
    assert found[image_files[0]].key != found[image_files[1]].key


def test_what_cannot_be_opened_is_named(tmp_path, image_files):
    (tmp_path / "broken.png").write_bytes(b"no image")
    lost, broken = str(tmp_path / "lost.png"), str(tmp_path / "broken.png")
    found = embed({lost: "a.json:7", broken: None, image_files[0]: None}, 1_000_000)
    assert lost in found[lost].fault
    assert "not found" in found[lost].fault
    assert found[lost].fault.startswith("a.json:7: ")
    assert broken in found[broken].fault
    assert found[image_files[0]].source


@pytest.mark.parametrize(
    ("solution", "boxes"),
    [
        ([1, 2, 3, 4], [(1, 2, 3, 4)]),
        ([[1, 2, 3, 4], [5, 6, 7, 8]], [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("<answer> [1, 2, 3, 4] </answer>", [(1, 2, 3, 4)]),
        ({"bbox_2d": [1, 2, 3, 4]}, [(1, 2, 3, 4)]),
        ("a dog", []),
        (4, []),
        (None, []),
        (True, []),
    ],
)
def test_true_boxes(solution, boxes):
    assert true_boxes(solution) == boxes


def test_answered_boxes_are_those_of_the_answer():
    assert answered_boxes("<think>[1, 1, 2, 2]</think><answer>[3, 3, 4, 4]</answer>") == [(3, 3, 4, 4)]
    assert answered_boxes("[1, 1, 2, 2]") == []


def test_boxes_are_drawn_where_they_are():
    drawn = np.asarray(draw_boxes(Image.new("RGB", (60, 40), "white"), [(10, 5, 30, 25)], width=1)).astype(int)
    green = np.abs(drawn - [int(TRUE[k : k + 2], 16) for k in (1, 3, 5)]).sum(-1) == 0
    rows, columns = np.nonzero(green)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (10, 5, 29, 24)  # exclusive ends
    assert green.sum() == 4 * 20 - 4


def test_boxes_partly_and_wholly_outside(image_files):
    blank = Image.new("RGB", (60, 40), "white")
    outside = [(70, 50, 90, 60), (-30, -30, -1, -1)]
    assert np.array_equal(np.asarray(draw_boxes(blank, outside, outside)), np.asarray(blank))
    partly = np.asarray(draw_boxes(blank, predicted=[(40, 20, 1e9, 1e9)], width=2)).astype(int)
    orange = np.abs(partly - [int(PREDICTED[k : k + 2], 16) for k in (1, 3, 5)]).sum(-1) == 0
    assert orange[20:, 40:].any()
    assert not orange[:20].any()
    assert not orange[:, :40].any()
    assert tuple(blank.getpixel((40, 20))) == (255, 255, 255)  # the original is left as it was
