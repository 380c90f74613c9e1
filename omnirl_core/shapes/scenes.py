"""A drawn world: a few coloured shapes on a light canvas, with their exact boxes."""

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

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
