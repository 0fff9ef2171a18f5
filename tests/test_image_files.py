"""Image files of the world: channels, pages, sizes, orientations and damage."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openseg.errors import DataError
from openseg.io.images import look_at_image, read_image, read_label

REAL = os.environ.get("OPENSEG_REAL")

needs_real = pytest.mark.skipif(not REAL, reason="OPENSEG_REAL does not name a folder of other projects' files")


def tiff_of(path, channels, **tags):
    """An uncompressed TIFF by hand, of any number of channels."""
    height, width = 12, 16
    fields = {256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, 1), 262: (3, 1), 277: (3, channels)}
    fields |= {278: (4, height), 279: (4, height * width * channels), 284: (3, 1)}
    fields |= {key: (3, value) for key, value in tags.items()}
    fields[273] = (4, 8 + 2 + 12 * (len(fields) + 1) + 4)
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(fields.items()))
    header = b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + struct.pack("<I", 0)
    path.write_bytes(header + bytes(height * width * channels))
    return path


def test_a_tiff_of_many_channels_is_described(tmp_path, capfd):
    with pytest.raises(DataError, match=r"a\.tif: a TIFF of 7 channels of 8 bits"):
        read_image(tiff_of(tmp_path / "a.tif", 7))
    assert capfd.readouterr().err == ""


def test_a_fourth_band_is_told_of(tmp_path):
    rgb_and_more = np.zeros((12, 16, 4), np.uint8)
    Image.fromarray(rgb_and_more, "RGBX" if False else "RGBA").save(tmp_path / "rgba.tif")
    assert look_at_image(tmp_path / "rgba.tif") == []
    content = (tmp_path / "rgba.tif").read_bytes()
    extra = struct.pack("<HHI", 338, 3, 1)
    place = content.index(extra) + len(extra)
    (tmp_path / "nir.tif").write_bytes(content[:place] + struct.pack("<H", 0) + content[place + 2 :])
    assert any("fourth channel" in note for note in look_at_image(tmp_path / "nir.tif"))


def test_pyramids_are_one_picture(tmp_path):
    pages = [Image.fromarray(np.full((16 >> k, 32 >> k), 7, np.uint8)) for k in range(3)]
    for page, kind in zip(pages, (0, 1, 1), strict=True):
        page.encoderinfo = {"tiffinfo": {254: kind}}
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=[pages[0]])
    with pytest.raises(DataError, match="holds 2 images"):
        read_image(tmp_path / "two.tif")
    pytest.importorskip("PIL", minversion="11.3", reason="older versions of Pillow write no kind of page")
    pages[0].save(tmp_path / "cog.tif", save_all=True, append_images=pages[1:])
    assert read_label(tmp_path / "cog.tif").shape == (16, 32)


def png_with(content, name, text):
    chunk = struct.pack(">I", len(text)) + name + text + struct.pack(">I", zlib.crc32(name + text))
    return content[:33] + chunk + content[33:]


@pytest.fixture
def png(tmp_path):
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(tmp_path / "plain.png")
    return (tmp_path / "plain.png").read_bytes()


def test_texts_of_a_png_are_not_inflated(tmp_path, png):
    bomb = b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9)
    for name in (b"zTXt", b"iCCP"):
        png = png_with(png, name, bomb)
    (tmp_path / "a.png").write_bytes(png)
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), np.arange(16).reshape(4, 4))


def test_more_data_than_pixels_is_refused(tmp_path, png):
    data = zlib.compress(bytes(1_000_000_000), 1)
    start = png.index(b"IDAT") - 4
    idat = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    (tmp_path / "a.png").write_bytes(png[:start] + idat + png[-12:])
    for read in (read_label, read_image):
        with pytest.raises(DataError, match=r"a\.png: .*bytes of data for 4 x 4"):
            read(tmp_path / "a.png")


def test_the_limit_of_pixels_can_be_set(tmp_path, png, monkeypatch):
    (tmp_path / "a.png").write_bytes(png)
    monkeypatch.setenv("OPENSEG_MAX_PIXELS", "15")
    with pytest.raises(DataError, match=r"a\.png: 4 x 4 is more than 15 pixels"):
        read_label(tmp_path / "a.png")
    monkeypatch.setenv("OPENSEG_MAX_PIXELS", "16")
    assert read_label(tmp_path / "a.png").shape == (4, 4)


@pytest.mark.parametrize("where", ["exif", "raw profile", "xmp"])
def test_orientation_has_one_reader(where, tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    image, path = Image.fromarray(pixels), tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 3
    if where == "exif":
        image.save(path, exif=exif)
    else:
        image.save(path)
        text = exif.tobytes().hex().encode()
        raw = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%8d\n" % (len(text) // 2) + text + b"\n")
        xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>'
        name, chunk = (b"zTXt", raw) if where == "raw profile" else (b"iTXt", xmp)
        path.write_bytes(png_with(path.read_bytes(), name, chunk))
    np.testing.assert_array_equal(read_image(path), pixels[::-1, ::-1])
    assert len(look_at_image(path)) == 1


@needs_real
def test_real_images_of_pillow():
    folder = Path(REAL) / "pillow"
    assert read_image(folder / "rgb16-565.bmp").shape == (64, 127, 3)
    assert read_image(folder / "pil_sample_cmyk.jpg").shape == (100, 100, 3)
    assert read_image(folder / "orientation_rectangle.jpg").shape[:2] in ((1, 2), (2, 1))
    with pytest.raises(DataError, match="8 bits a channel"):
        read_image(folder / "tiff_16bit_RGB.tiff")
    for path in (folder / "tiff_gray_2_4_bpp").iterdir():
        labels = read_label(path)
        assert set(np.unique(labels)) <= set(range(4 if "hopper2" in path.name else 16)), path.name


FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".tif": "TIFF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".jp2": "JPEG2000",
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("colors", [False, True])
def test_fuzzed_images_are_read_or_one_error(suffix, colors, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / f"a{suffix}"
    pixels = rng.integers(0, 256, (12, 16, 3) if colors else (12, 16), np.uint8)
    Image.fromarray(pixels).save(path, FORMATS[suffix])
    whole = path.read_bytes()
    for _ in range(150):
        content = bytearray(whole[: rng.integers(1, len(whole))] if rng.random() < 0.3 else whole)
        for place in rng.integers(0, min(len(content), 200), rng.integers(1, 4)):
            content[place] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(content)
        for read in (read_image, read_label):
            try:
                assert read(path).ndim in (2, 3)
            except DataError as error:
                assert path.name in str(error) and "\n" not in str(error)
