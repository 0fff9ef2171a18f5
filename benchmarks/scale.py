"""Refinement of many label maps: Ray against processes of this machine, and what survives kill -9.

    python benchmarks/scale.py --maps 20000                # both engines, from files and from Parquet
    python benchmarks/scale.py --maps 20000 --kill         # workers killed 5 times, the driver twice
    python benchmarks/scale.py --images 500                # prediction and scores by both engines
    python benchmarks/scale.py --names 10000000            # listing and matching alone, with its memory

Run it alone. Times are of whole commands, with everything that starts them.
"""

import argparse
import filecmp
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "lib"))

from openseg.io.images import write_label
from openseg.io.sources import Found
from openseg.scale.index import Index
from openseg.segfix.offset_files import write_offsets
from openseg_demo.scenes import write_scene

SIZE = 360, 480
DIFFERENT = 200


def make(folder, count):
    """``count`` names of label maps and offsets; one file has many names, as reading it costs the same."""
    rng = np.random.default_rng(0)
    for number in range(min(count, DIFFERENT)):
        labels = np.kron(rng.integers(0, 11, (SIZE[0] // 30, SIZE[1] // 30)), np.ones((30, 30), np.uint8))
        labels = np.roll(labels.astype(np.uint8), rng.integers(0, 30, 2), (0, 1))
        offsets = np.kron(rng.integers(-1, 2, (SIZE[0] // 10, SIZE[1] // 10, 2)), np.ones((10, 10, 1), np.int8))
        write_label(folder / f"base/label/{number}.png", labels)
        write_offsets(folder / f"base/offset/{number}.png", offsets.astype(np.int8))
    for number in range(count):
        for kind in ("label", "offset"):
            name = folder / kind / f"{number % 100:02d}" / f"m{number:07d}.png"
            name.parent.mkdir(parents=True, exist_ok=True)
            os.link(folder / f"base/{kind}/{number % DIFFERENT}.png", name)


def make_parquet(folder, count):
    import pyarrow
    import pyarrow.parquet

    names = [f"{number % 100:02d}/m{number:07d}" for number in range(count)]
    for first in range(0, count, 2000):
        some = names[first : first + 2000]
        columns = {
            kind: [(folder / kind / f"{name}.png").read_bytes() for name in some] for kind in ("label", "offset")
        }
        table = pyarrow.table({"id": some, **columns})
        (folder / "tables").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(table, folder / f"tables/{first:08d}.parquet", row_group_size=250)


def command(label, offset, out, engine, block=128):
    fixed = ["--dataset", "camvid", "--scale", 1, "--split", "test", "--block", block, "--engine", engine]
    return [sys.executable, "segfix.py", *map(str, ["--input", label, "--offset", offset, "--out", out, *fixed])]


def start(words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def timed(words):
    begin = time.perf_counter()
    process = start(words)
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(errors.decode())
    return time.perf_counter() - begin


def same(one, other):
    """Whether two folders of results hold the same bytes and the same manifest."""
    names = [path.relative_to(one) for path in one.rglob("*.png")]
    differing = [name for name in names if not filecmp.cmp(one / name, other / name, shallow=False)]
    count = sum(1 for _ in other.rglob("*.png"))
    manifests = (one / "manifest.jsonl").read_bytes() == (other / "manifest.jsonl").read_bytes()
    return len(names) == count and not differing and manifests


def compare(folder, count, repeats):
    sources = {
        "files": (folder / "label", folder / "offset"),
        "parquet": (folder / "tables/*.parquet", folder / "tables/*.parquet"),
    }
    for name, (label, offset) in sources.items():
        times = {"local": [], "ray": []}
        for _ in range(repeats):
            for engine in times:
                out = folder / f"out_{name}_{engine}"
                shutil.rmtree(out, ignore_errors=True)
                # The local engine asked for by a block size: the same path as Ray's.
                times[engine].append(timed(command(label, offset, out, engine)))
        local, ray = (statistics.median(times[engine]) for engine in ("local", "ray"))
        equal = same(folder / f"out_{name}_local", folder / f"out_{name}_ray")
        equal &= same(folder / "out_files_local", folder / f"out_{name}_ray")
        print(
            f"{name}: local {local:.1f} s ({count / local:.0f}/s), ray {ray:.1f} s, ratio {ray / local:.2f}; "
            f"same: {equal}"
        )


def actors():
    """Processes of Ray's actors."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if place.joinpath("cmdline").read_bytes().startswith(b"ray::Actor"):
                found.append(int(place.name))
        except OSError:
            continue
    return found


def kill(folder, seed=0):
    """Five workers and two drivers die at random moments; afterwards everything is there once."""
    rng = random.Random(seed)
    out = folder / "out_killed"
    shutil.rmtree(out, ignore_errors=True)
    words = command(folder / "label", folder / "offset", out, "ray", block=16)
    parts = out / "parts"
    workers, drivers, runs = 5, 2, 0
    while True:
        process, runs = start(words), runs + 1
        begun = sum(1 for _ in parts.glob("*.json")) if parts.is_dir() else 0
        while process.poll() is None:
            time.sleep(rng.uniform(0.1, 1.0))
            now = sum(1 for _ in parts.glob("*.json")) if parts.is_dir() else 0
            if now <= begun:  # nothing to lose yet
                continue
            if drivers and workers <= 1 + drivers:  # between the workers
                process.kill()
                drivers -= 1
                time.sleep(2)
            elif workers and (victims := actors()):
                os.kill(rng.choice(victims), signal.SIGKILL)
                workers -= 1
                begun = now
        process.wait()
        if process.returncode == 0:
            break
    ids = [json.loads(line)["id"] for line in (out / "manifest.jsonl").open()]
    print(
        f"killed {5 - workers} workers and {2 - drivers} drivers, {runs} runs; {len(ids)} ids, {len(set(ids))} "
        f"different; same as local: {same(folder / 'out_files_local', out)}"
    )


def predict(folder, count):
    """Prediction and scores of rendered streets by both engines."""
    for number in range(count):
        if number < DIFFERENT // 10:
            write_scene((folder / "base", number), (128, 256), seed=7)
            continue
        for kind in ("image", "label"):
            source = sorted((folder / "base" / kind).glob("demo_*.png"))[number % (DIFFERENT // 10)]
            source.with_name(f"more_{number:05d}.png").hardlink_to(source)
    weights = [
        "--config",
        "configs/demo/hrnet_tiny_ocr.yaml",
        "--checkpoint",
        "configs/demo/hrnet_tiny_ocr.safetensors",
    ]
    times, main = {}, [sys.executable, "main.py"]
    for engine in ("local", "ray"):
        out, block = folder / engine, ["--engine", engine, "--block", "16"]
        words = ["predict", str(folder / "base/image"), *weights, "--also", "none", "--out", str(out)]
        times["predict", engine] = timed([*main, *words, *block])
        words = ["evaluate", "--pred", str(out / "label"), "--gt", str(folder / "base/label"), "--dataset", "demo"]
        # The names of the predictions stand in the file, so both score the same folder.
        words[2] = str(folder / "local/label")
        times["evaluate", engine] = timed([*main, *words, *block, "--json", str(folder / f"{engine}.json")])
    plain = [*main, *words, "--json", str(folder / "plain.json")]
    times["evaluate", "plain"] = timed(plain)
    scores = len({(folder / f"{each}.json").read_bytes() for each in ("local", "ray", "plain")}) == 1
    shown = ", ".join(f"{what} {engine} {seconds:.1f} s" for (what, engine), seconds in times.items())
    print(f"{count} images: {shown}; same labels: {same(folder / 'local', folder / 'ray')}; same scores: {scores}")


def names(count):
    """Listing, matching and dealing out of names that no disk holds."""

    def found(suffix):
        for number in range(count):
            name = f"{number % 1000:03d}/frame_{(number * 7919) % count:09d}{suffix}"
            yield Found(name, name)

    begin = time.perf_counter()
    with Index(["label", "image"]) as index:
        index.add(0, found(".png"))
        index.add(1, found(".jpg"))
        listed = time.perf_counter() - begin
        total, mine, _ = index.count((0, 100))
        matched = sum(item.parts[1] is not None for item in index.items())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    seconds = time.perf_counter() - begin
    print(f"{total} names, {matched} matched, {mine} in shard 1/100: listed in {listed:.0f} s, all {seconds:.0f} s, "
          f"peak memory of the process {memory:.0f} MB")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=20000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--names", type=int)
    parser.add_argument("--images", type=int)
    arguments = parser.parse_args()
    if arguments.names:
        names(arguments.names)
        return
    with tempfile.TemporaryDirectory(prefix="openseg-bench-") as place:
        folder = Path(place)
        if arguments.images:
            predict(folder, arguments.images)
            return
        make(folder, arguments.maps)
        if arguments.kill:
            timed(command(folder / "label", folder / "offset", folder / "out_files_local", "local"))
            kill(folder)
        else:
            make_parquet(folder, arguments.maps)
            compare(folder, arguments.maps, arguments.repeats)


if __name__ == "__main__":
    main()
