"""Prepare the instance maps of Cityscapes, for SegFix on instances.

    python lib/datasets/preprocess/cityscapes/cityscapes_instance_generator.py --out data \\
        --input gtFine_trainvaltest.zip

Writes <out>/cityscapes/{train,val}/instance.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from openseg.cli.prepare import prepare_release

if __name__ == "__main__":
    sys.exit(prepare_release("cityscapes_instances"))
