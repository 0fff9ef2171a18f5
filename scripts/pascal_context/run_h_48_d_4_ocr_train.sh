#!/usr/bin/env bash
# HRNet-W48 + OCR on PASCAL-Context. Modes: bash scripts/pascal_context/run_h_48_d_4_ocr_train.sh help
CONFIG=configs/pascal_context/hrnet48_ocr.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
