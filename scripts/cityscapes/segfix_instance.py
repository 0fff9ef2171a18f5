"""Refine Cityscapes instance masks with SegFix offsets: python scripts/cityscapes/segfix_instance.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lib"))

from openseg.cli.segfix import main

if __name__ == "__main__":
    sys.exit(main(command="instances"))
