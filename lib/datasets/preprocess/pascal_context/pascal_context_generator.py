"""Prepare PASCAL-Context with the masks of PyTorch-Encoding (59 classes, 0 is everything else).

    python lib/datasets/preprocess/pascal_context/pascal_context_generator.py --input VOCtrainval_03-May-2010.tar \\
        PytorchEncoding --out data

Writes <out>/pascal_context/{train,val}/{image,label}. The folder PytorchEncoding holds train.pth and val.pth.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from openseg.cli.prepare import prepare_release

if __name__ == "__main__":
    sys.exit(prepare_release("pascal_context"))
