"""Label maps, offsets and shards for the tests of large sources."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from openseg import scale
from openseg.io import storage

COUNT = 40
HOW = {"dataset": "camvid", "scale": 1}


def refined(labels, offsets, out, **more):
    return scale.refine(labels, offsets=offsets, dataset="camvid", scale_pixels=1, out=out, **more)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(Path(folder).rglob("*.png"))}


def records(result):
    return [json.loads(line) for line in storage.Place(result.manifest).read().decode().splitlines()]


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
