"""The preparation programs on miniature releases in their public layouts, unpacked and zipped."""

import io
import tarfile
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from openseg.cli.main import main
from openseg.cli.prepare import prepare_release
from openseg.datasets.registry import get_dataset_info
from openseg.io.images import read_label

SIZE = (40, 48)


def encoded(values, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


def picture(kind="PNG", seed=0):
    return encoded(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8), kind)


def label(values):
    return encoded(np.resize(np.array(values, np.uint8), SIZE))


def mat(values):
    buffer = io.BytesIO()
    savemat(buffer, {"S": np.resize(np.array(values, np.uint16), SIZE), "captions": ["a"]}, do_compression=True)
    return buffer.getvalue()


def masks(values, first):
    """As PyTorch-Encoding saved them: a pickled mapping of image numbers to Pillow images."""
    buffer = io.BytesIO()
    content = {first + i: Image.fromarray(np.resize(np.array(values, np.uint8), SIZE)) for i in range(2)}
    torch.save(content, buffer)
    return buffer.getvalue()


def zipped(files, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def cityscapes_files():
    files = {"leftImg8bit/.DS_Store": b"x", "gtFine/train/aachen/README": b"x"}
    for split, city in (("train", "aachen"), ("val", "munster"), ("test", "berlin"), ("train_extra", "bad-honnef")):
        for i in range(2):
            name = f"{split}/{city}/{city}_00000{i}_000019"
            files[f"leftImg8bit/{name}_leftImg8bit.png"] = picture(seed=sum(map(ord, split)) + i)
            if split != "train_extra":
                files[f"gtFine/{name}_gtFine_labelIds.png"] = label([7, 8, 24, 0] if split != "test" else [0])
                instances = np.resize(np.array([7, 24001, 24002, 0], np.uint16), SIZE)
                files[f"gtFine/{name}_gtFine_instanceIds.png"] = encoded(instances)
                files[f"gtFine/{name}_gtFine_color.png"] = picture()
            if split != "test":
                files[f"gtCoarse/{name}_gtCoarse_labelIds.png"] = label([7, 11, 0])
    broken = "troisdorf_000000_000073"
    files[f"leftImg8bit/train_extra/troisdorf/{broken}_leftImg8bit.png"] = encoded(np.zeros(SIZE, np.uint8))
    files[f"gtCoarse/train_extra/troisdorf/{broken}_gtCoarse_labelIds.png"] = label([7])
    return files


def ade20k_files():
    files = {"ADEChallengeData2016/objectInfo150.txt": b"x"}
    for split, short in (("training", "train"), ("validation", "val")):
        for i in (1, 2):
            name = f"{split}/ADE_{short}_0000000{i}"
            files[f"ADEChallengeData2016/images/{name}.jpg"] = picture("JPEG", seed=len(files))
            files[f"ADEChallengeData2016/annotations/{name}.png"] = label([0, 1, 150])
    files["release_test/testing/ADE_test_00000001.jpg"] = picture("JPEG")
    return files


def lip_files():
    files = {"TrainVal_images/train_id.txt": b"1000_1\n"}
    for split in ("train", "val"):
        for i in (1, 2):
            files[f"TrainVal_images/{split}_images/100{i}_{split}.jpg"] = picture("JPEG", seed=len(files))
            name = f"{split}_segmentations/100{i}_{split}.png"
            files[f"TrainVal_parsing_annotations/TrainVal_parsing_annotations/{name}"] = label([0, 14, 15, 19])
            files[f"train_segmentations_reversed/100{i}_{split}.png"] = label([0, 15, 14, 19])
    return files


def coco_10k_files():
    names = [f"COCO_train2014_00000000000{i}" for i in range(4)]
    files = {"imageLists/all.txt": "\n".join(names).encode(), "imageLists/train.txt": "\n".join(names[:2]).encode()}
    files["imageLists/test.txt"] = (names[2] + "\r\n" + names[3] + "\r\n").encode()
    files["images/COCO_train2014_000000000009.jpg"] = picture("JPEG")  # in no list
    for name in names:
        files[f"images/{name}.jpg"] = picture("JPEG", seed=len(files))
        files[f"annotations/{name}.mat"] = mat([0, 1, 92, 182])
    return files


def coco_164k_files():
    files = {}
    for split in ("train", "val"):
        for i in (1, 2):
            files[f"images/{split}2017/00000000000{i}.jpg"] = picture("JPEG", seed=len(files))
            files[f"stuffthingmaps_trainval2017/{split}2017/00000000000{i}.png"] = label([255, 0, 91, 181])
    return files


def pascal_files():
    files = {f"VOCdevkit/VOC2010/JPEGImages/2008_00000{i}.jpg": picture("JPEG", seed=i) for i in range(2, 7)}
    for split, first in (("train", 2008000002), ("val", 2008000004)):
        files[f"PytorchEncoding/{split}.pth"] = masks([0, 1, 59], first)
    return files


def mapillary_files():
    files = {"config.json": b"{}"}
    for split in ("training", "validation", "testing"):
        for i in (1, 2):
            files[f"{split}/images/a{i}{split}.jpg"] = picture("JPEG", seed=len(files))
            if split != "testing":
                image = Image.fromarray(np.resize(np.array([0, 64, 65], np.uint8), SIZE))
                image.putpalette(list(range(198)))
                buffer = io.BytesIO()
                image.save(buffer, "PNG")
                files[f"{split}/labels/a{i}{split}.png"] = buffer.getvalue()
    return files


def camvid_files():
    files = {"CamVid/train.txt": b"x", "CamVid/predictions/espnet/train/0001TP_1.png": picture()}
    for split in ("train", "val", "test"):
        for i in (1, 2):
            files[f"CamVid/{split}/{split}_{i}.png"] = picture(seed=len(files))
            files[f"CamVid/{split}annot/{split}_{i}.png"] = label([0, 10, 11])
    return files


# program: dataset, release, splits with labels and how many, a label file of it, the ids in labels
RELEASES = {
    "cityscapes": ("cityscapes", cityscapes_files, {"train": 2, "val": 2}, "gtFine_labelIds.png", {0, 7, 8, 24}),
    "ade20k": ("ade20k", ade20k_files, {"train": 2, "val": 2}, "ADE_val_00000002.png", {0, 1, 150}),
    "lip": ("lip", lip_files, {"train": 2, "val": 2}, "val_segmentations/1002_val.png", {0, 14, 15, 19}),
    "coco_stuff": ("coco_stuff", coco_10k_files, {"train": 2, "val": 2}, "000000.mat", {0, 1, 92, 182}),
    "coco_stuff_164k": ("coco_stuff_164k", coco_164k_files, {"train": 2, "val": 2}, "2.png", {0, 1, 92, 182}),
    "pascal_context": ("pascal_context", pascal_files, {"train": 2, "val": 2}, "2008_000005.jpg", {0, 1, 59}),
    "mapillary": ("mapillary_vistas", mapillary_files, {"train": 2, "val": 2}, "a2validation.png", {0, 64, 65}),
    "camvid": ("camvid", camvid_files, {"train": 2, "val": 2}, "annot/val_2.png", {0, 10, 11}),
}


def unpack(files, folder):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def prepared(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("program", RELEASES)
def test_a_release_is_prepared_unpacked_or_zipped_and_passes_the_check(program, tmp_path, capsys):
    name, release, splits, _, ids = RELEASES[program]
    files, run = release(), partial(prepare_release, {"mapillary": "mapillary_vistas"}.get(program, program))
    (tmp_path / "release.zip").write_bytes(zipped({f"top/{key}": value for key, value in files.items()}))
    if program == "camvid":  # it is published as a folder of a repository
        (tmp_path / "release.zip").write_bytes(zipped(files))
    unpack(files, tmp_path / "release")
    sources = {"unpacked": tmp_path / "release", "zipped": tmp_path / "release.zip"}
    for kind, source in sources.items():
        arguments = ["--input", str(source), "--out", str(tmp_path / kind), "--workers", "1"]
        assert run(arguments) == 0
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / kind).rglob("*.*")}
        capsys.readouterr()
        assert run(arguments) == 0
        printed = capsys.readouterr().out
        assert "train: " in printed and all(", 0 files written" in line for line in printed.splitlines())
        assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / kind).rglob("*.*")}
    assert prepared(tmp_path / "unpacked") == prepared(tmp_path / "zipped")
    folder = tmp_path / "unpacked" / get_dataset_info(name).folder
    for split, count in splits.items():
        labels = sorted((folder / split / "label").iterdir())
        assert [path.stem for path in labels] == [path.stem for path in sorted((folder / split / "image").iterdir())]
        assert len(labels) == count and set(read_label(labels[0]).flat) == ids
    assert main(["check", "--dataset", name, "--data-root", str(tmp_path / "unpacked"), "--workers", "1"]) == 0


@pytest.mark.parametrize("program", RELEASES)
def test_a_missing_label_is_one_error_and_nothing_is_written(program, tmp_path, one_line_error):
    _, release, _, missing, _ = RELEASES[program]
    files = release()
    lost = [name for name in files if name.endswith(missing)][-1]
    if program == "cityscapes":
        lost = next(name for name in files if "/val/" in name and name.endswith(missing))
    if program == "coco_stuff":
        lost = "annotations/COCO_train2014_000000000002.mat"
    del files[lost]
    source = unpack(files, tmp_path / "release")
    run = partial(prepare_release, {"mapillary": "mapillary_vistas"}.get(program, program))
    stem = lost.rsplit("/", 1)[-1].split(".")[0].replace("_gtFine_labelIds", "")
    error = one_line_error(run(["--input", str(source), "--out", str(tmp_path / "out")]), stem)
    assert "have no " in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("program", RELEASES)
def test_a_folder_of_something_else_is_refused_with_the_expected_layout(program, tmp_path, one_line_error):
    unpack({"holiday/beach.txt": b"x"}, tmp_path / "release")
    run = partial(prepare_release, {"mapillary": "mapillary_vistas"}.get(program, program))
    one_line_error(
        run(["--input", str(tmp_path / "release"), "--out", str(tmp_path / "out")]),
        "no files of the release found; expected",
    )
    one_line_error(run(["--input", str(tmp_path / "none")]), "none", "no such folder or archive")


def test_instances_and_coarse_labels_of_cityscapes(tmp_path):
    source = unpack(cityscapes_files(), tmp_path / "release")
    arguments = ["--input", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert prepare_release("cityscapes", [*arguments, "--coarse", "--extra"]) == 0
    assert prepare_release("cityscapes_instances", arguments) == 0
    folder = tmp_path / "out/cityscapes"
    name = "munster_000000_000019_leftImg8bit.png"
    assert set(read_label(folder / "val/label" / name).flat) == {7, 8, 24, 0}  # fine labels, whatever else is asked for
    assert set(read_label(folder / "val_coarse/label" / name).flat) == {7, 11, 0}
    assert set(read_label(folder / "val/instance" / name).flat) == {7, 24001, 24002, 0}
    assert len(list((folder / "test/image").iterdir())) == 2 and not (folder / "test/label").exists()
    extra = [path.name for path in sorted((folder / "coarse/image").iterdir())]
    assert extra == [f"bad-honnef_00000{i}_000019_leftImg8bit.png" for i in range(2)]  # without the broken one
    assert main(["check", "--dataset", "cityscapes", "--data-root", str(tmp_path / "out"), "--split", "coarse"]) == 0


def test_a_zip_in_a_zip_and_a_tar_are_read_in_place(tmp_path):
    files = lip_files()
    inner = zipped({name: content for name, content in files.items() if "images" in name})
    outer = zipped({"TrainVal_images/TrainVal_images.zip": inner})
    labels = zipped({name: content for name, content in files.items() if "images" not in name})
    (tmp_path / "TrainVal_images.zip").write_bytes(outer)
    (tmp_path / "TrainVal_parsing_annotations.zip").write_bytes(zipped({"x/y.zip": labels}))
    assert prepare_release("lip", ["--input", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "2"]) == 0
    folder = tmp_path / "out/lip/val"
    assert (folder / "image/1001_val.jpg").read_bytes() == files["TrainVal_images/val_images/1001_val.jpg"]
    assert len(list((folder / "label").iterdir())) == 2

    files = pascal_files()
    with tarfile.open(tmp_path / "voc.tar", "w") as archive:
        for name, content in files.items():
            if name.endswith(".jpg"):
                info = tarfile.TarInfo(f"./{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    unpack({name: content for name, content in files.items() if name.endswith(".pth")}, tmp_path / "masks")
    inputs = ["--input", str(tmp_path / "voc.tar")]
    inputs += [str(tmp_path / f"masks/PytorchEncoding/{split}.pth") for split in ("train", "val")]
    assert prepare_release("pascal_context", [*inputs, "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    image = tmp_path / "out/pascal_context/val/image/2008_000005.jpg"
    assert image.read_bytes() == files["VOCdevkit/VOC2010/JPEGImages/2008_000005.jpg"]


def test_camvid_in_our_own_layout_is_prepared_too(tmp_path):
    for name, content in camvid_files().items():
        split, _, file = name.removeprefix("CamVid/").partition("/")
        kind = "label" if "annot" in split else "image"
        if split.startswith(("train", "val")) and file:
            unpack({f"{split.removesuffix('annot')}/{kind}/{file}": content}, tmp_path / "data")
    assert (
        prepare_release("camvid", ["--input", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--workers", "1"])
        == 0
    )
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    expected = [(s, k, i) for s in ("train", "val") for k in ("image", "label") for i in (1, 2)]
    assert files == [f"camvid/{split}/{kind}/{split}_{i}.png" for split, kind, i in expected]


def test_link_and_limit_and_a_source_that_changed(tmp_path, capsys):
    source = unpack(ade20k_files(), tmp_path / "release")
    arguments = ["--input", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert prepare_release("ade20k", [*arguments, "--link", "--limit", "1"]) == 0
    images = list((tmp_path / "out/ade20k/train/image").iterdir())
    original = source / "ADEChallengeData2016/images/training/ADE_train_00000001.jpg"
    assert len(images) == 1 and images[0].samefile(original)
    assert prepare_release("ade20k", arguments) == 0
    target = tmp_path / "out/ade20k/train/label/ADE_train_00000002.png"
    (source / "ADEChallengeData2016/annotations/training/ADE_train_00000002.png").write_bytes(label([1, 2, 3, 4, 5, 6]))
    capsys.readouterr()
    assert prepare_release("ade20k", arguments) == 0
    assert "1 files written" in capsys.readouterr().out
    assert set(read_label(target).flat) == {1, 2, 3, 4, 5, 6}


def test_an_archive_that_was_forgotten_is_named(tmp_path, one_line_error):
    files = cityscapes_files()
    images = unpack({name: value for name, value in files.items() if "leftImg8bit" in name}, tmp_path / "images")
    out = ["--out", str(tmp_path / "out"), "--workers", "1"]
    one_line_error(prepare_release("cityscapes", ["--input", str(images), *out]), "images but no labels")
    labels = unpack({name: value for name, value in files.items() if "gtFine" in name}, tmp_path / "labels")
    one_line_error(
        prepare_release("cityscapes", ["--input", str(images), str(labels), "--extra", *out]), "coarse", "no labels"
    )
    (tmp_path / "labels/loop").symlink_to(tmp_path / "labels", target_is_directory=True)
    assert prepare_release("cityscapes", ["--input", str(images), str(labels), *out]) == 0


def test_damaged_archives_are_named(tmp_path, one_line_error):
    content = zipped(ade20k_files())
    out = ["--out", str(tmp_path / "out"), "--workers", "1"]
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    one_line_error(prepare_release("ade20k", ["--input", str(tmp_path / "cut.zip"), *out]), "cut.zip", "download")
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        content = zipped(ade20k_files(), compression)
        middle = content.index(b"ADE_train_00000001.jpg") + 100
        (tmp_path / "flipped.zip").write_bytes(content[:middle] + b"xxxxxxxx" * 20 + content[middle + 160 :])
        one_line_error(
            prepare_release("ade20k", ["--input", str(tmp_path / "flipped.zip"), *out]), "ADE_train_00000001.jpg"
        )
    (tmp_path / "data.tar.gz").write_bytes(b"x")
    one_line_error(prepare_release("ade20k", ["--input", str(tmp_path / "data.tar.gz"), *out]), "data.tar.gz", "unpack")
    files = pascal_files() | {"PytorchEncoding/val.pth": b"not a pickle"}
    source = unpack(files, tmp_path / "pascal")
    one_line_error(prepare_release("pascal_context", ["--input", str(source), *out]), "val.pth", "PyTorch-Encoding")
    files = coco_10k_files() | {"annotations/COCO_train2014_000000000001.mat": mat([0, 1, 92, 183])}
    source = unpack(files, tmp_path / "coco")
    one_line_error(
        prepare_release("coco_stuff", ["--input", str(source), *out]), "COCO_train2014_000000000001.mat", "183"
    )
