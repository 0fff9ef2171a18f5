"""Prepare Cityscapes: fine labels of train and val, and the images of test.

    python lib/datasets/preprocess/cityscapes/cityscapes_generator.py --input leftImg8bit_trainvaltest.zip \\
        gtFine_trainvaltest.zip --out data

Writes <out>/cityscapes/{train,val}/{image,label} and test/image; labels hold labelIds and have their images' names.
--coarse adds the coarse labels of train and val, --extra the split coarse (train_extra).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from openseg.cli.prepare import prepare_release

if __name__ == "__main__":
    sys.exit(prepare_release("cityscapes"))
