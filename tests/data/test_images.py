"""Images from disk: real photographs, pixel modes, EXIF, damage; numpy and torchvision are the oracles."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence
from torchvision.io import decode_image
from torchvision.io.image import ImageReadMode

from omnirl_core.data import DataError, image_size, open_image
from omnirl_core.data.images import ImageFiles

SIZES = [(1, 1), (2, 300), (31, 17), (64, 64), (224, 336), (640, 427), (1024, 771)]  # (width, height)
ORIENT = {  # EXIF 2.3: how stored pixels turn into the image
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),  # a quarter turn clockwise
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: np.rot90,
}
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)  # (H, W, 3)


def opened(file) -> np.ndarray:
    """(H, W, 3); the header's size is the image's."""
    image = open_image(file)
    assert image.mode == "RGB"
    assert image_size(file) == image.size
    return np.asarray(image)


def saved(folder: Path, pixels: np.ndarray | Image.Image, name: str, **options) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(folder / name, **options)
    return folder / name


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("size", SIZES)
def test_photographs_of_every_size_as_png_and_jpeg(tmp_path, photographs, size):
    for name, pixels in photographs.items():
        photograph = Image.fromarray(pixels).convert("RGB").resize(size)
        png = opened(saved(tmp_path, photograph, f"{name}.png"))
        assert np.array_equal(png, np.asarray(photograph))
        jpeg = saved(tmp_path, photograph, f"{name}.jpg", quality=92)
        theirs = decode_image(str(jpeg), ImageReadMode.RGB).permute(1, 2, 0).numpy()  # (H, W, 3)
        assert np.abs(opened(jpeg).astype(int) - theirs).max() <= 3  # decoders round differently


def test_photographs_in_their_own_modes(tmp_path, photographs):
    """Grey, colour and transparent, as their files have them."""
    assert {pixels.shape[2:] for pixels in photographs.values()} == {(), (3,), (4,)}
    for name, pixels in photographs.items():
        rgb = opened(saved(tmp_path, pixels, f"{name}.png"))
        if pixels.ndim == 2:
            expected = np.repeat(pixels[..., None], 3, axis=2)
        else:
            opacity = pixels[..., 3:] / 255 if pixels.shape[2] == 4 else 1
            expected = pixels[..., :3] * opacity + 255 * (1 - opacity)
        assert np.abs(rgb - expected).max() <= 1, name


@pytest.mark.parametrize("orientation", ORIENT)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_every_orientation_in_every_format_that_has_it(tmp_path, format, orientation):
    options = {
        "JPEG": {"quality": 100, "subsampling": 0},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100},
    }
    file = saved(tmp_path, PIXELS, "turned", format=format, exif=exif(orientation), **options.get(format, {}))
    plain = saved(tmp_path, PIXELS, "plain", format=format, **options.get(format, {}))
    stored = np.asarray(Image.open(plain).convert("RGB"))
    assert np.abs(opened(file).astype(int) - ORIENT[orientation](stored)).max() <= 0


@pytest.mark.parametrize("orientation", ORIENT)
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_torchvision_turns_a_photograph_the_same_way(tmp_path, photographs, format, orientation):
    file = saved(tmp_path, photographs["china"], "turned", format=format, exif=exif(orientation))
    theirs = decode_image(str(file), ImageReadMode.RGB, apply_exif_orientation=True).permute(1, 2, 0).numpy()
    assert np.abs(opened(file).astype(int) - theirs).max() <= 3


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_exif_does_not_know_is_upright(tmp_path, orientation):
    assert np.array_equal(opened(saved(tmp_path, PIXELS, "a.png", exif=exif(orientation))), PIXELS)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["eXIf", "iTXt"])
def test_a_png_may_have_its_orientation_after_its_pixels(tmp_path, kind, late):
    """Where exiftool writes it."""
    chunk = png_chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    if kind == "iTXt":
        xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
        chunk = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    file = saved(tmp_path, PIXELS, "a.png")
    data = file.read_bytes()
    at = data.index(b"IEND") - 4 if late else data.index(b"IDAT") - 4
    file.write_bytes(data[:at] + chunk + data[at:])
    assert np.array_equal(opened(file), np.rot90(PIXELS, -1))


def test_the_size_of_a_png_needs_no_pixels(tmp_path):
    file = saved(tmp_path, PIXELS, "a.png")
    data = file.read_bytes()
    file.write_bytes(data[: data.index(b"IDAT")] + b"IDAT" + b"\0" * 50)
    assert image_size(file) == (31, 20)
    with pytest.raises(DataError):
        open_image(file)


def test_unreadable_exif_leaves_the_image_as_it_is(tmp_path):
    file = saved(tmp_path, PIXELS, "a.png", exif=b"Exif\0\0no such header")
    assert np.array_equal(opened(file), PIXELS)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path, photographs):
    camera = photographs["camera"].astype(np.uint16)  # (H, W), 8 bits
    for name in ("a.png", "a.tif", "a.pgm", "a.jp2"):
        if name == "a.pgm":
            big_endian = (camera * 257).astype(">u2").tobytes()
            (tmp_path / name).write_bytes(b"P5 %d %d 65535\n" % camera.shape[::-1] + big_endian)
        else:
            saved(tmp_path, camera * 257, name)
        assert np.array_equal(opened(tmp_path / name)[..., 0], camera), name
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    rounded = np.round(ramp / 257).astype(np.uint8)
    assert np.array_equal(opened(saved(tmp_path, ramp, "ramp.png"))[..., 2], rounded)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_is_white_whatever_colour_it_hides(tmp_path, mode):
    """A black drawing whose transparent part is black, as editors save it, stays readable."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4, 3] = 255  # left half: black and opaque
    pixels[:, 6:, 3] = 128 if mode != "P" else 0
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.paste(0, (0, 0, 4, 8))
        file = saved(tmp_path, image, "a.png", transparency=1)
    elif mode == "PA":
        file = saved(tmp_path, image.convert("RGBA").quantize(8), "a.png")
    else:
        file = saved(tmp_path, image.convert(mode), "a.png")
    rgb = opened(file)
    assert (rgb[:, :4] == 0).all()
    assert (rgb[:, 4:6] == 255).all()
    assert np.abs(rgb[:, 6:].astype(int) - (255 if mode == "P" else 127)).max() <= 1


@pytest.mark.parametrize(("mode", "transparent"), [("RGB", (10, 20, 30)), ("L", 77), ("1", 1)])
def test_one_colour_may_be_the_transparent_one(tmp_path, mode, transparent):
    image = Image.new(mode, (4, 2), transparent)
    image.paste(Image.new(mode, (2, 2), 0))
    rgb = opened(saved(tmp_path, image, "a.png", transparency=transparent))
    assert (rgb[:, 2:] == 255).all()
    assert (rgb[:, :2] == 0).all()


def test_a_palette_gives_its_colours(tmp_path, photographs):
    quantized = Image.fromarray(photographs["coffee"]).quantize(64)
    for name in ("a.png", "a.gif", "a.bmp", "a.tif"):
        assert np.array_equal(opened(saved(tmp_path, quantized, name)), np.asarray(quantized.convert("RGB"))), name


def test_cmyk_keeps_its_colours(tmp_path):
    """Also Adobe's, whose JPEG files hold the inks inverted."""
    inks = {"red": (0, 255, 255, 0), "cyan": (255, 0, 0, 0), "black": (0, 0, 0, 255), "white": (0, 0, 0, 0)}
    for name, ink in inks.items():
        for suffix in ("jpg", "tif"):
            rgb = opened(saved(tmp_path, Image.new("CMYK", (16, 16), ink), f"{name}.{suffix}"))
            expected = {
                "red": (255, 0, 0),
                "cyan": (0, 255, 255),
                "black": (0, 0, 0),
                "white": (255, 255, 255),
            }[name]
            assert np.abs(rgb.astype(int) - expected).max() <= 2, (name, suffix)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_an_animation_gives_its_first_frame(tmp_path, name):
    frames = [Image.new("RGB", (9, 5), colour) for colour in ("red", "lime", "blue")]
    file = saved(
        tmp_path,
        frames[0],
        name,
        save_all=True,
        append_images=frames[1:],
        **{"lossless": True} if name == "a.webp" else {},
    )
    with Image.open(file) as image:
        assert len(list(ImageSequence.Iterator(image))) == 3
    assert (opened(file) == (255, 0, 0)).all()


@pytest.mark.parametrize(("mode", "name"), [("F", "a.tif"), ("I", "a.tif")])
def test_pixels_without_a_known_range_are_refused(tmp_path, mode, name):
    file = saved(tmp_path, Image.new(mode, (4, 4)), name)
    with pytest.raises(DataError, match=r"^x.jsonl:3: image '.*a.tif' cannot be decoded"):
        open_image(file, "x.jsonl:3")


def test_a_image_beyond_the_limit_is_refused_before_it_is_decoded(tmp_path):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    file = tmp_path / "bomb.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 99)))
    for read in (open_image, image_size):
        with pytest.raises(DataError, match=r"x.jsonl:3: image .*3600000000 pixels.*max_image_pixels"):
            read(file, "x.jsonl:3")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is no image of a format that is read (0 bytes)"),
        (b"<html>404</html>", "is no image of a format that is read (16 bytes)"),
    ],
)
def test_a_file_that_is_no_image_is_named(tmp_path, data, problem):
    file = tmp_path / "a.jpg"
    file.write_bytes(data)
    for read in (open_image, image_size):
        with pytest.raises(DataError) as error:
            read(file, "x.jsonl:3")
        assert str(error.value) == f"x.jsonl:3: image '{file}' {problem}; replace it or drop the row"
        with pytest.raises(DataError, match=f"^image '{file}'"):
            read(file)


@pytest.mark.parametrize("path", ["missing.png", "."])
def test_a_path_without_a_file_is_named(tmp_path, path):
    for read in (open_image, image_size):
        with pytest.raises(DataError, match=r"^x\.jsonl:3: image '"):
            read(tmp_path / path, "x.jsonl:3")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000", "PPM"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(keep=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=3))
@example(keep=0.5, flips=[])
def test_damage_gives_a_image_or_a_data_error(tmp_path, format, keep, flips):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format, **{"exif": exif(6)} if format in ("JPEG", "PNG") else {})
    data = bytearray(buffer.getvalue()[: int(keep * buffer.tell())])
    for place, change in flips if data else []:
        data[int(place * len(data))] ^= change
    file = tmp_path / "damaged"
    file.write_bytes(data)
    for read in (open_image, image_size):
        try:
            read(file, "x.jsonl:3")
            problem = None
        except DataError as error:  # anything else fails the test
            problem = str(error)
        assert problem is None or problem.startswith("x.jsonl:3: image ")


def test_half_a_photograph_is_an_error_not_a_grey_half(tmp_path, photographs):
    for name in ("a.jpg", "a.png"):
        file = saved(tmp_path, photographs["flower"], name)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(DataError, match=r"cannot be decoded: .*truncated.*; replace it or drop the row"):
            open_image(file)


def test_existence_is_the_same_listed_or_asked(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes(b"")
    (tmp_path / "in" / "folder.png").mkdir()
    os.symlink(tmp_path / "in" / "a.png", tmp_path / "in" / "link.png")
    os.symlink(tmp_path / "gone.png", tmp_path / "in" / "dangling.png")
    names = (
        "in/a.png",
        "in/link.png",
        "in/../in/a.png",
        "in/folder.png",
        "in/dangling.png",
        "in/c.png",
        "no/a.png",
        "in/",
        "\0/a",
    )
    for lookups in (0, 1, 1000):
        exists = ImageFiles(lookups_before_listing=lookups)
        for _ in range(3):
            assert [exists(f"{tmp_path}/{name}") for name in names] == [True, True, True] + [False] * 6
    late = ImageFiles(lookups_before_listing=0)
    assert not late(f"{tmp_path}/in/late.png")
    (tmp_path / "in" / "late.png").write_bytes(b"")
    assert late(f"{tmp_path}/in/late.png")


def test_a_large_folder_is_asked_once(tmp_path, monkeypatch):
    for i in range(200):
        (tmp_path / f"{i}.png").write_bytes(b"")
    asked = []
    isfile = os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda path: (asked.append(path), isfile(path))[1])
    exists = ImageFiles()
    assert all(exists(f"{tmp_path}/{i}.png") for i in range(200))
    assert len(asked) == 64


def test_pixels_do_not_change_with_the_number_of_readers(tmp_path, photographs):
    file = saved(tmp_path, photographs["rocket"], "a.png")
    images = [open_image(str(file)) for _ in range(3)]  # independent of each other and of the file
    images[0].putpixel((0, 0), (1, 2, 3))
    file.unlink()
    assert torch.equal(*(torch.from_numpy(np.array(image)) for image in images[1:]))
    assert np.array_equal(np.asarray(images[1]), photographs["rocket"])
