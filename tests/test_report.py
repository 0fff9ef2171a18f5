"""The page about labels, in a real browser: what it counts, sorts, shows and hides is compared with NumPy."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest

from openseg.datasets.registry import get_dataset_info
from openseg.io.images import read_label, write_label
from openseg.metrics import LabelScores
from openseg.tools.report.samples import safe_colors
from openseg_demo.scenes import write_scene

DEMO = get_dataset_info("demo")
NAMES = ["a", "b", "<b>c & 'd'"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three scenes, labels that are wrong in places, and others that are wrong in other places."""
    root = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    for index, name in enumerate(NAMES):
        write_scene((root / "scenes/val", index), (96, 160), seed=3)
        for kind in ("image", "label"):
            source = sorted((root / "scenes/val" / kind).glob("*.png"))[0]
            (root / "data/demo/val" / kind).mkdir(parents=True, exist_ok=True)
            shutil.move(source, root / "data/demo/val" / kind / f"{name}.png")
        truth = read_label(root / "data/demo/val/label" / f"{name}.png")
        for place, folder in enumerate(("label", "label_w_segfix")):
            wrong = cv2.dilate(
                (rng.random(truth.shape) < (0.03, 0.01 * index)[place]).astype(np.uint8), np.ones((5, 5))
            )
            labels = np.where(wrong, np.roll(truth, 20, axis=1), truth)
            write_label(root / "result" / folder / f"{name}.png", labels)
    return root


@pytest.fixture(scope="module")
def page_file(folders):
    from openseg.cli.main import main

    arguments = ["report", folders / "result", "--dataset", "demo", "--data-root", folders / "data", "--workers", "1"]
    assert main([str(each) for each in arguments]) == 0
    return folders / "result/report/index.html"


@pytest.fixture
def page(chromium, page_file):
    """The open page; complaints in the browser's console fail the test."""
    complaints, asked = [], []
    context = chromium.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    yield page
    context.close()
    assert not complaints
    assert all(url.startswith((page_file.parent.as_uri(), "data:")) for url in asked)


def read(folders, name):
    """Truth, before and after as train IDs."""
    paths = (folders / "data/demo/val/label", folders / "result/label", folders / "result/label_w_segfix")
    return [DEMO.encode(read_label(path / f"{name}.png")) for path in paths]


def open_image(page, name):
    page.locator(".card").filter(has=page.get_by_text(name, exact=True)).click()
    wait_for_image(page)


def wait_for_image(page):
    page.locator("#viewer[open]").wait_for()
    page.locator("#wait").wait_for(state="hidden")


def pixels(page, canvas):
    """``uint8[H, W, 4]`` of a canvas."""
    width, height, values = page.evaluate(
        """(id) => { const canvas = document.getElementById(id);
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return [canvas.width, canvas.height, Array.from(data)]; }""",
        canvas,
    )
    return np.array(values, np.uint8).reshape(height, width, 4)


def names_shown(page):
    return page.locator(".card .name").all_text_contents()


def test_scores_and_bars_are_those_of_evaluate(page, folders):
    scores = [LabelScores(DEMO), LabelScores(DEMO)]
    for name in NAMES:
        truth, *labels = read(folders, name)
        for each, predicted in zip(scores, labels, strict=True):
            each.update(predicted, truth)
    rows = dict(row.split("\t", 1) for row in page.locator("#summary tbody tr").all_inner_texts())
    first, second = (100 * each.compute()["mIoU"] for each in scores)
    assert rows["mIoU"] == f"{first:.2f}\t{second:.2f}\t+{second - first:.2f}"
    shown = {
        row.locator(".name").inner_text(): row.locator(".value").inner_text()
        for row in page.locator(".bars .row").all()
    }
    expected = {name: f"{100 * iou:.2f}" for name, iou in scores[1].by_class.items() if not np.isnan(iou)}
    assert {name: text.split()[0] for name, text in shown.items()} == expected
    page.get_by_text("Confusion matrix").click()
    page.locator("#commonest tbody tr").first.wait_for()
    truth, taken, share = page.locator("#commonest tbody tr").first.locator("td").all_text_contents()
    counts = scores[1].confusion.counts.astype(float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    assert share == f"{100 * shares.max():.2f}"
    names = [*DEMO.classes, "no class"]
    assert shares[names.index(truth), names.index(taken)] == shares.max()


def test_sorting_sorts_and_the_filter_filters(page, folders):
    gains = {}
    for name in NAMES:
        truth, *labels = read(folders, name)
        values = []
        for predicted in labels:
            scores = LabelScores(DEMO)
            scores.update(predicted, truth)
            values.append(scores.confusion.mean_iou)
        gains[name] = values[1] - values[0]
    ordered = sorted(gains, key=gains.get)
    assert names_shown(page) == ordered[::-1]
    page.locator("#sort").select_option("loss")
    assert names_shown(page) == ordered
    page.locator("#sort").select_option("name")
    assert names_shown(page) == sorted(NAMES)
    page.locator("#filter").fill("C &")
    assert names_shown(page) == [NAMES[2]]


def border_of(page):
    """Pixels of the right image that are clipped at its left."""
    clip = page.locator("#right").evaluate("(e) => e.style.clipPath")
    return float(re.findall(r"([\d.]+)px", clip)[-1])


def test_the_slider_parts_before_and_after(page, folders):
    open_image(page, "a")
    _, before, after = read(folders, "a")
    assert border_of(page) == 80  # of 160
    page.locator("#slider").focus()
    page.keyboard.press("Home")
    assert border_of(page) == 0
    handle, stage = page.locator("#split").bounding_box(), page.locator("#stage").bounding_box()
    page.mouse.move(handle["x"] + 12, stage["y"] + 200)
    page.mouse.down()
    page.mouse.move(stage["x"] + stage["width"] / 2, stage["y"] + 200, steps=4)
    page.mouse.up()
    assert border_of(page) == pytest.approx(80, abs=1)
    for canvas, labels in (("left", before), ("right", after)):
        np.testing.assert_array_equal(pixels(page, canvas)[..., 3] > 0, labels < DEMO.num_classes)


def test_colors_classes_and_marks_are_those_of_the_files(page, folders):
    open_image(page, "b")
    truth, before, after = read(folders, "b")
    page.keyboard.press("2")
    page.locator("#opacity").fill("100")
    known = truth < DEMO.num_classes
    np.testing.assert_array_equal(pixels(page, "left")[known, :3], DEMO.colorize(truth)[known])
    page.keyboard.press("c")
    np.testing.assert_array_equal(
        pixels(page, "left")[known, :3], np.array(safe_colors(DEMO.num_classes))[truth[known]]
    )

    hidden = int(np.bincount(truth[known]).argmax())
    page.locator(f'#legend [data-index="{hidden}"]').click()
    np.testing.assert_array_equal(pixels(page, "left")[..., 3] > 0, known & (truth != hidden))
    page.locator("#all-classes").click()
    assert (pixels(page, "left")[..., 3] > 0).sum() == known.sum()

    page.keyboard.press("3")
    page.keyboard.press("e")
    wrong = known & (before != truth)
    assert wrong.any()
    np.testing.assert_array_equal(pixels(page, "marks")[..., 3] > 0, wrong)
    page.keyboard.press("4")
    np.testing.assert_array_equal(pixels(page, "marks")[..., 3] > 0, known & (after != truth))
    page.keyboard.press("e")
    edges = np.zeros(truth.shape, np.uint8)
    edges[:, :-1] |= truth[:, :-1] != truth[:, 1:]
    edges[:-1] |= truth[:-1] != truth[1:]
    near = cv2.dilate(edges, np.ones((11, 11), np.uint8)) > 0
    np.testing.assert_array_equal(pixels(page, "marks")[..., 3] > 0, known & (after != truth) & near)
    page.keyboard.press("e")
    marks = pixels(page, "marks")
    fixed, broken = known & (before != truth) & (after == truth), known & (before == truth) & (after != truth)
    assert fixed.any() and broken.any()
    np.testing.assert_array_equal((marks == [0, 114, 255, 255]).all(axis=-1), fixed)
    np.testing.assert_array_equal((marks == [255, 140, 0, 255]).all(axis=-1), broken)


def test_keys_zoom_and_links(page, page_file):
    open_image(page, names_shown(page)[0])
    for key, mode in zip("12345", ("image", "truth", "first", "second", "slide"), strict=True):
        page.keyboard.press(key)
        assert page.locator('#views [aria-pressed="true"]').get_attribute("data-mode") == mode
    order = names_shown(page)
    page.keyboard.press("ArrowRight")
    page.locator("#viewer-title", has_text=order[1]).wait_for()
    page.keyboard.press("ArrowLeft")
    page.locator("#viewer-title", has_text=order[0]).wait_for()
    scale = "() => Number(/scale\\(([\\d.]+)/.exec(document.getElementById('layers').style.transform)[1])"
    fitted = page.evaluate(scale)
    page.keyboard.press("+")
    assert page.evaluate(scale) == pytest.approx(1.5 * fitted, rel=1e-4)
    page.mouse.move(600, 400)
    page.mouse.wheel(0, -200)
    assert page.evaluate(scale) > 2 * fitted
    page.keyboard.press("0")
    assert page.evaluate(scale) == pytest.approx(fitted, rel=1e-4)
    page.mouse.move(600, 401)
    assert "truth: " in page.locator("#under").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    page.evaluate("(name) => { location.hash = encodeURIComponent(name); location.reload(); }", NAMES[2])
    page.locator("#viewer-title", has_text=NAMES[2]).wait_for()


def test_safe_colors_are_all_different():
    for count in (1, 7, 8, 19, 60, 171):
        assert len(set(safe_colors(count))) == count


def test_it_fits_a_phone(chromium, page_file):
    page = chromium.new_page(viewport={"width": 360, "height": 700}, has_touch=True)
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator(".card").first.tap()
    wait_for_image(page)
    assert page.locator("#stage").bounding_box()["height"] > 160
    assert page.locator("#viewer").evaluate("(e) => e.scrollWidth") <= 360
    page.close()


def test_buttons_pictures_and_fields_have_names(page):
    open_image(page, "a")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas[role=img], svg[role=img], .card img")]
        .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.title || e.alt || e.labels?.length))
        .map((e) => e.outerHTML)"""
    )
    assert not unnamed


def test_without_truth_it_shows_what_differs(folders, tmp_path, command, capsys):
    shutil.copytree(folders / "result/label", tmp_path / "mine")
    shutil.copytree(folders / "result/label_w_segfix", tmp_path / "theirs")
    assert (
        command(
            "report",
            "mine",
            "--compare",
            "theirs",
            "--dataset",
            "demo",
            "--no-gt",
            "--images",
            folders / "data/demo/val/image",
        )
        == 0
    )
    content = data_of(tmp_path / "mine_report/index.html")
    assert content["names"] == ["mine", "theirs"] and not content["results"] and len(content["samples"]) == 3
    for sample in content["samples"]:
        _, before, after = read(folders, sample["name"])
        assert sample["values"][1][0] == pytest.approx((before == after).mean(), abs=1e-5)
    assert command("report", "mine", "--dataset", "demo", "--no-gt", "--limit", "2") == 0
    content = data_of(tmp_path / "mine_report/index.html")
    assert (
        len(content["samples"]) == 2
        and content["total"] == 3
        and len(list((tmp_path / "mine_report/samples").iterdir())) == 2
    )


def data_of(path):
    return json.loads(re.search(r'type="application/json">(.*)</script>', path.read_text())[1])


def test_of_many_images_it_shows_those_that_changed_most(folders, page_file, tmp_path, command):
    arguments = ["--dataset", "demo", "--data-root", folders / "data", "--limit", "1", "--out", tmp_path / "page"]
    assert command("report", folders / "result", *arguments) == 0
    content, everything = data_of(tmp_path / "page/index.html"), data_of(page_file)
    assert content["total"] == 3 and content["results"] == everything["results"]
    most = max(everything["samples"], key=lambda sample: sample["values"][1][0] - sample["values"][0][0])
    assert [sample["name"] for sample in content["samples"]] == [most["name"]]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nowhere", "--dataset", "demo"], ["nowhere: no such folder"]),
        (["{result}"], ["--dataset"]),
        (["{result}", "--dataset", "demo", "--data-root", "nothing"], ["nothing/demo/val/label: no such folder"]),
        (["{result}", "--dataset", "demo", "--no-gt", "--names", "x", "x"], ["--names", "2"]),
        (["{result}", "--dataset", "demo", "--no-gt", "--images", "empty"], ["empty"]),
        (["{result}", "--dataset", "demo", "--no-gt", "--out", "foreign"], ["foreign", "did not write"]),
        (
            ["{result}/label", "--dataset", "demo", "--no-gt", "--compare", "other"],
            ["4 predictions", "a.png has no prediction in other", "other/x.png has no ground truth"],
        ),
        (["{result}", "--dataset", "demo", "--limit", "0"], ["--limit 0"]),
    ],
)
def test_what_cannot_be_reported_is_one_line(arguments, words, folders, tmp_path, command, one_line_error):
    for name in ("empty", "foreign/thumbs", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "foreign/thumbs/mine.jpg").write_bytes(b"mine")
    write_label(tmp_path / "other/x.png", np.zeros((4, 4), np.uint8))
    one_line_error(command("report", *(each.format(result=folders / "result") for each in arguments)), *words)
    assert (tmp_path / "foreign/thumbs/mine.jpg").read_bytes() == b"mine"


def test_what_segfix_wrote_inside_a_folder_of_labels_is_no_label_of_it(folders, tmp_path, command, capsys):
    shutil.copytree(folders / "result/label", tmp_path / "mine")
    shutil.copytree(folders / "result/label_w_segfix", tmp_path / "mine/label_w_segfix")
    (tmp_path / "mine/label_w_segfix/made_by.json").write_text("{}")
    truth = ["--dataset", "demo", "--gt", folders / "data/demo/val/label", "--workers", "1"]
    assert command("evaluate", "--pred", "mine", *truth, "--distances", "none") == 0
    assert command("report", "mine", *truth, "--images", folders / "data/demo/val/image") == 0
    assert data_of(tmp_path / "mine_report/index.html")["names"] == ["before", "after"]


def test_the_keyboard_goes_on_at_the_first_and_the_last_image(page):
    order = names_shown(page)
    open_image(page, order[1])
    for key, name in (
        ("ArrowLeft", order[0]),
        ("ArrowRight", order[1]),
        ("ArrowRight", order[2]),
        ("ArrowLeft", order[1]),
    ):
        page.keyboard.press(key)
        page.locator("#viewer-title", has_text=name).wait_for()
    page.locator("#previous").click()
    page.locator("#viewer-title", has_text=order[0]).wait_for()
    page.keyboard.press("2")
    assert page.locator('#views [aria-pressed="true"]').get_attribute("data-mode") == "truth"


def test_an_image_that_cannot_be_read_says_so(page, page_file, tmp_path):
    shutil.copytree(page_file.parent, tmp_path / "copy")
    for script in (tmp_path / "copy/samples").iterdir():
        script.unlink()
    context = page.context.browser.new_context()
    other = context.new_page()
    other.goto((tmp_path / "copy/index.html").as_uri())
    other.locator(".card").first.click()
    other.locator("#wait", has_text="copy the whole folder").wait_for()
    assert not other.locator("#left").is_visible()
    context.close()


def test_the_most_changed_are_shown_without_truth(folders, tmp_path, command):
    shutil.copytree(folders / "result/label", tmp_path / "mine")
    shutil.copytree(folders / "result/label", tmp_path / "theirs")
    shutil.copy(folders / "result/label_w_segfix/b.png", tmp_path / "theirs/b.png")
    arguments = ["mine", "--compare", "theirs", "--dataset", "demo", "--no-gt", "--limit", "1"]
    assert command("report", *arguments) == 0
    assert [sample["name"] for sample in data_of(tmp_path / "mine_report/index.html")["samples"]] == ["b"]


def test_a_report_leaves_other_files_and_folders_alone(folders, tmp_path, command, one_line_error):
    shutil.copytree(folders / "result/label", tmp_path / "results/label")
    record = tmp_path / "results/made_by.json"
    record.write_text('{"what": "predictions"}')
    arguments = ["report", "results", "--dataset", "demo", "--data-root", folders / "data", "--workers", "1"]
    one_line_error(command(*arguments, "--out", "results"), "did not write")
    assert record.read_text() == '{"what": "predictions"}'
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("mine")
    one_line_error(command(*arguments, "--out", "site"), "site/index.html")
    assert command(*arguments) == 0
    (tmp_path / "results/report/notes.html").write_text("mine")
    assert command(*arguments) == 0 and (tmp_path / "results/report/notes.html").read_text() == "mine"


def test_sharpened_labels_that_are_older_are_not_compared(folders, tmp_path, command, capsys):
    shutil.copytree(folders / "result", tmp_path / "result", ignore=shutil.ignore_patterns("report"))
    write_label(tmp_path / "result/label/a.png", read_label(folders / "result/label/a.png"))  # predicted again
    assert command("report", "result", "--dataset", "demo", "--data-root", folders / "data") == 0
    assert "is skipped: older" in capsys.readouterr().out
    assert data_of(tmp_path / "result/report/index.html")["names"] == ["prediction"]


def test_a_label_of_another_size_is_left_out_if_asked(folders, tmp_path, command, capsys):
    for name in ("mine", "theirs"):
        shutil.copytree(folders / "result/label", tmp_path / name)
    write_label(tmp_path / "theirs/a.png", np.full((4, 4), 7, np.uint8))
    arguments = ["mine", "--compare", "theirs", "--dataset", "demo", "--data-root", folders / "data", "--workers", "1"]
    assert command("report", *arguments, "--allow-missing") == 0
    assert "left out: 1" in capsys.readouterr().out
    assert data_of(tmp_path / "mine_report/index.html")["total"] == 2


def test_a_broken_photo_costs_no_scores(folders, tmp_path, command, capsys):
    shutil.copytree(folders / "result/label", tmp_path / "mine")
    shutil.copytree(folders / "data/demo/val/image", tmp_path / "images")
    (tmp_path / "images/a.png").write_bytes(b"broken")
    arguments = ["--dataset", "demo", "--data-root", folders / "data", "--images", "images", "--workers", "1"]
    assert command("report", "mine", *arguments) == 2
    out = capsys.readouterr()
    assert "mIoU" in out.out and "a.png" in out.err
