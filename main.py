"""Train, evaluate and predict: python main.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

from openseg.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
