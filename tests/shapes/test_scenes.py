"""The drawn world: what the solution says is what the pixels show."""

import random

import numpy as np
import pytest

from omnirl_core.shapes.tasks import COLORS, GROUPS, TASKS, Example, make_example, random_scene


def examples(task: str, n: int, split: str = "train") -> list[Example]:
    return [make_example(task, random.Random(f"test/{task}/{i}"), split) for i in range(n)]


@pytest.mark.parametrize("seed", range(60))
def test_the_box_of_a_shape_is_the_extent_of_its_pixels(seed):
    scene = random_scene(random.Random(seed), 1 + seed % 4)
    pixels = np.asarray(scene.draw())
    for shape in scene.shapes:
        ys, xs = np.nonzero((pixels == COLORS[shape.color]).all(-1))
        x1, y1, x2, y2 = shape.box
        inside = (xs >= x1) & (xs < x2) & (ys >= y1) & (ys < y2)
        if [s.color for s in scene.shapes].count(shape.color) == 1:
            assert inside.all(), "no pixel of the shape lies outside its box"
        xs, ys = xs[inside], ys[inside]
        drawn = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert np.abs(np.subtract(drawn, shape.box)).max() <= 2, (
            shape,
            drawn,
        )  # polygon edges round by a pixel


@pytest.mark.parametrize("seed", range(40))
def test_shapes_lie_on_the_canvas_and_apart(seed):
    scene = random_scene(random.Random(seed), 3)
    for shape in scene.shapes:
        x1, y1, x2, y2 = shape.box
        assert x1 >= 0
        assert y1 >= 0
        assert x2 <= scene.size[0]
        assert y2 <= scene.size[1]
    boxes = [s.box for s in scene.shapes]
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_answers_follow_from_the_scene():
    for example in examples("count", 100):
        (scene,) = example.scenes
        noun = example.key.split()[0]
        counted = scene.shapes if noun == "shapes" else [s for s in scene.shapes if noun in (s.color, f"{s.kind}s")]
        assert example.solution == len(counted)
    for example in examples("color", 100):
        assert [s.color for s in example.scenes[0].shapes if s.kind in example.problem] == [example.solution]
    for example in examples("boxes", 100):
        (target,) = [s for s in example.scenes[0].shapes if s.name in example.problem]
        assert example.solution == target.box
    for example in examples("text", 200):
        numbers = [
            int(word)
            for word in example.problem.replace("?", "").replace(".", "").replace(",", "").split()
            if word.isdigit()
        ]
        if "+" in example.key:
            assert example.solution == sum(numbers)
        elif ">" in example.key:
            assert example.solution == max(numbers)
        else:
            words = example.problem.split(": ")[1].split()
            assert example.solution.split() == sorted(words)


def test_captions_are_true_in_both_readings():
    for example in examples("caption", 200):
        for reference in example.solution:
            relation = next(r for r in ("left of", "right of", "above", "below") if r in reference)
            first, second = (part.removeprefix("a ") for part in reference.split(f" {relation} "))
            a, b = (next(s for s in example.scenes[0].shapes if s.name == name) for name in (first, second))
            dx, dy = b.x - a.x, b.y - a.y
            along = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]
            assert along >= max(abs(dx), abs(dy)), reference


def test_only_one_image_holds_what_a_comparison_asks_for():
    for example in examples("compare", 200):
        if example.key == "all":
            assert example.solution == sum(len(s.shapes) for s in example.scenes)
            continue
        holds = [any(example.key in (s.color, s.kind) for s in scene.shapes) for scene in example.scenes]
        assert [i for i, h in enumerate(holds) if h] == [("first", "second", "third").index(example.solution)]


def test_no_example_is_in_both_splits():
    for task in TASKS:
        train, test = examples(task, 300), examples(task, 100, "test")
        seen = {(e.key, tuple(s.shapes for s in e.scenes)) for e in train}
        assert not [e for e in test if (e.key, tuple(s.shapes for s in e.scenes)) in seen], task
        assert {e.split for e in test} == {"test"}
    assert set(GROUPS["mixed"]) == set(TASKS)
