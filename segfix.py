"""Refine label maps of any model with SegFix offsets: python segfix.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

from openseg.cli.segfix import main

if __name__ == "__main__":
    sys.exit(main())
