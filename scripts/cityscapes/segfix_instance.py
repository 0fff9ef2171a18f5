"""Refine Cityscapes instance masks with SegFix offsets: python scripts/cityscapes/segfix_instance.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lib"))

from openseg.cli.refine_instances import main

if __name__ == "__main__":
    sys.exit(main())
