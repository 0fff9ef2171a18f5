"""The page about labels, in a real browser: what it counts, sorts, shows and hides is compared with NumPy."""

import re
import shutil

import cv2
import numpy as np
import pytest
from conftest import REPORTED, data_of

from openseg.datasets.registry import get_dataset_info
from openseg.io.images import read_label
from openseg.metrics import LabelScores
from openseg.tools.report.samples import safe_colors

DEMO = get_dataset_info("demo")


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
    for name in REPORTED:
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
    for name in REPORTED:
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
    assert names_shown(page) == sorted(REPORTED)
    page.locator("#filter").fill("C &")
    assert names_shown(page) == [REPORTED[2]]


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
    page.evaluate("(name) => { location.hash = encodeURIComponent(name); location.reload(); }", REPORTED[2])
    page.locator("#viewer-title", has_text=REPORTED[2]).wait_for()


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


def test_of_many_images_it_shows_those_that_changed_most(folders, page_file, tmp_path, command):
    arguments = ["--dataset", "demo", "--data-root", folders / "data", "--limit", "1", "--out", tmp_path / "page"]
    assert command("report", folders / "result", *arguments) == 0
    content, everything = data_of(tmp_path / "page/index.html"), data_of(page_file)
    assert content["total"] == 3 and content["results"] == everything["results"]
    most = max(everything["samples"], key=lambda sample: sample["values"][1][0] - sample["values"][0][0])
    assert [sample["name"] for sample in content["samples"]] == [most["name"]]


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
