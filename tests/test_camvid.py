"""Real data: the ESPNet labels of CamVid score what was computed independently."""

import json
import os
from pathlib import Path

import pytest

from openseg.cli.prepare import prepare_release

FOLDER = os.environ.get("OPENSEG_CAMVID")
pytestmark = pytest.mark.skipif(not FOLDER, reason="OPENSEG_CAMVID does not name a folder with CamVid")


@pytest.mark.parametrize(("split", "miou", "accuracy"), [("val", 0.7002, 0.9263), ("train", 0.8315, 0.9607)])
def test_scores_of_real_labels(split, miou, accuracy, command, tmp_path):
    assert prepare_release("camvid", ["--input", FOLDER, "--out", str(tmp_path)]) == 0
    predictions = Path(FOLDER) / "predictions/espnet" / split
    truth = tmp_path / "camvid" / split / "label"
    names = {path.name for path in predictions.iterdir()}
    for path in truth.iterdir():  # every sixth image of train has predictions
        if path.name not in names:
            path.unlink()
    assert command("evaluate", "--dataset", "camvid", "--pred", predictions, "--gt", truth, "--json", "s.json") == 0
    summary = json.loads((tmp_path / "s.json").read_text())[str(predictions)]["summary"]
    assert round(summary["mIoU"], 4) == miou and round(summary["pixel accuracy"], 4) == accuracy
