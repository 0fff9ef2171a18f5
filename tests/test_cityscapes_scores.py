"""Scores equal those of the official cityscapesScripts on generated scenes."""

import json
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from openseg.datasets.registry import get_dataset_info
from openseg.metrics import InstanceScores, LabelScores, PredictedInstance

SIZE = (96, 160)
CATALOG = get_dataset_info("cityscapes")
SCENES = 24


@pytest.fixture(scope="module", autouse=True)
def numpy_name():
    """The official programs need a name that NumPy 2.4 dropped."""
    if hasattr(np, "in1d"):
        yield
        return
    np.in1d = lambda values, wanted, invert=False: np.isin(np.ravel(values), wanted, invert=invert)
    yield
    del np.in1d


def blob(rng, low, high):
    """A random ellipse, ``bool[H, W]``."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    cy, cx = rng.uniform(0, SIZE[0]), rng.uniform(0, SIZE[1])
    ry, rx = rng.uniform(low, high, 2)
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1


def scene(seed):
    """Ids, instance ids, predicted ids and predicted instances: ignored areas, groups, specks, or nothing at all."""
    rng = np.random.default_rng(seed)
    instances = np.full(SIZE, 23, np.uint16)
    if seed % 6 != 5:
        for _ in range(6):
            instances[blob(rng, 10, 60)] = rng.choice([*CATALOG.ids[:11], 0, 3, 4, 9, 15])
        for number in range(14):
            thing = int(rng.choice([24, 25, 26, 26, 27, 28, 29, 30, 31, 32, 33]))
            group = rng.random() < 0.25
            instances[blob(rng, 1, 4 if number % 3 == 0 else 22)] = thing if group else thing * 1000 + number
    ids = np.where(instances < 1000, instances, instances // 1000).astype(np.uint8)
    predicted = np.roll(ids, tuple(rng.integers(-3, 4, 2)), (0, 1))
    for _ in range(5):
        predicted[blob(rng, 2, 20)] = rng.choice([*CATALOG.ids, 29, 30, 0])
    if seed % 6 == 4:
        return ids, instances, predicted, []
    guesses = []
    for value in np.unique(instances):
        file_id = int(value if value < 1000 else value // 1000)
        if file_id < 24:
            continue
        for _ in range(rng.integers(0, 3)):
            mask = np.roll(instances == value, tuple(rng.integers(-2, 3, 2)), (0, 1))
            guesses.append((mask, file_id if rng.random() < 0.8 else 26, round(float(rng.random()), 1)))
    guesses += [(blob(rng, 1, 20), int(rng.choice([24, 26, 29, 7])), float(rng.random())) for _ in range(4)]
    guesses.append((np.zeros(SIZE, bool), 26, 0.9))
    # The official program stops where everything predicted of a class lies on ignored areas: some pixels that do not.
    wrong = np.isin(instances, CATALOG.ids[:11]) & (rng.random(SIZE) < 0.01)
    guesses += [(wrong, file_id, 0.05) for file_id in CATALOG.thing_ids]
    return ids, instances, predicted, [PredictedInstance(*guess) for guess in guesses]


@pytest.fixture(scope="module")
def scenes():
    return [scene(seed) for seed in range(SCENES)]


@pytest.fixture(scope="module")
def files(scenes, tmp_path_factory):
    """The scenes as files with the official names: truths, predictions, lists of masks."""
    folder = tmp_path_factory.mktemp("cityscapes")
    found = []
    for number, (ids, instances, predicted, guesses) in enumerate(scenes):
        stem = f"town_{number:06}_000019"
        Image.fromarray(ids).save(folder / f"{stem}_gtFine_labelIds.png")
        Image.fromarray(instances).save(folder / f"{stem}_gtFine_instanceIds.png")
        Image.fromarray(predicted).save(folder / f"{stem}_pred.png")
        lines = []
        for index, guess in enumerate(guesses):
            Image.fromarray(guess.mask.astype(np.uint8) * 255).save(folder / f"{stem}_{index}.png")
            lines.append(f"{stem}_{index}.png {guess.file_id} {guess.confidence}\n")
        (folder / f"{stem}_pred.txt").write_text("".join(lines))
        found.append(folder / stem)
    return found


def official_semantic(files):
    program = import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")

    program.args.quiet, program.args.JSONOutput = True, False
    return program.evaluateImgLists(
        [f"{stem}_pred.png" for stem in files], [f"{stem}_gtFine_labelIds.png" for stem in files], program.args
    )


def assert_same(mine, official):
    for name, value in mine.items():
        np.testing.assert_allclose(value, official[name], rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("part", [slice(0, SCENES), slice(0, 1), slice(5, 6), slice(3, 9)])
def test_class_and_category_iou_and_iiou_are_official(scenes, files, part):
    scores = LabelScores(CATALOG, ())
    for ids, instances, predicted, _ in scenes[part]:
        truth = CATALOG.encode(ids)
        prediction = CATALOG.encode_prediction(predicted)
        scores.update(prediction, truth)
        scores.official.update(predicted, prediction, truth, instances)
    official = official_semantic(files[part])
    mine = scores.as_dict()
    assert_same(mine["class_iou"], official["classScores"])
    assert_same(mine["category_iou"], official["categoryScores"])
    assert_same(mine["class_iiou"], official["classInstScores"])
    assert_same(mine["category_iiou"], official["categoryInstScores"])
    names = {"mIoU": "Classes", "iIoU": "InstClasses", "category IoU": "Categories", "category iIoU": "InstCategories"}
    assert_same(
        {name: mine["summary"][name] for name in names}, {k: official[f"averageScore{v}"] for k, v in names.items()}
    )


def official_instances(files, monkeypatch):
    program = import_module("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")

    monkeypatch.setattr(program, "writeDict2JSON", lambda *_: None)  # notes that NumPy's new integers cannot go into
    program.args.quiet, program.args.JSONOutput = True, False
    program.args.predictionPath = str(files[0].parent)
    program.args.gtInstancesFile = "nowhere"
    return program.evaluateImgLists(
        [f"{stem}_pred.txt" for stem in files], [f"{stem}_gtFine_instanceIds.png" for stem in files], program.args
    )


def test_evaluate_reads_the_official_layout(scenes, files, command, monkeypatch, tmp_path, one_line_error):
    """The command on folders as they are downloaded and as models write them, by two processes."""
    for folder, suffixes in (("gtFine", ("_labelIds.png", "_instanceIds.png")), ("pred", ("_pred.png",))):
        (tmp_path / folder / "town").mkdir(parents=True)
        for stem in files:
            for path in stem.parent.glob(f"{stem.name}*"):
                if path.name.endswith(suffixes):
                    (tmp_path / folder / "town" / path.name).symlink_to(path)
    shared = ["evaluate", "--dataset", "cityscapes", "--gt", "gtFine", "--workers", "2"]
    assert command(*shared, "--pred", "pred", "--json", "s.json", "--markdown", "s.md", "--distances", "none") == 0
    summary = json.loads((tmp_path / "s.json").read_text())["pred"]["summary"]
    official = official_semantic(files)
    assert summary["mIoU"] == pytest.approx(official["averageScoreClasses"], abs=1e-9)
    assert summary["iIoU"] == pytest.approx(official["averageScoreInstClasses"], abs=1e-9)
    assert summary["category iIoU"] == pytest.approx(official["averageScoreInstCategories"], abs=1e-9)
    assert f"| iIoU | {100 * summary['iIoU']:.2f} |" in (tmp_path / "s.md").read_text()

    masks = files[0].parent
    assert command(*shared, "--instances", "--pred", masks, "--json", "i.json") == 0
    before = (tmp_path / "i.json").read_bytes()
    assert command(*shared[:-1], "1", "--instances", "--pred", masks, "--json", "i.json") == 0
    assert (tmp_path / "i.json").read_bytes() == before
    summary = json.loads((tmp_path / "i.json").read_text())[str(masks)]["summary"]
    official = official_instances(files, monkeypatch)["averages"]
    assert summary["AP"] == pytest.approx(official["allAp"], abs=1e-9)
    assert summary["AP50"] == pytest.approx(official["allAp50%"], abs=1e-9)
    assert 0 < summary["boundary AP"] < summary["AP"]

    (tmp_path / "gtFine/town" / f"{files[3].name}_gtFine_instanceIds.png").unlink()
    one_line_error(command(*shared, "--pred", "pred"), "1 of 24", "no instance map")

    (tmp_path / "lists").mkdir()
    for stem in files:
        text = (masks / f"{stem.name}_pred.txt").read_text().replace(stem.name, f"{masks}/{stem.name}")
        (tmp_path / "lists" / f"{stem.name}_pred.txt").write_text(text)
    (tmp_path / "lists" / f"{files[3].name}_pred.txt").unlink()
    code = command(*shared, "--instances", "--pred", "lists")
    one_line_error(code, "lists/town_000000_000019_pred.txt, line 1", "relative")


def things():
    return InstanceScores(
        {id_: name for id_, name in zip(CATALOG.ids, CATALOG.classes, strict=True) if id_ in CATALOG.thing_ids},
        CATALOG.ignored_ids,
    )


@pytest.mark.parametrize("part", [slice(0, SCENES), slice(0, 4), slice(5, 12)])
def test_instance_ap_is_official(scenes, files, part, monkeypatch):
    scores = things()
    for _, instances, _, guesses in scenes[part]:
        one = things()
        one.update(guesses, instances)
        scores.merge(one)
    official = official_instances(files[part], monkeypatch)
    np.testing.assert_allclose(scores.average_precision("mask"), np.array(official["resultApMatrix"])[0], atol=1e-9)
    assert scores.compute()["AP"] == pytest.approx(official["averages"]["allAp"], abs=1e-9)
    assert scores.compute()["AP50"] == pytest.approx(official["averages"]["allAp50%"], abs=1e-9)
    json.dumps(scores.as_dict())
