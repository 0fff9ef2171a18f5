"""Prepare Mapillary Vistas, version 1.2 (65 classes).

    python lib/datasets/preprocess/mapillary_vistas/mapillary_vistas_generator.py --out data \\
        --input mapillary-vistas-dataset_public_v1.2.zip

Writes <out>/mapillary_vistas/{train,val}/{image,label} and test/image.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from openseg.cli.prepare import prepare_release

if __name__ == "__main__":
    sys.exit(prepare_release("mapillary_vistas"))
