"""Large sources with servers that fail, workers and drivers that are killed, and training from shards."""

import os
import re
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from scale_recipe import COUNT, contents, make_parquet, make_tar, records, refined

import openseg
from openseg import scale
from openseg.cli.main import main
from openseg.io import storage
from openseg.io.sources import Source
from openseg.models.checkpoint.io import read_checkpoint
from openseg.scale import run as scale_run
from openseg.scale.units import Refine
from openseg.tools.refining import RefineSettings
from openseg.training.step import Step


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
