"""Prepare COCO-Stuff 164k in the ids of COCO-Stuff 10k.

    python lib/datasets/preprocess/coco_stuff/coco_stuff_164k_generator.py --input train2017.zip val2017.zip \\
        stuffthingmaps_trainval2017.zip --out data

Writes <out>/coco_stuff_164k/{train,val}/{image,label}; train it with data.dataset=coco_stuff_164k.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from openseg.cli.prepare import prepare_release

if __name__ == "__main__":
    sys.exit(prepare_release("coco_stuff_164k"))
