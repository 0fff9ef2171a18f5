"""Large sources: storage, shards and clusters give what a folder on one machine gives, once for each input."""

import io
import json
import os
import re
import sys
import tarfile
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import openseg
from openseg import scale
from openseg.cli.main import main
from openseg.cli.segfix import main as segfix
from openseg.io import storage
from openseg.io.images import write_label
from openseg.io.matching import match_files
from openseg.io.sources import Found, Source
from openseg.metrics.exact import ExactSums
from openseg.models.checkpoint.io import read_checkpoint
from openseg.scale import run as scale_run
from openseg.scale.index import Index
from openseg.scale.units import Refine
from openseg.segfix.offset_files import write_offsets
from openseg.tools.refining import RefineSettings
from openseg.training.step import Step

COUNT = 40


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """Labels with ground truth and offsets in two folders, and what the local command makes of them."""
    root = tmp_path_factory.mktemp("maps")
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        name = f"{'ab'[number % 2]}/f{number:03d}.png"
        truth = np.kron(rng.integers(0, 11, (4, 6)), np.ones((10, 10))).astype(np.uint8)
        write_label(root / "truth" / name, truth)
        write_label(root / "label" / name, np.where(rng.random(truth.shape) < 0.1, 3, truth).astype(np.uint8))
        write_offsets(root / "offset" / name, rng.integers(-1, 2, (*truth.shape, 2)).astype(np.int8))
    openseg.refine(root / "label", offsets=root / "offset", out=root / "local", **HOW, split="test")
    return root


HOW = {"dataset": "camvid", "scale": 1}


def refined(labels, offsets, out, **more):
    return scale.refine(labels, offsets=offsets, dataset="camvid", scale_pixels=1, out=out, **more)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(Path(folder).rglob("*.png"))}


def records(result):
    return [json.loads(line) for line in storage.Place(result.manifest).read().decode().splitlines()]


def test_a_folder_gives_what_the_local_command_gives(maps, tmp_path, capsys):
    arguments = ["--input", maps / "label", "--offset", maps / "offset", "--out", tmp_path / "out", "--block", 7]
    options = ["--dataset", "camvid", "--scale", 1, "--split", "test"]
    assert segfix([*map(str, arguments + options)]) == 0
    assert "40 of 40 inputs done" in capsys.readouterr().out
    assert contents(tmp_path / "out") == contents(maps / "local")
    lines = (tmp_path / "out/manifest.jsonl").read_text().splitlines()
    ids = [json.loads(line)["id"] for line in lines]
    assert ids == sorted(path.removesuffix(".png") for path in contents(maps / "local"))
    assert json.loads(lines[0]).keys() == {"id", "status", "sha256", "changed"}
    assert segfix([*map(str, arguments + options)]) == 0  # nothing is done again
    assert "40 skipped" in capsys.readouterr().out


def test_shards_together_are_the_whole(maps, tmp_path, capsys, one_line_error):
    for number in (1, 2, 3):
        shard = scale.Scale(shard=f"{number}/3")
        result = refined(maps / "label", maps / "offset", tmp_path / "out", scale=shard)
        assert result.summary["done"] == result.summary["in_shard"] < COUNT
    assert contents(tmp_path / "out") == contents(maps / "local")
    files = [str(tmp_path / f"out/summary-{number}-of-3.json") for number in (1, 2, 3)]
    assert scale.merge(files)[0]["done"] == COUNT
    capsys.readouterr()
    code = main(["merge", *files[:2]])
    one_line_error(code, "shards are missing", "3/3")
    code = main(["merge", files[0], files[0], files[1]])
    one_line_error(code, "both are shard 1/3")


def test_scores_of_shards_are_those_of_one_process(maps, tmp_path, capsys, one_line_error):
    given = ["evaluate", "--pred", maps / "label", "--gt", maps / "truth", "--dataset", "camvid", "--per-image"]

    def evaluate(*more):
        return main([*map(str, [*given, *more])])

    assert evaluate("--json", tmp_path / "one.json") == 0
    for number in range(1, 4):
        assert evaluate("--json", tmp_path / f"{number}.json", "--shard", f"{number}/3") == 0
    files = [str(tmp_path / f"{number}.json") for number in range(1, 4)]
    assert main(["evaluate", "merge", *files, "--json", str(tmp_path / "merged.json")]) == 0
    assert (tmp_path / "merged.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert evaluate("--json", tmp_path / "blocks.json", "--block", 3, "--out", tmp_path / "records") == 0
    assert (tmp_path / "blocks.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    damaged = json.loads(Path(files[0]).read_text())
    damaged["shard_counts"]["names"] = "others"
    Path(files[0]).write_text(json.dumps(damaged))
    capsys.readouterr()
    code = main(["merge", *files])
    one_line_error(code, "do not belong together", "listed differently")


def test_names_and_instances_of_cityscapes(data_root, tmp_path, command):
    """iIoU, too, is the same from the split and from Cityscapes' own folder, whose names have endings."""
    for path in (data_root / "demo/val/label").iterdir():
        key = path.stem.removesuffix("_leftImg8bit")
        (tmp_path / "pred").mkdir(exist_ok=True)
        (tmp_path / "raw/city").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"pred/{key}_pred.png").write_bytes(path.read_bytes())
        for name in ("labelIds", "color"):
            (tmp_path / f"raw/city/{key}_gtFine_{name}.png").write_bytes(path.read_bytes())
    for path in (data_root / "demo/val/instance").iterdir():
        (tmp_path / "raw/city" / path.name).write_bytes(path.read_bytes())
    given = ["evaluate", "--pred", "pred", "--dataset", "demo", "--distances", "none", "--json"]
    for number, place in enumerate((["--gt", "raw"], ["--data-root", data_root])):
        assert command(*given, f"plain{number}.json", *place) == 0
        assert command(*given, f"blocks{number}.json", *place, "--block", 1) == 0
        assert (tmp_path / f"plain{number}.json").read_bytes() == (tmp_path / f"blocks{number}.json").read_bytes()
    assert json.loads((tmp_path / "plain0.json").read_text())["pred"]["summary"]["iIoU"] == 1
    next((tmp_path / "raw/city").glob("*instanceIds.png")).unlink()
    assert command(*given, "x.json", "--gt", "raw", "--block", 1) == 2


def test_broken_and_missing_inputs_are_records_and_are_tried_again(maps, tmp_path, capsys, one_line_error):
    for name in ("label", "offset"):
        for path in (maps / name / "a").glob("*.png"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    names = sorted(path.name for path in (tmp_path / "label").iterdir())
    broken, alone = tmp_path / "label" / names[0], tmp_path / "offset" / names[1]
    whole, offset = broken.read_bytes(), alone.read_bytes()
    broken.write_bytes(whole[:50])
    alone.unlink()
    result = refined(tmp_path / "label", tmp_path / "offset", tmp_path / "out")
    assert (result.summary["done"], result.summary["failed"]) == (COUNT // 2 - 2, 2)
    wrong = [each for each in records(result) if each["status"] == "failed"]
    assert [each["id"] for each in wrong] == [name.removesuffix(".png") for name in names[:2]]
    assert "truncated" in wrong[0]["error"] and "has no offset" in wrong[1]["error"]
    capsys.readouterr()
    limits = ["--max-errors", "1", "--block", "1", "--dataset", "camvid"]
    where = ["--input", tmp_path / "label", "--offset", tmp_path / "offset", "--out", tmp_path / "other"]
    code = segfix([*map(str, where), *limits])
    one_line_error(code, "stopped after 2 broken inputs", "--max-errors 1")
    broken.write_bytes(whole)
    alone.write_bytes(offset)
    result = refined(tmp_path / "label", tmp_path / "offset", tmp_path / "out")
    assert (result.summary["done"], result.summary["failed"]) == (COUNT // 2, 0)
    assert contents(tmp_path / "out") == {name.name: name.read_bytes() for name in (maps / "local/a").iterdir()}
    with pytest.raises(openseg.DataError, match="other settings"):
        refined(tmp_path / "label", tmp_path / "offset", tmp_path / "out", keep_thin=2)


def test_settings_of_results_never_mix(maps, tmp_path):
    """Not with --overwrite of one shard, and not in an empty one."""
    first, second = (scale.Scale(shard=f"{number}/2") for number in (1, 2))
    for shard in (first, second):
        refined(maps / "label", maps / "offset", tmp_path / "out", scale=shard, keep_thin=3)
    again = refined(maps / "label", maps / "offset", tmp_path / "out", scale=first, overwrite=True)
    assert (again.summary["skipped"], again.summary["done"]) == (0, again.summary["in_shard"])
    other = refined(maps / "label", maps / "offset", tmp_path / "out", scale=second)
    assert other.summary["skipped"] == 0 and contents(tmp_path / "out") == contents(maps / "local")
    (tmp_path / "one").mkdir()
    (tmp_path / "one/a.b.png").write_bytes((maps / "label/a/f000.png").read_bytes())
    (tmp_path / "offset").mkdir()
    (tmp_path / "offset/a.b.png").write_bytes((maps / "offset/a/f000.png").read_bytes())
    done = [
        refined(tmp_path / "one", tmp_path / "offset", tmp_path / "two", scale=shard).summary["done"]
        for shard in (first, second)
    ]
    assert sorted(done) == [0, 1]
    assert scale.merge(sorted((tmp_path / "two").glob("summary*")))[0]["done"] == 1
    with pytest.raises(openseg.DataError, match="end at the first dot"):
        refined(tmp_path / "one", tmp_path / "offset", tmp_path / "tar", scale=scale.Scale(format="tar"))


def test_what_is_gone_or_was_cut_off_leaves_nothing(maps, tmp_path):
    """Not a line of the manifest, not a shard without its record, not a suffix that is part of a name."""
    names = ["photo.png", "photo.jpg.png", *(f"f{number}.png" for number in range(6))]
    for kind in ("label", "offset"):
        (tmp_path / kind).mkdir()
        for number, name in enumerate(names):
            (tmp_path / kind / name).write_bytes((maps / kind / f"a/f{2 * number:03d}.png").read_bytes())
    how = scale.Scale(format="parquet", block=2)
    places = tmp_path / "label", tmp_path / "offset", tmp_path / "out"
    assert refined(*places, scale=how).summary["done"] == len(names)
    assert refined(*places, scale=how).summary["skipped"] == len(names)
    sorted((tmp_path / "out/parts").iterdir())[0].unlink()  # killed between the two files
    (tmp_path / "label/f3.png").unlink()
    again = refined(*places, scale=how)
    assert (again.summary["done"], again.summary["missing"]) == (len(names) - 1, 0)
    ids = [found.name for found in Source(tmp_path / "out/*.parquet", "label")]
    assert sorted(ids) == sorted(each["id"] for each in records(again)) and len(ids) == len(names) - 1
    (tmp_path / "list.txt").write_text("f1\n")
    with pytest.raises(openseg.DataError, match="other settings"):
        refined(*places, scale=scale.Scale(format="parquet", listed=tmp_path / "list.txt"))
    one = refined(tmp_path / "label/f1.png", tmp_path / "offset/f1.png", tmp_path / "one")
    assert (one.summary["done"], one.summary["failed"]) == (1, 0)


def test_a_tar_file_that_ends_early_is_never_taken_for_a_smaller_one(maps, tmp_path):
    make_tar(tmp_path / "in.tar", (maps / "label", "label.png"), (maps / "offset", "offset.png"))
    whole, names = (tmp_path / "in.tar").read_bytes(), [*Source(tmp_path / "in.tar", "label")]
    assert len(names) == COUNT
    with tarfile.open(tmp_path / "in.tar") as archive:
        middle = archive.getmembers()[COUNT].offset
    for place in (middle, middle + 200, middle + 700):
        (tmp_path / "in.tar").write_bytes(whole[:place])
        with pytest.raises(openseg.DataError, match=r"in\.tar: (ends early|no readable)"):
            [*Source(tmp_path / "in.tar", "label")]
    damaged = bytearray(whole)
    damaged[middle + 150] ^= 1  # its header's checksum
    (tmp_path / "in.tar").write_bytes(damaged)
    with pytest.raises(openseg.DataError, match="ends early or is damaged"):
        [*Source(tmp_path / "in.tar", "label")]
    make_tar(tmp_path / "in.tar", (maps / "label", "other.png"))
    result = refined(tmp_path / "in.tar", maps / "offset", tmp_path / "out", scale=scale.Scale(columns="label=no.png"))
    assert result.summary["failed"] == COUNT and "has only other.png" in result.left_out[0]


def test_a_list_of_names(maps, tmp_path, one_line_error):
    (tmp_path / "list.txt").write_text("a/f000.png\nb/f003\n")
    how = scale.Scale(listed=tmp_path / "list.txt")
    assert [each["id"] for each in records(refined(maps / "label", maps / "offset", tmp_path / "out", scale=how))] == [
        "a/f000",
        "b/f003",
    ]
    (tmp_path / "list.txt").write_text("a/f000\nnothing\n")
    with pytest.raises(openseg.DataError, match="such as nothing"):
        refined(maps / "label", maps / "offset", tmp_path / "other", scale=how)


def make_tar(path, *folders):
    """A WebDataset shard with the files of several folders under names by folder."""
    with tarfile.open(path, "w") as archive:
        for file in sorted(folders[0][0].rglob("*.png")):
            name = file.relative_to(folders[0][0]).with_suffix("").as_posix()
            for folder, suffix in folders:
                content = (folder / f"{name}.png").read_bytes()
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def make_parquet(path, **folders):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    first, *_ = folders.values()
    names = [file.relative_to(first).with_suffix("").as_posix() for file in sorted(first.rglob("*.png"))]
    columns = {role: [(folder / f"{name}.png").read_bytes() for name in names] for role, folder in folders.items()}
    parquet.write_table(pyarrow.table({"id": names, **columns}), path, row_group_size=7)


def test_shards_in_and_out(maps, tmp_path):
    """Tar to Parquet, Parquet to tar, and both are scored like the folder."""
    make_tar(tmp_path / "in.tar", (maps / "label", "label.png"), (maps / "offset", "offset.png"))
    make_parquet(tmp_path / "in.parquet", label=maps / "label", offset=maps / "offset")
    there = tmp_path / "in.tar", tmp_path / "in.parquet"
    tables = refined(there[0], there[0], tmp_path / "tables", scale=scale.Scale(format="parquet", block=9))
    tars = refined(there[1], there[1], tmp_path / "tars", scale=scale.Scale(format="tar", block=9))
    assert records(tables) == records(tars) == records(refined(maps / "label", maps / "offset", tmp_path / "files"))
    files = sorted((tmp_path / "tables").glob("*.parquet"))
    assert len(files) == 5
    wanted = openseg.evaluate(maps / "local", dataset="camvid", ground_truth=maps / "truth").scores[str(maps / "local")]
    for folder, kind in (("tables", "parquet"), ("tars", "tar")):
        given = tmp_path / folder / f"*.{kind}"
        found = scale.evaluate(given, dataset="camvid", ground_truth=maps / "truth")
        assert found.scores.as_dict() == wanted.as_dict()


def test_storage(maps, tmp_path, capsys, one_line_error):
    """From a zip archive into storage, and what is wrong with an address."""
    import shutil

    fsspec = pytest.importorskip("fsspec")
    shutil.make_archive(str(tmp_path / "labels"), "zip", maps / "label")
    result = refined(tmp_path / "labels.zip", maps / "offset", "memory://scale/out")
    there = fsspec.filesystem("memory")
    found = {name: there.cat(f"/scale/out/{name}") for name in contents(maps / "local")}
    assert found == contents(maps / "local")
    assert len(records(result)) == COUNT
    again = refined("memory://scale/out", maps / "offset", "memory://scale/again")
    assert again.summary["done"] == COUNT  # its records are no labels
    for address, words in (
        ("nothing://x", ("nothing://x", "unknown kind of address")),
        (str(tmp_path / "no.zip"), ("no.zip",)),
        (str(tmp_path / "no.tar"), ("no such file",)),
        ("memory://scale/nowhere", ("memory://scale/nowhere", "no such")),
    ):
        arguments = ["--input", address, "--offset", str(maps / "offset"), "--out", "memory://x/y"]
        one_line_error(segfix(arguments), *words)
    (tmp_path / "bad.tar").write_bytes(b"no tar")
    code = segfix(["--input", str(tmp_path / "bad.tar"), "--offset", str(maps / "offset"), "--out", "memory://x"])
    one_line_error(code, "bad.tar", "no readable tar file")
    code = segfix(["--input", str(maps / "label"), "--offset", str(maps / "offset"), "--out", "zip://x::y.zip"])
    one_line_error(code, "takes no results")


def test_predictions_are_those_of_the_local_command(data_root, tmp_path, monkeypatch):
    demo = "configs/demo/hrnet_tiny_ocr.yaml", {"checkpoint": "configs/demo/hrnet_tiny_ocr.safetensors"}
    images = data_root / "demo/val/image"
    kinds = {"also": ("vis", "overlay"), "device": "cpu"}
    openseg.predict(images, demo[0], **demo[1], **kinds, out=tmp_path / "local")
    result = scale.predict(images, demo[0], **demo[1], **kinds, out=tmp_path / "out")
    for kind in ("label", "vis", "overlay"):
        local = {path.name: path.read_bytes() for path in (tmp_path / "local" / kind).rglob("*.*")}
        assert local == {path.name: path.read_bytes() for path in (tmp_path / "out" / kind).rglob("*.*")}
    assert result.summary["done"] == 2 == len(local)
    by_images = scale.refine(tmp_path / "out/label", images=images, dataset="demo", out=tmp_path / "refined")
    openseg.refine(tmp_path / "out/label", images=images, dataset="demo", split="test", out=tmp_path / "refined_local")
    assert contents(tmp_path / "refined") == contents(tmp_path / "refined_local")
    assert records(by_images)[0]["changed"] > 0


names_of = st.lists(st.sampled_from([f"{d}{n}.png" for d in ("", "x/", "y/") for n in "abc"]), unique=True, max_size=6)


@settings(max_examples=60, deadline=None)
@given(names_of, names_of)
def test_names_are_matched_as_everywhere(labels, others):
    matches, _ = match_files(labels, others)
    with Index(["label", "offset"]) as index:
        index.add(0, (Found(name, name) for name in labels))
        index.add(1, (Found(name, name) for name in others))
        found = {item.parts[0].name: item.parts[1] for item in index.items()}
    assert {name: other.name for name, other in found.items() if other} == matches


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e12, 1e12), max_size=20), st.randoms())
def test_sums_do_not_depend_on_the_order(values, random):
    def total(numbers):
        parts = ExactSums((1,)), ExactSums((1,))
        for place, number in enumerate(numbers):
            parts[place % 2].add(np.array([number]))
        parts[0].add_counts(json.loads(json.dumps(parts[1].counts())))
        return parts[0].values[0]

    shuffled = random.sample(values, len(values))
    assert total(values) == total(shuffled) == float(sum(map(Fraction, values)))


@pytest.mark.parametrize(
    ("missing", "options", "words"),
    [
        ("ray", ("--engine", "ray"), "pip install 'openseg[ray]'"),
        ("pyarrow", ("--input", "x.parquet"), "pip install 'openseg[remote]'"),
        ("s3fs", ("--input", "s3://bucket/x"), "pip install 'openseg[remote]'"),
    ],
)
def test_without_an_extra_one_line_says_what_to_install(
    missing, options, words, maps, tmp_path, monkeypatch, one_line_error
):
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    (tmp_path / "x.parquet").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    fixed = ["--input", maps / "label", "--offset", maps / "offset", "--out", tmp_path / "out"]
    one_line_error(segfix([*map(str, fixed), *options]), words)


class Faulty:
    """A WSGI application that fails some requests and lets others wait."""

    def __init__(self, application):
        self.application, self.requests, self.active = application, 0, False

    def __call__(self, environment, start_response):
        self.requests += self.active
        if self.active and self.requests % 20 == 0:
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"on purpose"]
        if self.active and self.requests % 37 == 0:
            time.sleep(3)
        return self.application(environment, start_response)


@pytest.fixture
def bucket(monkeypatch):
    """An S3 server on this machine, its file system, and what makes it fail."""
    server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    from werkzeug.serving import make_server

    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    faults = Faulty(server.DomainDispatcherApplication(server.create_backend_app))
    service = make_server("127.0.0.1", 0, faults, threaded=True)
    thread = threading.Thread(target=service.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{service.server_port}")
    times = storage._OPTIONS["s3"]["config_kwargs"]
    monkeypatch.setitem(storage._OPTIONS["s3"], "config_kwargs", {**times, "read_timeout": 1})
    monkeypatch.setattr(storage, "_FIRST_PAUSE", 0.05)
    files, _ = storage.Place("s3://bucket").storage
    files.mkdir("bucket")
    yield files, faults
    service.shutdown()
    thread.join()


def test_a_bucket_whose_server_fails_and_stalls(bucket, maps, data_root, tmp_path):
    files, faults = bucket
    for kind in ("label", "offset"):
        files.put(str(maps / kind), f"bucket/{kind}", recursive=True)
    files.put(str(data_root / "demo/val/image"), "bucket/image", recursive=True)
    faults.active = True
    result = refined("s3://bucket/label", "s3://bucket/offset", "s3://bucket/out", workers=1)
    assert faults.requests > 100
    assert (result.summary["done"], result.summary["failed"]) == (COUNT, 0)
    assert [each["id"] for each in records(result)] == [each.removesuffix(".png") for each in contents(maps / "local")]
    demo = {"checkpoint": "configs/demo/hrnet_tiny_ocr.safetensors", "device": "cpu"}
    scale.predict("s3://bucket/image", "configs/demo/hrnet_tiny_ocr.yaml", **demo, out="s3://bucket/predicted")
    faults.active = False
    found = files.find("bucket/out")
    assert {name.removeprefix("bucket/out/"): files.cat(name) for name in found if name.endswith(".png")} == contents(
        maps / "local"
    )
    images = data_root / "demo/val/image"
    scale.predict(images, "configs/demo/hrnet_tiny_ocr.yaml", **demo, out=tmp_path / "predicted")
    local = {path.name: path.read_bytes() for path in (tmp_path / "predicted/label").iterdir()}
    assert local == {Path(name).name: files.cat(name) for name in files.find("bucket/predicted/label")}


@pytest.fixture(scope="module")
def ray():
    """A cluster of two CPUs in processes of this machine."""
    module = pytest.importorskip("ray")
    module.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield module
    module.shutdown()


RAY = scale.Scale(engine="ray", block=5)


@pytest.mark.slow
def test_ray_gives_the_same(ray, maps, data_root, tmp_path):
    result = refined(maps / "label", maps / "offset", tmp_path / "out", scale=RAY)
    assert contents(tmp_path / "out") == contents(maps / "local")
    assert sum(result.summary["by_worker"].values()) == COUNT
    given = ["evaluate", "--pred", maps / "label", "--gt", maps / "truth", "--dataset", "camvid", "--json"]
    assert main([*map(str, [*given, tmp_path / "one.json"])]) == 0
    assert main([*map(str, [*given, tmp_path / "ray.json", "--engine", "ray"])]) == 0
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "ray.json").read_bytes()
    images, demo = data_root / "demo/val/image", ("configs/demo/hrnet_tiny_ocr.yaml",)
    weights = {"checkpoint": "configs/demo/hrnet_tiny_ocr.safetensors", "device": "cpu"}
    scale.predict(images, *demo, **weights, out=tmp_path / "ray", scale=RAY)
    scale.predict(images, *demo, **weights, out=tmp_path / "here")
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
    with pytest.raises(openseg.ConfigError, match="room for 2 workers"):
        refined(maps / "label", maps / "offset", tmp_path / "x", scale=scale.Scale(engine="ray", num_workers=3))
    with pytest.raises(openseg.ConfigError, match="memory://"):
        refined(maps / "label", maps / "offset", "memory://x", scale=RAY)
    predicted = {path.stem: path.read_bytes() for path in (tmp_path / "here/label").iterdir()}
    rows = [{"id": path.stem, "image": path.read_bytes()} for path in sorted(images.iterdir())]
    rows.append({"id": "broken", "image": b"no image"})
    found = scale.predict(ray.data.from_items(rows), *demo, **weights).take_all()
    assert {row["id"]: row["label"] for row in found if row["error"] is None} == predicted
    assert [row["id"] for row in found if row["error"]] == ["broken"]
    with pytest.raises(openseg.ConfigError, match="no column image"):
        scale.predict(ray.data.from_items([{"id": "a"}]), *demo, **weights)


class Deadly(Refine):
    """Ends its process at one label map."""

    def prepare(self, blobs):
        if blobs[0].name.endswith("f007.png"):
            os._exit(1)
        return super().prepare(blobs)


@pytest.mark.slow
def test_an_input_that_kills_its_worker_is_recorded(ray, maps, tmp_path):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    sources = [Source(maps / "label", "label"), Source(maps / "offset", "offset")]
    unit = Deadly(RefineSettings("camvid", 1))
    result = scale_run.run(scale_run.Task(unit, sources, storage.Place(str(tmp_path / "out")), RAY, 2))
    assert (result.summary["done"], result.summary["failed"]) == (COUNT - 1, 1)
    assert [each["error"] for each in records(result) if each["status"] == "failed"] == [
        "b/f007.png: its worker died 4 times, perhaps out of memory"
    ]


@pytest.mark.slow
def test_workers_and_drivers_that_are_killed(run):
    """As the benchmark does it with 20,000 label maps."""
    pytest.importorskip("ray")
    result = run("benchmarks/scale.py", "--maps", 1200, "--kill")
    found = re.fullmatch(
        r"killed (\d) workers and (\d) drivers, (\d+) runs; 1200 ids, 1200 different; same as local: True\n",
        result.stdout,
    )
    assert found and int(found[1]) + int(found[2]) > 1, result.stdout + result.stderr


SPLITS = {
    "tar": lambda image, label, to: make_tar(to, (image, "image.png"), (label, "label.png")),
    "parquet": lambda image, label, to: make_parquet(to, image=image, label=label),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPLITS)
def test_training_from_shards_is_training_from_the_folder(kind, data_root, overrides, command, tmp_path, monkeypatch):
    """The same weights to the last bit, also after a stop at any update."""
    facts = yaml.safe_load((ROOT / "lib/openseg/datasets/definitions/demo.yaml").read_text())
    for split in ("train", "val"):
        folder = data_root / "demo" / split
        SPLITS[kind](folder / "image", folder / "label", tmp_path / f"{split}.{kind}")
    plain = {"name": "plain", "folder": str(data_root / "demo"), **facts}
    shards = {"name": "shards", **facts, "splits": {each: {"shards": f"{each}*.{kind}"} for each in ("train", "val")}}
    for content in (plain, shards):
        (tmp_path / f"{content['name']}.yaml").write_text(yaml.safe_dump(content))
    options = ["--config", ROOT / "configs/demo/hrnet_tiny_ocr.yaml", *overrides, "data.workers=1", "name=net"]
    assert command("check", *options[:2], f"data.dataset={tmp_path / 'shards.yaml'}") in (0, 1)
    assert command("train", *options, f"data.dataset={tmp_path / 'plain.yaml'}", "--checkpoints", "whole") == 0
    update, calls = Step.__call__, []

    def dies_in_the_fourth_update(*values):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return update(*values)

    options = [*options, f"data.dataset={tmp_path / 'shards.yaml'}", "--checkpoints", "parts"]
    monkeypatch.setattr(Step, "__call__", dies_in_the_fourth_update)
    assert command("train", *options) == 130
    monkeypatch.setattr(Step, "__call__", update)
    assert command("resume", *options) == 0
    one, other = (read_checkpoint(*tmp_path.glob(f"{each}/*/net_latest.pth")) for each in ("whole", "parts"))
    assert one.content["iteration"] == other.content["iteration"] == 4
    assert all(torch.equal(one.weights[key], other.weights[key]) for key in one.weights)
    assert one.content["scores"] == other.content["scores"]
    results = [*options[:-2], "--checkpoint", next(tmp_path.glob("parts/*/net_latest.pth")), "--out", "results"]
    assert command("val", *results) == 0
    assert len(contents(tmp_path / "results/label")) == 2
