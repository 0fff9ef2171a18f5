#!/usr/bin/env bash
# HRNet-W48 + OCR on ADE20K. Modes: bash scripts/ade20k/hrnet/run_h_48_d_4_ocr_ohem.sh help
CONFIG=configs/ade20k/hrnet48_ocr.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
