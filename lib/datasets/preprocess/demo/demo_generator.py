"""Render street scenes with their labels and instances, in the ids of Cityscapes.

    python lib/datasets/preprocess/demo/demo_generator.py --out data --train 120 --val 30

Writes <out>/demo/{train,val}/{image,label,instance}. The same seed gives the same scenes, bit for bit; a second run
renders only what is missing.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from openseg_demo.generator import demo

if __name__ == "__main__":
    sys.exit(demo())
