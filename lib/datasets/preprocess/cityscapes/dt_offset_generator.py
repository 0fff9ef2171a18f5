"""Make SegFix ground truth from label maps: for each pixel the distance to its region's boundary and the way inside.

    python lib/datasets/preprocess/cityscapes/dt_offset_generator.py --datadir data/cityscapes --split train val

Reads <datadir>/<split>/label and writes <datadir>/<split>/offset_gt/dt_offset/<label name>.png, with --format mat the
original's .mat (keys depth, dir_deg, deg_reduce). Any built-in dataset works: --dataset camvid, or the YAML file
of your own. A second run makes only what is missing.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from openseg.cli.prepare import segfix_targets

if __name__ == "__main__":
    sys.exit(segfix_targets())
