"""Reading refuses damaged files by name; writing is all or nothing."""

import resource

import numpy as np
import pytest
from PIL import Image

from openseg.errors import DataError, OpensegError
from openseg.io.files import atomic_write, list_files
from openseg.io.images import read_image, read_label, write_label
from openseg.io.matching import sample_key


@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated"])
def test_damaged_files_are_named(read, damage, tmp_path):
    path = tmp_path / "x.png"
    if damage != "missing":
        write_label(path, np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
        content = path.read_bytes()
        path.write_bytes({"empty": b"", "text": b"not found", "truncated": content[: len(content) // 2]}[damage])
    with pytest.raises(DataError, match=r"x\.png"):
        read(path)


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1"])
def test_labels_are_indices_in_every_mode(mode, tmp_path):
    values = np.array([[0, 1], [1, 0]], np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(values).convert("1") if mode == "1" else Image.fromarray(values)
    if mode == "1":
        image = Image.fromarray(values.astype(bool))
    if mode == "P":
        image.putpalette([200, 10, 10, 10, 200, 10])
    image.save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_label(tmp_path / "x.png"), values)


def test_a_color_picture_is_no_label(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png.*one channel"):
        read_label(tmp_path / "x.png")


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_clear_error(tmp_path):
    path = tmp_path / "x.png"
    write_label(path, np.zeros((4, 4), np.uint8))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OpensegError, match=r"cannot write .*x\.png.*space"):
            write_label(path, np.random.default_rng(0).integers(0, 255, (256, 256), np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OpensegError, match="cannot write"):
        write_label(tmp_path / "file" / "x.png", np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("frankfurt_000000_000294_leftImg8bit.png", "frankfurt_000000_000294"),
        ("frankfurt_000000_000294_gtFine_labelIds.png", "frankfurt_000000_000294"),
        ("0016E5_07959.png", "0016E5_07959"),
        ("a_b_c_d.jpg", "a_b_c_d"),
        ("plain.mat", "plain"),
    ],
)
def test_names_meet_by_one_rule(name, key):
    assert sample_key(name) == key


def test_folders_without_images_are_named(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match=str(folder)):
            list_files(folder)


@pytest.mark.parametrize("read", [read_image, read_label])
def test_no_foreign_program_reads_an_image(read, tmp_path, monkeypatch):
    """Pillow would start Ghostscript for PostScript, whatever the file's name."""
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    with pytest.raises(DataError, match=r"a\.png: not an image"):
        read(path)
