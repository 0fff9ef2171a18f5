"""Make SegFix ground truth from instance maps: each object of things, and each class of stuff, is a region.

    python lib/datasets/preprocess/cityscapes/instance_dt_offset_generator.py --datadir data/cityscapes

Reads <datadir>/<split>/instance (16-bit instanceIds under the labels' names) and writes
<datadir>/<split>/offset_gt/dt_offset_inst_w_stuff/<name>.png (--format mat: the original's .mat). A second run makes
only what is missing.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from openseg.cli.prepare import segfix_targets

if __name__ == "__main__":
    sys.exit(segfix_targets(instances=True))
