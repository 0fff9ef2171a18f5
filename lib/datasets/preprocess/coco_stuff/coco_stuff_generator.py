"""Prepare COCO-Stuff 10k, version 1.1.

    python lib/datasets/preprocess/coco_stuff/coco_stuff_generator.py --input cocostuff-10k-v1.1.zip --out data

Writes <out>/coco_stuff_10k/{train,val}/{image,label}; val is the release's test list.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from openseg.cli.prepare import prepare_release

if __name__ == "__main__":
    sys.exit(prepare_release("coco_stuff"))
