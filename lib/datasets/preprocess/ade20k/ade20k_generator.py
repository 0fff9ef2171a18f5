"""Prepare ADE20K (scene parsing, 150 classes).

    python lib/datasets/preprocess/ade20k/ade20k_generator.py --input ADEChallengeData2016.zip --out data

Writes <out>/ade20k/{train,val}/{image,label}, and test/image of release_test.zip.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from openseg.cli.prepare import prepare_release

if __name__ == "__main__":
    sys.exit(prepare_release("ade20k"))
