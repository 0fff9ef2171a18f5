"""Prepare LIP (single person, 20 classes).

    python lib/datasets/preprocess/lip/lip_generator.py --input TrainVal_images.zip TrainVal_parsing_annotations.zip \\
        --out data

Writes <out>/lip/{train,val}/{image,label}, and test/image of Testing_images.zip. Mirrored labels are not needed: left
and right change places while training.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from openseg.cli.prepare import prepare_release

if __name__ == "__main__":
    sys.exit(prepare_release("lip"))
