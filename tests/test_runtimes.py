"""Networks in OpenVINO and ONNX Runtime give what they give in PyTorch."""

import importlib.util
import json
import shutil

import pytest
import torch
from conftest import ROOT, require_onnx, varied

from openseg.config import load_config
from openseg.distributed import has_bfloat16
from openseg.errors import ConfigError
from openseg.inference.precision import with_precision
from openseg.inference.prepare import prepare_for_inference
from openseg.inference.runtimes import in_runtime
from openseg.models.checkpoint.io import write_weights
from openseg.models.factory import build_model

RUNTIMES = ("openvino", "onnxruntime")
CPU = torch.device("cpu")


def require_openvino():
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("pip install openseg[openvino]")


def compare(runtime, name):
    """Run as a program: these runtimes bring threads and allocators of their own."""
    config = load_config(ROOT / f"configs/demo/{name}.yaml")
    torch.manual_seed(0)
    model = prepare_for_inference(varied(build_model(config)))
    network = in_runtime(model, runtime, CPU, "fp32", segfix=config.needs_targets)
    for shape in ((1, 3, 96, 130), (2, 3, 75, 161)):
        images = torch.rand(shape)
        with torch.inference_mode():
            expected = model(images) if config.needs_targets else model(images, aux=False)[:1]
            found = network(images)
        for one, other in zip(expected, found, strict=False):
            assert torch.allclose(one, other, atol=1e-3 * float(one.abs().max())), (one - other).abs().max()
    print("they agree")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["hrnet_tiny_ocr", "segfix_hrnet_tiny"])
def test_outputs_are_those_of_pytorch(runtime, name, run):
    """At two sizes, one of them odd, and two batches."""
    require_onnx()
    require_openvino()
    code = f"from test_runtimes import compare; compare({runtime!r}, {name!r})"
    result = run("-c", code, env={"PYTHONPATH": f"{ROOT / 'lib'}:{ROOT / 'tests'}"})
    assert (result.returncode, result.stdout) == (0, "they agree\n"), result.stderr


@pytest.mark.slow
def test_a_command_takes_it_and_its_results_are_its_own(data_root, tmp_path, run):
    require_openvino()
    demo = "configs/demo/hrnet_tiny_ocr"
    given = ["--config", f"{demo}.yaml", "--checkpoint", f"{demo}.safetensors", "--also", "none"]
    words = ["main.py", "predict", data_root / "demo/val/image", *given, "--out", tmp_path / "out", "--device", "cpu"]
    assert run(*words, "test.runtime=openvino").returncode == 0
    assert "holds results of other inputs, settings or weights" in run(*words).stderr


def test_what_a_runtime_cannot_do_is_said(run, tmp_path, command, one_line_error):
    model = torch.nn.Conv2d(3, 2, 1)
    with pytest.raises(ConfigError, match=r"test.precision=bf16 needs test.runtime=torch or openvino"):
        in_runtime(model, "onnxruntime", CPU, "bf16")
    with pytest.raises(ConfigError, match="runs on the CPU"):
        in_runtime(model, "openvino", torch.device("cuda"), "fp32")
    for runtime, extra in (("openvino", "openvino"), ("onnxruntime", "export")):
        call = f"in_runtime(torch.nn.Conv2d(3, 2, 1), {runtime!r}, torch.device('cpu'), 'fp32')"
        code = f"import sys, torch; sys.modules[{runtime!r}] = None\nfrom openseg.inference.runtimes import *\n{call}"
        result = run("-c", code, env={"PYTHONPATH": str(ROOT / "lib")})  # not here, where the real one is in use
        assert f"pip install 'openseg[{extra}]'" in result.stderr
    with pytest.raises(ConfigError, match="compile is of runtime torch"):
        load_config(ROOT / "configs/demo/hrnet_tiny_ocr.yaml", ["test.compile=true", "test.runtime=openvino"])
    config = load_config(ROOT / "configs/refiner/unet_small.yaml")
    write_weights(tmp_path / "refiner.pth", build_model(config), config)
    words = ["segfix", "refine", "--input", tmp_path, "--images", tmp_path, "--checkpoint", tmp_path / "refiner.pth"]
    config_file = tmp_path / "refiner.yaml"
    config_file.write_text((ROOT / "configs/refiner/unet_small.yaml").read_text() + "\ntest: {runtime: openvino}\n")
    (tmp_path / "a.png").write_bytes((ROOT / "docs/images/refiner.png").read_bytes())
    one_line_error(command(*words, "--config", config_file), "runs in torch alone")


def test_bf16_is_chosen_where_it_was_verified(data_root, tmp_path, command, capsys, caplog, one_line_error):
    """For this checkpoint as it is, in this runtime, where the processor has it; and what was chosen is said."""
    caplog.set_level("INFO", "openseg")
    checkpoint = tmp_path / "weights.safetensors"
    shutil.copy(ROOT / "configs/demo/hrnet_tiny_ocr.safetensors", checkpoint)
    given = ["--config", ROOT / "configs/demo/hrnet_tiny_ocr.yaml", "--checkpoint", checkpoint, "--device", "cpu"]
    config = load_config(given[1], ["test.precision=auto"])

    def chosen():
        caplog.clear()
        return with_precision(config, checkpoint, CPU).test.precision, caplog.text

    native = has_bfloat16(CPU)
    precision, text = chosen()
    assert precision == "fp32" and ("was not verified" if native else "no bfloat16") in text
    assert command("verify", *given, f"data.root={data_root}", "--max-loss", 100) == 0
    record = tmp_path / "weights.safetensors.bf16.json"
    found = json.loads(record.read_text())
    assert f"{found['fp32']:.2f} in fp32" in capsys.readouterr().out and 0.9 < found["same"] <= 1 <= found["images"]
    precision, text = chosen()
    assert precision == ("bf16" if native else "fp32") and (not native or "% of the pixels the same" in text)
    words = ["predict", data_root / "demo/val/image", *given, "--also", "none", "test.precision=auto", "--out"]
    assert command(*words, "out") == 0 and f"test.precision=auto is {precision}" in caplog.text
    one_line_error(command(*words, "large", "--engine", "local", "--block", 2), "test.precision=fp32 or bf16")
    assert command("verify", *given, f"data.root={data_root}", "--max-loss", -100) == 1
    assert "beyond --max-loss -100" in capsys.readouterr().out
    assert chosen()[0] == "fp32"
    assert command("verify", *given, f"data.root={data_root}", "--max-loss", 100) == 0
    record.write_text(record.read_text().replace(found["checkpoint"], "0" * 64))  # of another file
    assert chosen()[0] == "fp32"
    one_line_error(command("verify", *given, "test.runtime=onnxruntime"), "has no bf16")
