"""Whatever lies in a data folder is either read rightly or refused in one line that names the file."""

import contextlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from openseg.config import Config
from openseg.datasets.check import inspect
from openseg.datasets.samples import list_split
from openseg.errors import DataError
from openseg.io.files import list_files
from openseg.io.images import read_image, read_label, write_image, write_label

RNG = np.random.default_rng(0)
PALETTE = RNG.integers(0, 256, 768, np.uint8).tobytes()
RGB = RNG.integers(0, 256, (12, 16, 3), np.uint8)
IDS = RNG.integers(0, 19, (12, 16), np.uint8)


def png_chunks(values, kind, bits, size=None):
    """A PNG written by hand: ``values`` are rows of packed bytes, in the given color type and bits a channel."""
    height, width = size or (len(values), values.shape[1] * 8 // (bits * (3 if kind == 2 else 1)))

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    ends = [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(ends)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def palette_image():
    image = Image.fromarray(IDS)
    image.putpalette(PALETTE)
    return image


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


PNG, JPEG, TIFF = saved(RGB, "PNG"), saved(RGB, "JPEG", quality=95), saved(RGB, "TIFF")
DECODED_JPEG = np.asarray(Image.open(io.BytesIO(JPEG)))
MANY = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())]

# file name, content, and what reading gives: an array, or words of the error
IMAGES = {
    "zero bytes": ("a.png", b"", "empty file"),
    "truncated PNG": ("a.png", PNG[: len(PNG) // 2], "truncated"),
    "PNG without its end": ("a.png", PNG[:-200], "truncated"),
    "PNG with a flipped bit": ("a.png", PNG[:100] + bytes([PNG[100] ^ 4]) + PNG[101:], "truncated"),
    "PNG header alone": ("a.png", PNG[:8], "not an image"),
    "truncated JPEG": ("a.jpg", JPEG[: len(JPEG) // 2], "truncated"),
    "truncated TIFF": ("a.tif", TIFF[: len(TIFF) // 2], "a.tif"),
    "text": ("a.jpg", b"<!DOCTYPE html><html>Not found</html>", "not an image"),
    "random bytes": ("a.png", RNG.bytes(500), "not an image"),
    "PDF": ("a.png", b"%PDF-1.4\n%%EOF", "not an image"),
    "JPEG named PNG": ("a.png", JPEG, DECODED_JPEG),
    "16-bit gray": ("a.png", saved(RNG.integers(0, 65536, (12, 16)).astype(np.uint16), "PNG"), "8 bits"),
    "16-bit RGB": ("a.png", png_chunks(RNG.integers(0, 256, (12, 96), np.uint8), 2, 16), "8 bits"),
    "32-bit float": ("a.tif", saved(Image.fromarray(RGB[..., 0].astype(np.float32)), "TIFF"), "8 bits"),
    "32-bit integer": ("a.tif", saved(Image.fromarray(RGB[..., 0].astype(np.int32)), "TIFF"), "8 bits"),
    "gray": ("a.png", saved(RGB[..., 0], "PNG"), np.repeat(RGB[..., :1], 3, axis=2)),
    "black and white": (
        "a.png",
        saved(Image.fromarray(RGB[..., 0] > 127), "PNG"),
        np.repeat(np.where(RGB[..., :1] > 127, 255, 0), 3, axis=2).astype(np.uint8),
    ),
    "palette": ("a.png", saved(palette_image(), "PNG"), np.asarray(palette_image().convert("RGB"))),
    "alpha": ("a.png", saved(np.dstack([RGB, RGB[..., 0]]), "PNG"), RGB),
    "gray with alpha": ("a.png", saved(Image.fromarray(RGB[..., :2].copy(), "LA"), "PNG"), RGB[..., [0, 0, 0]]),
    "transparent color": ("a.png", saved(RGB, "PNG", transparency=tuple(RGB[0, 0].tolist())), RGB),
    "interlaced": ("a.png", None, RGB),
    "color profile and gamma": ("a.png", None, RGB),
    "CMYK": ("a.jpg", saved(Image.new("CMYK", (16, 12), (0, 255, 255, 0)), "JPEG"), np.full((12, 16, 3), (255, 0, 0))),
    "LAB": ("a.tif", saved(Image.fromarray(RGB).convert("LAB"), "TIFF"), "8 bits"),
    "animated PNG": ("a.png", saved(MANY[0], "PNG", save_all=True, append_images=MANY[1:]), "2 images"),
    "animated WebP": ("a.webp", saved(MANY[0], "WEBP", save_all=True, append_images=MANY[1:]), "2 images"),
    "multi-page TIFF": ("a.tif", saved(MANY[0], "TIFF", save_all=True, append_images=MANY[1:]), "2 images"),
    "lossless WebP": ("a.webp", saved(RGB, "WEBP", lossless=True), RGB),
    "TIFF": ("a.tif", TIFF, RGB),
    "upside down by EXIF": ("a.png", saved(RGB, "PNG", exif=exif(3)), RGB[::-1, ::-1]),
    "on its side by EXIF": ("a.png", saved(RGB, "PNG", exif=exif(6)), np.rot90(RGB, -1)),
    "damaged EXIF": ("a.jpg", saved(RGB, "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff"), DECODED_JPEG),
    "huge": ("a.png", png_chunks(np.zeros((1, 1), np.uint8), 0, 8, (1 << 15, 1 << 14)), "tiles"),
    "one pixel": ("a.png", saved(RGB[:1, :1], "PNG"), RGB[:1, :1]),
    "blanks and accents in its name": ("Prüfung 1 größer.png", PNG, RGB),
    "new line in its name": ("a\nb.png", PNG, RGB),
    "upper-case suffix": ("A.PNG", PNG, RGB),
}
LABELS = {
    "JPEG": ("a.jpg", saved(IDS, "JPEG"), "compression changes values"),
    "JPEG named PNG": ("a.png", saved(IDS, "JPEG"), "compression changes values"),
    "WebP": ("a.webp", saved(RGB, "WEBP"), "compression changes values"),
    "truncated": ("a.png", saved(IDS, "PNG")[:-30], "truncated"),
    "zero bytes": ("a.png", b"", "empty file"),
    "RGB": ("a.png", PNG, "label_colors"),
    "RGB of equal channels": ("a.png", saved(np.repeat(IDS[..., None], 3, axis=2), "PNG"), "channels are the same"),
    "RGBA": ("a.png", saved(np.dstack([RGB, RGB[..., 0]]), "PNG"), "RGBA"),
    "alpha": ("a.png", saved(Image.fromarray(np.dstack([IDS, IDS]), "LA"), "PNG"), "LA"),
    "float": ("a.tif", saved(Image.fromarray(IDS.astype(np.float32)), "TIFF"), "one channel"),
    "negative": ("a.tif", saved(Image.fromarray(IDS.astype(np.int32) - 1), "TIFF"), "do not fit 16 bits"),
    "8 bits": ("a.png", saved(IDS, "PNG"), IDS),
    "16 bits": ("a.png", saved(IDS.astype(np.uint16) * 1000, "PNG"), IDS.astype(np.uint16) * 1000),
    "palette": ("a.png", saved(palette_image(), "PNG"), IDS),
    "palette of 4 bits": ("a.png", saved(Image.fromarray(IDS % 16).convert("P"), "PNG", bits=4), IDS % 16),
    "gray of 4 bits": ("a.png", png_chunks(IDS[:, ::2] % 16 * 16 + IDS[:, 1::2] % 16, 0, 4), IDS % 16),
    "gray of 2 bits": (
        "a.png",
        png_chunks(np.full((12, 4), 0b00011011, np.uint8), 0, 2),
        np.resize([0, 1, 2, 3], (12, 16)),
    ),
    "1 bit": ("a.png", saved(Image.fromarray(IDS > 9), "PNG"), (IDS > 9).astype(np.uint8)),
    "TIFF": ("a.tif", saved(IDS, "TIFF"), IDS),
    "EXIF orientation": ("a.png", saved(IDS, "PNG", exif=exif(3)), "EXIF orientation"),
    "animated": ("a.png", saved(MANY[0], "PNG", save_all=True, append_images=MANY[1:]), "2 images"),
}


def written(case, folder):
    """The file of a case; some need more than bytes."""
    name, content, expected = case
    if content is None:
        special = {"interlaced": png_interlaced, "color profile and gamma": png_with_gamma}
        content = special[next(key for key, value in IMAGES.items() if value is case)]()
    (folder / name).write_bytes(content)
    return folder / name, expected


def png_interlaced():
    """Adam7 by hand: seven passes, each a small image."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b""
    for top, left, down, right in passes:
        for row in RGB[top::down, left::right]:
            rows += b"\0" + row.tobytes() if len(row) else b""
    plain = png_chunks(RGB.reshape(12, -1), 2, 8)
    header = plain[:28] + b"\1"
    data = zlib.compress(rows)
    idat = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    return header + struct.pack(">I", zlib.crc32(header[12:])) + idat + plain[-12:]


def png_with_gamma():
    content = struct.pack(">I", 30000)
    gamma = struct.pack(">I", 4) + b"gAMA" + content + struct.pack(">I", zlib.crc32(b"gAMA" + content))
    plain = png_chunks(RGB.reshape(12, -1), 2, 8)
    return plain[:33] + gamma + plain[33:]


def check_reading(read, path, expected):
    if isinstance(expected, str):
        with pytest.raises(DataError) as error:
            read(path)
        message = str(error.value)
        assert path.name in message and expected in message and "\n" not in message.replace(path.name, "")
    else:
        np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize("case", IMAGES)
def test_images(case, tmp_path):
    path, expected = written(IMAGES[case], tmp_path)
    check_reading(read_image, path, expected)


@pytest.mark.parametrize("case", LABELS)
def test_labels(case, tmp_path):
    path, expected = written(LABELS[case], tmp_path)
    check_reading(read_label, path, expected)


@contextlib.contextmanager
def as_nobody():
    """Root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def split(tmp_path):
    """A split of two good samples."""
    for name in ("a", "b"):
        write_image(tmp_path / f"set/train/image/{name}.png", RGB)
        write_label(tmp_path / f"set/train/label/{name}.png", np.full(IDS.shape, 7, np.uint8))
    (tmp_path / "set.yaml").write_text("classes: cityscapes\nfolder: set\n")
    return tmp_path / "set/train", Config(name="x", data={"dataset": str(tmp_path / "set.yaml")})


def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    path.chmod(0)
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(0o755)
    with as_nobody(), pytest.raises(DataError, match=r"a\.png.*(permission denied|Permission denied)"):
        read_image(path)


def test_a_folder_that_may_not_be_read(tmp_path):
    (tmp_path / "x").mkdir(mode=0o000)
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(0o755)
    with as_nobody(), pytest.raises(DataError, match=r"x: cannot be read"):
        list_files(tmp_path)


def test_links(split, tmp_path):
    folder, config = split
    (folder / "image/more").symlink_to(folder / "image", target_is_directory=True)  # leads to itself again
    assert len(list_split(config, "train")) == 2
    (folder / "image/b.png").rename(tmp_path / "b.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "b.png").rename(tmp_path / "elsewhere/b.png")
    (folder / "image/linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(list_split(config, "train")) == 2
    (tmp_path / "elsewhere/b.png").unlink()
    (tmp_path / "elsewhere/b.png").symlink_to("b.png")
    with pytest.raises(DataError, match=r"b\.png"):
        list_split(config, "train")
    (tmp_path / "elsewhere/b.png").unlink()
    (tmp_path / "elsewhere/b.png").symlink_to("gone.png")
    with pytest.raises(DataError, match=r"b\.png: a broken symlink"):
        list_split(config, "train")


def test_a_folder_named_like_an_image(split):
    folder, config = split
    (folder / "image/c.png").mkdir()
    assert len(list_split(config, "train")) == 2
    with pytest.raises(DataError, match=r"c\.png: a folder"):
        read_image(folder / "image/c.png")


def test_sizes_that_differ(split):
    folder, config = split
    for name, orientation in (("a", 3), ("b", 1)):
        (folder / f"image/{name}.png").write_bytes(saved(RGB, "PNG", exif=exif(orientation)))
    assert [bool(inspect(pair, config).notes) for pair in list_split(config, "train")] == [True, False]
    write_label(folder / "label/a.png", np.full((5, 5), 7, np.uint8))
    (folder / "image/b.png").write_bytes(saved(RGB, "PNG", exif=exif(6)))
    a, b = (inspect(pair, config).errors for pair in list_split(config, "train"))
    assert len(a) == 1 and "a.png: size 5 x 5 differs from" in a[0] and "12 x 16" in a[0]
    assert len(b) == 1 and "turned by 90 degrees" in b[0]


@pytest.mark.parametrize("kind", ["gray", "palette", "colors", "by Pillow"])
def test_a_flipped_bit_never_changes_a_picture_unnoticed(kind, tmp_path):
    path = tmp_path / "a.png"
    values = RGB if kind == "colors" else IDS
    read = read_image if kind == "colors" else read_label
    if kind == "by Pillow":
        Image.fromarray(values).save(path)
    elif kind == "colors":
        write_image(path, values)
    else:
        write_label(path, values, PALETTE if kind == "palette" else None)
    content = path.read_bytes()
    for place in range(8, len(content), 1 if kind != "palette" else 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        with contextlib.suppress(DataError):
            np.testing.assert_array_equal(read(path), values)


def test_labels_that_no_png_holds_are_refused(tmp_path):
    for labels in (IDS.astype(np.int32), RGB, IDS[:0]):
        with pytest.raises(DataError, match=r"a\.png"):
            write_label(tmp_path / "a.png", labels)
    with pytest.raises(DataError, match="256 colors"):
        write_label(tmp_path / "a.png", IDS.astype(np.uint16), PALETTE)
    write_label(tmp_path / "a.png", np.asfortranarray(IDS.astype(np.uint16) * 300))
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), IDS.astype(np.uint16) * 300)
