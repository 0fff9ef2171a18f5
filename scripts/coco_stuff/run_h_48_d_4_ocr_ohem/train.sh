#!/usr/bin/env bash
# The model zoo's table once named the launcher of COCO-Stuff this way; it is ../run_h_48_d_4_ocr_ohem_train.sh.
unset CDPATH
exec bash "$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/run_h_48_d_4_ocr_ohem_train.sh" "$@"
