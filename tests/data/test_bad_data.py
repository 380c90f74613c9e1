"""Bad rows at scale: every kind of damage is named with its row, and the rest is as if it had never been there."""

import io
import json
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnirl_core.data import DataError, find_bad_rows, json_reader, limit_pixels, load_dataset, load_records
from omnirl_core.data.images import picture_problem, with_checked_images

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)  # (H, W, 3)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def plain() -> Image.Image:
    return Image.fromarray(PIXELS)


TURNED = Image.Exif()
TURNED[0x0112] = 6


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and has hardly any data."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0")),
    ]
    body = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def flipped(data: bytes) -> bytes:
    """Damage in the middle of the compressed pixels."""
    middle = len(data) // 2
    return data[:middle] + bytes(255 - byte for byte in data[middle : middle + 40]) + data[middle + 40 :]


GOOD: dict[str, tuple[str, bytes]] = {
    "wrong extension": ("a.jpg", encoded(plain(), "PNG")),
    "no extension": ("image", encoded(plain(), "JPEG")),
    "CMYK": ("a.jpg", encoded(plain().convert("CMYK"), "JPEG")),
    "16-bit grey": ("a.png", encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG")),
    "palette": ("a.png", encoded(plain().quantize(16), "PNG")),
    "one bit": ("a.png", encoded(plain().convert("1"), "PNG")),
    "animated GIF": ("a.gif", encoded(plain(), "GIF", save_all=True, append_images=[plain().rotate(180)])),
    "EXIF rotation": ("a.jpg", encoded(plain(), "JPEG", exif=TURNED)),
    "1x1": ("a.png", encoded(Image.new("RGB", (1, 1)), "PNG")),
    "20,000 pixels wide": ("a.png", encoded(Image.new("RGB", (20_000, 101)), "PNG")),
}  # fmt: skip

BAD: dict[str, tuple[str, bytes, str]] = {
    "zero bytes": ("a.png", b"", "is no image of a format that is read (0 bytes)"),
    "an error page": ("a.jpg", b"<html>404</html>", "is no image of a format that is read"),
    "a program for Ghostscript": ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image of"),
    "a truncated PNG": ("a.png", encoded(plain(), "PNG")[:400], "cannot be decoded"),
    "a truncated JPEG": ("a.jpg", encoded(plain(), "JPEG")[:700], "cannot be decoded"),
    "a header only": ("a.png", encoded(plain(), "PNG")[:33], "no image of a format"),
    "damaged pixels": ("a.png", flipped(encoded(plain(), "PNG")), "cannot be decoded"),
    "a decompression bomb": ("a.png", png_header(60_000, 60_000), "pixels; processors refuse|exceeds limit of"),
    "too slim": ("a.png", encoded(Image.new("RGB", (1_005, 5)), "PNG"), "1005 x 5 pixels; processors refuse one side"),
    "32-bit pixels": ("a.tif", encoded(Image.new("F", (8, 8)), "TIFF"), "32-bit pixels have no known range"),
}  # fmt: skip


def row(image: str, problem: str = "Q") -> str:
    return json.dumps({"problem": problem, "solution": 1, "image": image})


@pytest.mark.parametrize("kind", GOOD)
def test_unusual_images_are_used(tmp_path, kind):
    name, data = GOOD[kind]
    (tmp_path / name).write_bytes(data)
    for level in ("header", "pixels"):
        assert picture_problem(str(tmp_path / name), level) is None


@pytest.mark.parametrize("kind", BAD)
def test_bad_images_are_reported_at_the_start(tmp_path, kind):
    name, data, problem = BAD[kind]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "good.png").write_bytes(encoded(plain(), "PNG"))
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{row('good.png')}\n{row(name)}\n")
    with pytest.raises(DataError) as error:
        load_records(path, check_images="pixels")
    first, last = str(error.value).splitlines()
    assert first.startswith(f"{path}:2: image '{tmp_path}/{name}'")
    assert any(part in first for part in problem.split("|")), first
    assert last == "1 of 2 rows are bad; on_bad_sample: skip drops them"
    assert [record.source for record in load_records(path, on_bad_sample="skip")] == [f"{path}:1"]
    if "header" not in kind and problem.split("|")[0] not in ("cannot be decoded",):
        with pytest.raises(DataError):
            load_records(path, check_images="header")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    """As root every file may be read, so the system's answer is given here."""
    file = tmp_path / "a.png"
    file.write_bytes(encoded(plain(), "PNG"))

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)
    assert picture_problem(str(file)) == f"image '{file}' cannot be read: Permission denied; fix it or drop the row"


def test_links_in_a_circle_and_to_nowhere(tmp_path):
    os.symlink(tmp_path / "b.png", tmp_path / "a.png")
    os.symlink(tmp_path / "a.png", tmp_path / "b.png")
    os.symlink(tmp_path / "gone.png", tmp_path / "c.png")
    os.symlink(tmp_path, tmp_path / "folder")
    (tmp_path / "good.png").write_bytes(encoded(plain(), "PNG"))
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(row, ["a.png", "c.png", "folder/folder/folder/good.png"])))
    assert list(find_bad_rows(path).values()) == [
        f"{path}:{line}: image '{name}' is a link that leads nowhere or in a circle; mend the link"
        for line, name in ((1, "a.png"), (2, "c.png"))
    ]


@pytest.mark.parametrize("lookups", [0, 1000])
def test_images_outside_of_image_root_are_refused_unless_allowed(tmp_path, lookups, monkeypatch):
    monkeypatch.setattr("omnirl_core.data.images.ImageFiles.__init__.__defaults__", (lookups,), raising=False)
    for folder in ("root/in", "secret"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.png").write_bytes(encoded(plain(), "PNG"))
    os.symlink(tmp_path / "secret", tmp_path / "root" / "linked")
    os.symlink(tmp_path / "secret" / "a.png", tmp_path / "root" / "link.png")
    os.symlink(tmp_path / "root" / "in" / "a.png", tmp_path / "root" / "inside.png")
    os.symlink(tmp_path / "root", tmp_path / "root_by_another_name")
    leaving = [
        "../secret/a.png",
        "in/../../secret/a.png",
        "linked/a.png",
        "link.png",
        f"{tmp_path}/secret/a.png",
    ]
    staying = ["in/a.png", "in/../in/a.png", "../root/in/a.png", "inside.png", f"{tmp_path}/root/in/a.png"]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(row, leaving + staying)))
    for root in ("root", "root_by_another_name"):
        bad = find_bad_rows(path, tmp_path / root)
        assert list(bad) == [f"{path}:{line}" for line in range(1, 6)]
        for name, message in zip(leaving, bad.values(), strict=True):
            assert (
                f"image '{name}' lies outside of image_root {tmp_path}/{root}, at '{tmp_path}/secret/a.png'" in message
            )
            assert message.endswith("allow_outside_image_root: true")
        assert not find_bad_rows(path, tmp_path / root, allow_outside_image_root=True)
        assert len(load_records(path, tmp_path / root, allow_outside_image_root=True)) == 10
    with pytest.raises(DataError, match="lies outside of image_root"):
        load_dataset(path, tmp_path / "root")


def test_large_folders_are_judged_as_small_ones(tmp_path):
    """From 64 look-ups on a folder is listed, and links are known from the listing."""
    (tmp_path / "out.png").write_bytes(b"")
    (tmp_path / "root").mkdir()
    for i in range(200):
        (tmp_path / "root" / f"{i}.png").write_bytes(b"")
        os.symlink(tmp_path / "out.png", tmp_path / "root" / f"{i}_link.png")
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(row(f"{i}{link}.png") for i in range(200) for link in ("", "_link")))
    bad = find_bad_rows(path, tmp_path / "root", check_images="exists")
    assert [int(row_id.rpartition(":")[2]) for row_id in bad] == list(range(2, 401, 2))


def test_the_pixel_limit_can_be_set(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(encoded(Image.new("RGB", (300, 200)), "PNG"))
    default = Image.MAX_IMAGE_PIXELS
    try:
        limit_pixels(59_998)
        assert "60000 pixels) exceeds limit of 59998 pixels" in (picture_problem(str(file)) or "")
        limit_pixels(60_000)
        assert picture_problem(str(file)) is None
    finally:
        Image.MAX_IMAGE_PIXELS = default


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_line_that_does_not_end(tmp_path, name, monkeypatch):
    """100 MB in one line: refused at the limit, and the row after it is read."""
    good = '{"problem": "Q", "solution": 1}'
    with open(tmp_path / name, "w") as out:
        out.write("[" if name == "a.json" else "")
        out.write('{"problem": "' + "x" * 100_000_000 + '", "solution": 1}')
        out.write(f",\n{good}]" if name == "a.json" else f"\n{good}\n")
    with pytest.raises(DataError, match=r"a.jsonl?:1: a row of more than 67,108,864 bytes"):
        load_records(tmp_path / name)
    good_rows = load_records(tmp_path / name, on_bad_sample="skip")
    assert [record.source for record in good_rows] == [f"{tmp_path}/{name}:2"]
    if name == "a.jsonl":
        monkeypatch.setattr(json_reader, "MAX_ROW_BYTES", 200_000_000)
        assert [len(record.problem) for record in load_records(tmp_path / name)] == [100_000_000, 1]


BAD_LINES: dict[str, Callable[[int], bytes]] = {
    "not UTF-8": lambda i: f'{{"problem": "caf\xe9 {i}", "solution": 1}}'.encode("latin-1"),
    "NaN": lambda i: b'{"problem": "Q", "solution": NaN}',
    "infinite": lambda i: b'{"problem": "Q", "solution": 1e999}',
    "twice": lambda i: b'{"problem": "Q", "solution": 1, "solution": 2}',
    "half a pair": lambda i: b'{"problem": "\\ud800", "solution": 1}',
    "cut": lambda i: b'{"problem": "Q", "solution": ',
    "no object": lambda i: b"[1, 2]",
    "no problem": lambda i: b'{"solution": 1}',
    "nothing asked": lambda i: b'{"problem": " ", "solution": 1}',
    "placeholders": lambda i: b'{"problem": "<image> <image>", "solution": 1, "image": "good/0.png"}',
    "missing": lambda i: row(f"gone/{i}.png").encode(),
    "outside": lambda i: row("../outside.png").encode(),
    "reserved": lambda i: b'{"problem": "Q", "solution": 1, "completions": []}',
    "deep": lambda i: b'{"problem": "Q", "solution": ' + b"[" * 3000 + b"]" * 3000 + b"}",
}


@pytest.fixture(scope="module")
def at_scale(tmp_path_factory) -> tuple[Path, Path, dict[int, str], list[str]]:
    """10,000 rows, 1,000 of them bad in 24 ways: (with them, without them, kind by line, ids of good rows)."""
    folder = tmp_path_factory.mktemp("scale")
    root = folder / "root"
    (root / "good").mkdir(parents=True)
    (root / "bad").mkdir()
    (folder / "outside.png").write_bytes(GOOD["1x1"][1])
    for i in range(300):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        (root / "good" / f"{i}.png").write_bytes(encoded(Image.fromarray(pixels), "PNG"))
    bad_lines = set(random.Random(0).sample(range(1, 10_001), 1_000))
    kinds = [*BAD_LINES, *BAD]
    kind_of, good_ids = {}, []
    with open(root / "all.jsonl", "wb") as everything, open(root / "good.jsonl", "wb") as good:
        for line in range(1, 10_001):
            if line in bad_lines:
                kind = kind_of[line] = kinds[len(kind_of) % len(kinds)]
                if kind in BAD:
                    name = f"bad/{line}_{BAD[kind][0]}"
                    (root / name).write_bytes(BAD[kind][1])
                    text = row(name).encode()
                else:
                    text = BAD_LINES[kind](line)
            else:
                images = [f"good/{(line * 7 + k) % 300}.png" for k in range(line % 3)]
                text = json.dumps({"problem": f"Question {line}", "solution": line, "image": images}).encode()
                good.write(text + b"\n")
                good_ids.append(f"{root}/all.jsonl:{line}")
            everything.write(text + b"\n")
    return root / "all.jsonl", root / "good.jsonl", kind_of, good_ids


def drawn(path: Path, **rules) -> list[dict]:
    """All rows as the trainer draws them, less their place in the file."""
    rows = load_dataset(path, **rules)
    return [{name: value for name, value in r.items() if name != "row_id"} for r in rows]


def test_a_thousand_bad_rows_among_ten_thousand_each_named(at_scale):
    everything, _, kind_of, _ = at_scale
    found = find_bad_rows(everything)
    assert list(found) == [f"{everything}:{line}" for line in sorted(kind_of)]
    assert len(found) == 1_000
    for row_id, message in found.items():
        assert message.startswith(f"{row_id}: ")
        kind = kind_of[int(row_id.rpartition(":")[2])]
        if kind in BAD:
            assert any(part in message for part in BAD[kind][2].split("|")), (kind, message)


def test_the_rest_is_as_if_they_had_never_been_there(at_scale, caplog):
    everything, good, _, good_ids = at_scale
    rows = load_dataset(everything, on_bad_sample="skip")
    assert rows[:]["row_id"] == good_ids
    assert "dropped 1000 of 10000 rows" in caplog.text
    assert drawn(everything, on_bad_sample="skip") == drawn(good)


def test_processes_that_share_the_work_find_the_same(at_scale):
    everything, _, _, good_ids = at_scale
    shares = [find_bad_rows(everything, share=(k, 3)) for k in range(3)]
    together = {row_id: message for share in shares for row_id, message in share.items()}
    whole = find_bad_rows(everything)
    assert together == whole
    assert all(len(share) < len(whole) for share in shares)
    rows = load_dataset(everything, on_bad_sample="skip", bad_rows=whole)
    assert rows[:]["row_id"] == good_ids


def test_a_row_that_went_bad_after_the_agreement_is_an_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"problem": "Q", "solution": 1}\nbroken\n')
    with pytest.raises(
        DataError, match=r"rows.jsonl:2: not JSON.*the check before found no fault: did the data change"
    ):
        load_records(path, on_bad_sample="skip", bad_rows={})


def test_order_and_verdicts_do_not_depend_on_the_number_of_threads(at_scale):
    everything, _, _, good_ids = at_scale
    records = load_records(everything, on_bad_sample="skip")[:500]
    for threads in (1, 2, 7):
        assert [r.source for r in with_checked_images(records, "pixels", threads)] == good_ids[:500]
