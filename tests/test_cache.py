"""The cache of decoded samples changes nothing but the time."""

import multiprocessing
import os

import numpy as np
import pytest
import torch
from conftest import ROOT

from openseg.cli.main import main
from openseg.config import load_config
from openseg.datasets.cache import DecodedCache
from openseg.datasets.loaders import TrainSet, ValSet
from openseg.datasets.samples import list_split
from openseg.errors import DataError
from openseg.io.images import write_image


def config_of(data_root, overrides, *more):
    return load_config(ROOT / "configs/demo/segfix_hrnet_tiny.yaml", [*overrides, f"data.root={data_root}", *more])


def test_samples_from_the_cache_are_the_same(data_root, overrides, tmp_path):
    cached = ["data.cache_gb=1", f"data.cache_dir={tmp_path}"]
    plain, kept = config_of(data_root, overrides), config_of(data_root, overrides, *cached)
    for kind in (TrainSet, ValSet):
        without, first, second = (kind(each, list_split(each, "train")) for each in (plain, kept, kept))
        for index in range(8 if kind is TrainSet else 4):
            expected = without[index]
            for dataset in (first, second):  # made, then read
                item = dataset[index]
                for key in expected:
                    assert np.array_equal(item[key], expected[key]), key
    assert len(list(tmp_path.glob("*/*.npy"))) == 12  # image, label and targets of four samples


def test_a_crop_reads_from_a_memory_map(data_root, overrides, tmp_path):
    config = config_of(data_root, overrides, "data.cache_gb=1", f"data.cache_dir={tmp_path}")
    dataset = TrainSet(config, list_split(config, "train"))
    path = dataset.pairs[0].image
    dataset.samples.image(path)
    again = dataset.samples.image(path)
    assert isinstance(again, np.memmap) and not again.flags.writeable


def test_a_changed_source_is_decoded_again(tmp_path):
    cache, path = DecodedCache(tmp_path / "cache", 10**9), tmp_path / "a.png"
    calls = []

    def make(value):
        calls.append(value)
        return np.full((2, 2), value, np.uint8)

    write_image(path, np.zeros((8, 8, 3), np.uint8))
    assert [cache.get(path, "x", lambda: make(1))[0, 0] for _ in range(2)] == [1, 1] and calls == [1]
    assert cache.get(path, "y", lambda: make(2))[0, 0] == 2  # something else made of it
    os.utime(path, ns=(1, 1))
    assert cache.get(path, "x", lambda: make(3))[0, 0] == 3
    assert len(list(cache.folder.glob("??/*.npy"))) == 2  # what is out of date is gone
    assert cache.recount() == cache.measure()
    for kept in cache.folder.glob("??/*.npy"):
        kept.write_bytes(kept.read_bytes()[:20])  # damaged
    assert [int(cache.get(path, kind, lambda: make(4))[0, 0]) for kind in "xy"] == [4, 4]
    whole = [np.load(kept)[0, 0] for kept in cache.folder.glob("??/*.npy")]  # written anew
    assert whole == [4, 4] and calls == [1, 2, 3, 4, 4]
    path.unlink()
    with pytest.raises(DataError, match=r"a\.png"):
        cache.get(path, "x", lambda: make(5))


def fill(folder, paths, limit):
    cache = DecodedCache(folder, limit)
    for path in paths:
        assert cache.get(path, "x", lambda path=path: np.full(1000, int(path.stem), np.uint8))[0] == int(path.stem)


def test_the_limit_holds_with_several_processes(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for path in paths:
        path.write_bytes(b"x")
    limit = 20 * (1000 + 128)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fill, args=(tmp_path / "cache", paths, limit)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    cache = DecodedCache(tmp_path / "cache", limit)
    assert 19 * 1128 <= cache.measure() <= limit


def test_a_cache_that_cannot_grow_stops_nothing(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    cache, path = DecodedCache(tmp_path / "file/cache", 10**9), tmp_path / "a.png"
    path.write_bytes(b"x")
    with caplog.at_level("WARNING"):
        for _ in range(3):
            assert cache.get(path, "x", lambda: np.ones(4))[0] == 1
    assert len(caplog.records) == 1 and "nothing more is kept" in caplog.text


def test_the_command_fills_it_and_says_how_much(data_root, overrides, tmp_path, capsys, one_line_error):
    config = ["cache", "--config", str(ROOT / "configs/demo/hrnet_tiny_ocr.yaml"), *overrides]
    config += [f"data.root={data_root}", f"data.cache_dir={tmp_path / 'cache'}", "--workers", "2"]
    one_line_error(main(config), "--cache-gb")
    assert main([*config, "--cache-gb", "1"]) == 0
    assert "6 of 6 samples read" in capsys.readouterr().out
    assert len(list((tmp_path / "cache").glob("??/*.npy"))) == 12
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("??/*.npy")}
    assert main([*config, "--cache-gb", "1"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("??/*.npy")}


def test_training_with_it_is_bit_exact(data_root, overrides, tmp_path, command):
    config = ["--config", ROOT / "configs/demo/hrnet_tiny_ocr.yaml", *overrides, f"data.root={data_root}"]
    weights = []
    for name, more in (("without", []), ("with", ["data.cache_gb=1", f"data.cache_dir={tmp_path / 'cache'}"])):
        assert command("train", *config, f"name={name}", *more, "data.workers=1") == 0
        weights.append(torch.load(tmp_path / f"checkpoints/demo/{name}_latest.pth", weights_only=True)["weights"])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert list((tmp_path / "cache").glob("??/*.npy"))
