"""``openseg serve``, asked by HTTP clients and by a browser."""

import contextlib
import http.client
import io
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import openseg
from openseg.datasets.registry import get_dataset_info
from openseg.serving.polygons import polygons_of

pytest.importorskip("fastapi", reason="pip install openseg[serve]")
from openseg.serving.batching import Batcher, Full

DEMO = ROOT / "configs/demo/hrnet_tiny_ocr"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
GIVEN = ["--config", DEMO.with_suffix(".yaml"), "--checkpoint", DEMO.with_suffix(".safetensors"), "--device", "cpu"]


@contextlib.contextmanager
def serving(*options):
    """A server in a process of its own; yields its port, and ends it as Ctrl-C does."""
    words = [sys.executable, "main.py", "serve", *map(str, [*GIVEN, "--port", 0, *options])]
    process = subprocess.Popen(
        words, cwd=ROOT, env=ONE_THREAD, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines = queue.Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in process.stdout], daemon=True).start()
    try:
        while not (found := re.search(r"http://127.0.0.1:(\d+)", lines.get(timeout=60))):
            pass
        yield int(found.group(1))
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    finally:
        process.kill()


@pytest.fixture(scope="module")
def server():
    with serving("--max-megabytes", 1, "--max-megapixels", 0.5) as port:
        yield port


def ask(port, path, body=None, headers=None):
    """Status, kind and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET" if body is None else "POST", path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.getheader("content-type"), answer.read()


def multipart(content):
    parts = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + content + b"\r\n--x--\r\n"
    )
    return parts, {"Content-Type": "multipart/form-data; boundary=x"}


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.slow
def test_answers_are_what_the_predictor_gives(server, data_root):
    file = min((data_root / "demo/val/image").iterdir())
    predictor = openseg.Predictor(DEMO.with_suffix(".yaml"), DEMO.with_suffix(".safetensors"), device="cpu")
    expected, info = predictor(file), predictor.config.dataset_info
    content = file.read_bytes()
    status, kind, body = ask(server, "/predict", content)
    assert (status, kind) == (200, "image/png") and np.array_equal(pixels(body), expected.ids)
    assert np.array_equal(pixels(ask(server, "/predict?output=vis", *multipart(content))[2]), expected.colors)
    status, kind, body = ask(server, "/predict?output=overlay", content)
    assert kind == "image/jpeg" and pixels(body).shape == expected.image.shape
    found = json.loads(ask(server, "/predict?output=polygons", content)[2])
    assert (found["height"], found["width"]) == expected.labels.shape
    assert sum(each["area"] for each in found["polygons"]) == expected.labels.size
    classes = json.loads(ask(server, "/classes")[2])
    assert [(each["name"], each["id"]) for each in classes] == list(zip(info.classes, info.ids, strict=True))


@pytest.mark.slow
def test_what_is_wrong_with_a_request_is_said(server, data_root):
    image = min((data_root / "demo/val/image").iterdir()).read_bytes()
    large = io.BytesIO()
    Image.new("RGB", (1000, 501)).save(large, "PNG")
    bomb = bytearray(large.getvalue())
    bomb[16:24] = (60000).to_bytes(4, "big") * 2  # more than it holds, and than anybody decodes
    for body, status, words in (
        (bytes(bomb), 413, "more than 500,000 pixels"),
        (b"hello", 400, "not an image"),
        (image[: len(image) // 2], 400, "truncated"),
        (b"", 400, "no image"),
        (multipart(b""), 400, "no image"),
        (bytes(1_100_000), 413, "more than 1 MB"),
        (large.getvalue(), 413, "more than 500,000 pixels"),
    ):
        given = body if isinstance(body, tuple) else (body,)
        answer = ask(server, "/predict", *given)
        assert answer[0] == status and words in json.loads(answer[2])["detail"], answer
    assert ask(server, "/predict?output=x", image)[0] == 422
    body = json.loads(ask(server, "/openapi.json")[2])["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert {"image/*", "multipart/form-data"} == set(body)
    assert ask(server, "/predict")[0] == 405
    assert json.loads(ask(server, "/health")[2])["status"] == "ok"  # and it still answers


@pytest.mark.slow
def test_many_at_once_are_batched_and_get_their_own(data_root):
    files = sorted((data_root / "demo/val/image").iterdir())
    with serving("--max-batch", 4) as port, ThreadPoolExecutor(12) as threads:
        alone = [ask(port, "/predict", file.read_bytes())[2] for file in files]
        together = threads.map(
            lambda place: ask(port, "/predict", files[place % len(files)].read_bytes())[2], range(12)
        )
        for place, body in enumerate(together):
            assert (pixels(body) == pixels(alone[place % len(files)])).mean() > 0.999  # a batch rounds differently
        health = json.loads(ask(port, "/health")[2])
        assert health["predicted"] == 12 + len(files) > health["batches"] and health["waiting"] == 0


@pytest.mark.slow
def test_too_slow_and_too_many(data_root):
    image = min((data_root / "demo/val/image").iterdir()).read_bytes()
    with serving("--timeout", 0.001) as port:
        assert ask(port, "/predict", image)[0] == 504
    with serving("--max-waiting", 1, "--max-batch", 1) as port, ThreadPoolExecutor(16) as threads:
        statuses = [answer[0] for answer in threads.map(lambda _: ask(port, "/predict", image), range(16))]
        assert 200 in statuses and 503 in statuses and set(statuses) == {200, 503}


def test_the_line_is_served_in_order_and_failures_are_of_their_batch():
    class Slow:
        config = type("Config", (), {"data": type("Data", (), {"size": None, "short_side": None})})

        def predict_batch(self, images, size):
            seen.append(len(images))
            time.sleep(0.05)
            if size == (5, 5) or len(images) > 1:
                raise ValueError("no")
            return np.zeros((len(images), *size), np.uint8)

    seen = []
    with Batcher(Slow(), 2, 5) as batcher:
        first = batcher.submit(np.zeros((4, 4, 3), np.uint8))
        time.sleep(0.02)  # it is predicted now
        sizes = [4, 5, 4, 4, 4]
        rest = [batcher.submit(np.zeros((size, size, 3), np.uint8)) for size in sizes]
        with pytest.raises(Full):
            batcher.submit(np.zeros((4, 4, 3), np.uint8))
        rest[-1].cancel()
        again = batcher.submit(np.zeros((4, 4, 3), np.uint8))  # in the place of the cancelled one
        assert first.result(5).shape == (4, 4)
        with pytest.raises(ValueError, match="no"):
            rest[1].result(5)
        assert [job.result(5).shape for job in (rest[0], rest[2], rest[3], again)] == [(4, 4)] * 4
    assert seen == [1, 2, 1, 1, 1, 2, 1, 1]  # what fails together is tried one by one
    assert not batcher.alive


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 24), st.integers(1, 24), st.floats(0, 0.6))
def test_polygons_give_the_labels_again(seed, height, width, noise):
    rng = np.random.default_rng(seed)
    info = get_dataset_info("camvid")
    coarse = rng.integers(0, info.num_classes, (height // 4 + 1, width // 4 + 1), np.uint8)
    labels = np.kron(coarse, np.ones((4, 4), np.uint8))[:height, :width].copy()
    where = rng.random(labels.shape) < noise
    labels[where] = rng.choice([0, 1, 255], int(where.sum())).astype(np.uint8)
    drawn = np.full_like(labels, 255)
    for each in polygons_of(labels, info):
        canvas = np.zeros_like(labels)
        lines = [np.array(points, np.int32) for points in (each["points"], *each["holes"])]
        cv2.drawContours(canvas, lines, -1, 1, cv2.FILLED)
        assert np.count_nonzero(canvas) == each["area"]
        assert not (drawn[canvas > 0] != 255).any()  # no pixel twice
        drawn[canvas > 0] = info.ids.index(each["id"])
    assert np.array_equal(drawn, labels)


def test_wrong_options(command, one_line_error, run, tmp_path):
    one_line_error(command("serve", *GIVEN, "--timeout", 0), "--timeout")
    one_line_error(command("serve", *GIVEN, "--port", 70000), "--port 70000: is from 0 to 65535")
    one_line_error(command("serve", *GIVEN, "--host", "no.such.host.invalid"), "--host no.such.host.invalid")
    code = "import sys; sys.modules['fastapi'] = None; from openseg.cli.main import main; sys.exit(main())"
    result = run("-c", code, "serve", *GIVEN, env={"PYTHONPATH": str(ROOT / "lib")})
    assert "pip install 'openseg[serve]'" in result.stderr and result.returncode == 2


@pytest.mark.slow
def test_a_dropped_image_is_shown_with_its_labels(chromium, server, data_root):
    file = min((data_root / "demo/val/image").iterdir())
    page = chromium.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(f"http://127.0.0.1:{server}/")
    page.set_input_files("#file", file)
    page.wait_for_selector("#legend li")
    assert "road" in page.inner_text("#legend") and file.name in page.inner_text("#status")
    widths = page.evaluate("[document.getElementById('image').naturalWidth, overlay.naturalWidth]")
    assert widths[0] == widths[1] > 0 and page.is_visible("#overlay")
    transfer = page.evaluate_handle(
        "() => { const t = new DataTransfer(); t.items.add(new File(['hello'], '<b>.png')); return t; }"
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("#status.error")
    assert "<b>.png: the image: not an image" in page.inner_text("#status") and not page.is_visible("#result")
    assert [error for error in errors if "400" not in error] == []
