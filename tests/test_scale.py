"""Large sources: storage, shards and clusters give what a folder on one machine gives, once for each input."""

import json
import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from scale_recipe import COUNT, contents, make_parquet, make_tar, records, refined

import openseg
from openseg import scale
from openseg.cli.main import main
from openseg.cli.segfix import main as segfix
from openseg.io.matching import match_files
from openseg.io.sources import Found, Source
from openseg.metrics.exact import ExactSums
from openseg.scale.index import Index


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
def test_without_an_extra_one_line_says_what_to_install(missing, options, words, maps, tmp_path, run):
    """As a program: fsspec keeps the storages that other tests have used."""
    (tmp_path / "x.parquet").write_bytes(b"")
    code = f"import sys; sys.modules[{missing!r}] = None\nfrom openseg.cli.segfix import main\nsys.exit(main())"
    fixed = ["--input", maps / "label", "--offset", maps / "offset", "--out", tmp_path / "out"]
    result = run("-c", code, *fixed, *options, cwd=tmp_path, env={"PYTHONPATH": str(ROOT / "lib")})
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert words in result.stderr
