"""Questions about drawn scenes, each with its exact answer, and a split that no row can cross.

Seven tasks: `color`, `shape`, `count`, `caption` and `boxes` ask about one image, `compare` about two or three,
`text` about none. Whether an example belongs to the training or the test split follows from a hash of what it
asks and shows, so that a test row can never be met in training, whatever the seeds.
"""

import math
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from .documents import Page

COLORS = {
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (36, 99, 214),
    "yellow": (241, 196, 15),
    "purple": (142, 68, 173),
    "black": (40, 44, 52),
}
SHAPES = ("circle", "square", "triangle", "star")
CANVASES = ((128, 128), (160, 128), (128, 160), (144, 128), (128, 112), (112, 128))  # (width, height), pixels
BACKGROUNDS = ((250, 249, 246), (238, 242, 245), (245, 240, 230), (233, 238, 228))


@dataclass(frozen=True)
class Shape:
    """One drawn shape: centre and radius in pixels of the image."""

    color: str
    kind: str
    x: int
    y: int
    radius: int

    @property
    def name(self) -> str:
        """Colour and kind.

        >>> Shape("red", "circle", 40, 50, 20).name
        'red circle'
        """
        return f"{self.color} {self.kind}"

    @property
    def box(self) -> list[int]:
        """`[x1, y1, x2, y2]` of the drawn pixels, exclusive end.

        >>> Shape("red", "circle", 40, 50, 20).box
        [20, 30, 61, 71]
        """
        xs, ys = zip(*self.outline(), strict=True)
        return [math.floor(min(xs)), math.floor(min(ys)), math.floor(max(xs)) + 1, math.floor(max(ys)) + 1]

    def outline(self) -> list[tuple[float, float]]:
        """Corners of the polygon (for a circle, of its bounding square)."""
        r = self.radius
        if self.kind in ("circle", "square"):
            return [
                (self.x - r, self.y - r),
                (self.x + r, self.y - r),
                (self.x + r, self.y + r),
                (self.x - r, self.y + r),
            ]
        corners = 3 if self.kind == "triangle" else 10
        radii = [r if self.kind == "triangle" or i % 2 == 0 else r * 0.42 for i in range(corners)]
        angles = [2 * math.pi * i / corners - math.pi / 2 for i in range(corners)]
        return [(self.x + d * math.cos(a), self.y + d * math.sin(a)) for d, a in zip(radii, angles, strict=True)]


@dataclass(frozen=True)
class Scene:
    """A canvas (width, height in pixels), its background colour and the shapes on it, in reading order."""

    size: tuple[int, int]
    background: tuple[int, int, int]
    shapes: tuple[Shape, ...]

    @property
    def shown(self) -> object:
        """What there is to see, whatever its background."""
        return self.size, self.shapes

    def draw(self) -> Image.Image:
        """The image, RGB, `size` pixels.

        >>> scene = random_scene(random.Random(0), n_shapes=2)
        >>> scene.draw().size == scene.size
        True
        """
        image = Image.new("RGB", self.size, self.background)
        pen = ImageDraw.Draw(image)
        for shape in self.shapes:
            outline = shape.outline()
            if shape.kind == "circle":
                pen.ellipse([outline[0], outline[2]], fill=COLORS[shape.color])
            else:
                pen.polygon(outline, fill=COLORS[shape.color])
        return image


def random_scene(rng: random.Random, n_shapes: int) -> Scene:
    """A scene of `n_shapes` shapes (1 to 4) that neither touch nor share both colour and kind."""
    width, height = size = rng.choice(CANVASES)
    names = rng.sample([(color, kind) for color in COLORS for kind in SHAPES], n_shapes)
    shapes: list[Shape] = []
    while len(shapes) < n_shapes:
        radius = rng.randint(13, 26 if n_shapes < 3 else 20)
        x, y = rng.randint(radius, width - radius - 1), rng.randint(radius, height - radius - 1)
        if all(math.dist((x, y), (s.x, s.y)) > 1.3 * (radius + s.radius) for s in shapes):
            shapes.append(Shape(*names[len(shapes)], x, y, radius))
        elif rng.random() < 0.02:  # a first shape in the middle can leave no room: start again
            shapes.clear()
    shapes.sort(key=lambda s: (s.x, s.y))
    return Scene(size, rng.choice(BACKGROUNDS), tuple(shapes))


TASKS = ("color", "shape", "count", "caption", "compare", "boxes", "text")
GROUPS: dict[str, tuple[str, ...]] = {
    "text_only": ("text",),
    "image_text": ("color", "shape", "count", "caption"),
    "multi_image": ("compare",),
    "rec": ("boxes",),
    "mixed": TASKS,
    "documents": ("field", "cell", "rows", "bar", "longest", "word", "line", "page"),  # of documents.py
}
"""The tasks of each recipe."""


@dataclass(frozen=True)
class Example:
    """A question, its answer, its images, and the observation that leads to the answer."""

    task: str
    template: int
    problem: str
    solution: object  # str, int, [x1, y1, x2, y2], or a list of references
    thought: str
    scenes: "tuple[Scene | Page, ...]" = ()
    key: str = ""

    @property
    def split(self) -> str:
        """`"test"` for one example in ten, by a hash of what is asked and shown; otherwise `"train"`."""
        shown = [scene.shown for scene in self.scenes]
        return "test" if zlib.crc32(f"{self.task}|{self.key}|{shown}".encode()) % 10 == 0 else "train"


def describe(shapes: tuple[Shape, ...] | list[Shape]) -> str:
    """What an attentive viewer would note.

    >>> describe([Shape("red", "circle", 40, 50, 20), Shape("blue", "star", 90, 50, 20)])
    'red circle, blue star'
    """
    return ", ".join(shape.name for shape in shapes) or "nothing"


def phrased(
    task: str,
    asks: Sequence[str],
    key: str,
    solution: object,
    thought: str,
    scenes: "tuple[Scene | Page, ...]",
    rng: random.Random,
) -> Example:
    """The example in one of the phrasings, the key filled in."""
    n = rng.randrange(len(asks))
    return Example(task, n, asks[n].format(key), solution, thought, scenes, key)


def color(scenes: tuple[Scene, ...], rng: random.Random) -> Example | None:
    """What colour is the only shape of its kind?"""
    (scene,) = scenes
    kinds = [s.kind for s in scene.shapes]
    target = rng.choice(scene.shapes)
    if kinds.count(target.kind) > 1:
        return None
    asks = ("What color is the {}?", "Name the color of the {}.", "Tell me which color the {} has.")
    return phrased("color", asks, target.kind, target.color, describe(scene.shapes), scenes, rng)


def shape(scenes: tuple[Scene, ...], rng: random.Random) -> Example | None:
    """What kind of shape is the only one of its colour?"""
    (scene,) = scenes
    target = rng.choice(scene.shapes)
    if [s.color for s in scene.shapes].count(target.color) > 1:
        return None
    asks = ("What shape is {}?", "Name the {} shape.", "Tell me which shape is {}.")
    return phrased("shape", asks, target.color, target.kind, describe(scene.shapes), scenes, rng)


def count(scenes: tuple[Scene, ...], rng: random.Random) -> Example:
    """How many shapes, or how many of one colour or kind?"""
    (scene,) = scenes
    shown = [noun for s in scene.shapes for noun in (f"{s.color} shapes", f"{s.kind}s")]
    noun = rng.choice([*["shapes"] * 3, *shown, rng.choice([f"{c} shapes" for c in COLORS]), f"{rng.choice(SHAPES)}s"])
    counted = [s for s in scene.shapes if noun == "shapes" or noun.split()[0] in (s.color, f"{s.kind}s")]
    asks = ("How many {} are there?", "Count the {}.", "Tell me the number of {}.")
    return phrased("count", asks, noun, len(counted), describe(counted), scenes, rng)


def caption(scenes: tuple[Scene, ...], rng: random.Random) -> Example | None:
    """A sentence about two shapes; both ways of saying it are references."""
    (scene,) = scenes
    if len(scene.shapes) != 2:
        return None
    a, b = scene.shapes
    if abs(a.x - b.x) < abs(a.y - b.y):
        first, second = sorted(scene.shapes, key=lambda s: s.y)
        words = ("above", "below")
    else:
        first, second, words = a, b, ("left of", "right of")
    references = [f"a {first.name} {words[0]} a {second.name}", f"a {second.name} {words[1]} a {first.name}"]
    asks = ("Describe the picture.", "What does the picture show?", "Write a caption for the picture.")
    return phrased("caption", asks, "", references, describe(scene.shapes), scenes, rng)


def boxes(scenes: tuple[Scene, ...], rng: random.Random) -> Example:
    """Where is a shape? The solution is its box in pixels of the image."""
    (scene,) = scenes
    target = rng.choice(scene.shapes)
    asks = ("Where is the {}?", "Give the box of the {}.", "Locate the {}.")
    return phrased("boxes", asks, target.name, target.box, describe([target]), scenes, rng)


def compare(scenes: tuple[Scene, ...], rng: random.Random) -> Example | None:
    """Which of two or three images holds a shape, and how many shapes are there in all of them?"""
    ordinals = ("first", "second", "third")[: len(scenes)]
    seen = "; ".join(f"{o}: {describe(scene.shapes)}" for o, scene in zip(ordinals, scenes, strict=True))
    if rng.random() < 0.3:
        asks = (
            "How many shapes are in all pictures?",
            "Count the shapes in all pictures.",
            "Tell me the number of all shapes.",
        )
        return phrased("compare", asks, "all", sum(len(s.shapes) for s in scenes), seen, scenes, rng)
    target = rng.choice([s for scene in scenes for s in scene.shapes])
    word = rng.choice([target.color, target.kind])
    holders = [i for i, scene in enumerate(scenes) if any(word in (s.color, s.kind) for s in scene.shapes)]
    if len(holders) != 1:
        return None
    noun = f"{word} shape" if word in COLORS else word
    asks = ("Which picture has a {}?", "Find the picture with a {}.", "Tell me where you see a {}.")
    n = rng.randrange(len(asks))
    return Example("compare", n, asks[n].format(noun), ordinals[holders[0]], seen, scenes, word)


def text(scenes: tuple[Scene, ...], rng: random.Random) -> Example:
    """Sums, comparisons and orderings, without an image."""
    kind = rng.choice(["sum", "larger", "order"])
    n = rng.randrange(3)
    if kind == "sum":
        a, b = rng.randint(1, 12), rng.randint(1, 12)
        asks = (f"What is {a} plus {b}?", f"Add {a} and {b}.", f"Tell me the sum of {a} and {b}.")
        return Example("text", n, asks[n], a + b, f"{a} plus {b}", (), f"{a}+{b}")
    if kind == "larger":
        a, b = rng.sample(range(10, 60), 2)
        asks = (
            f"Which is larger, {a} or {b}?",
            f"Pick the larger of {a} and {b}.",
            f"Tell me the larger of {a} and {b}.",
        )
        return Example("text", n, asks[n], max(a, b), f"{a} or {b}", (), f"{a}>{b}")
    words = rng.sample(sorted([*COLORS, *SHAPES]), 3)
    said = " ".join(words)
    asks = (f"Sort by alphabet: {said}", f"Put in order of the alphabet: {said}", f"Tell me the sorted words: {said}")
    return Example("text", n, asks[n], " ".join(sorted(words)), said, (), said)


ASK: dict[str, Callable[[tuple[Scene, ...], random.Random], Example | None]] = {
    "color": color,
    "shape": shape,
    "count": count,
    "caption": caption,
    "boxes": boxes,
    "compare": compare,
    "text": text,
}


def draw_scenes(task: str, rng: random.Random) -> tuple[Scene, ...]:
    """The images that a question of this task is asked about: none, one, or two to three."""
    if task == "text":
        return ()
    if task == "compare":
        return tuple(random_scene(rng, rng.randint(1, 2)) for _ in range(rng.choice((2, 2, 3))))
    return (random_scene(rng, 2 if task == "caption" else rng.randint(1, 3)),)


def make_example(task: str, rng: random.Random, split: str) -> Example:
    """The next example of a task and split from a random stream.

    >>> make_example("text", random.Random(1), "train").problem
    'Tell me the sum of 2 and 5.'
    """
    while True:
        example = ASK[task](draw_scenes(task, rng), rng)
        if example is not None and example.split == split:
            return example
