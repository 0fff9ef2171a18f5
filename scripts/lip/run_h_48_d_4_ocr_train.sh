#!/usr/bin/env bash
# HRNet-W48 + OCR on LIP. Modes: bash scripts/lip/run_h_48_d_4_ocr_train.sh help
CONFIG=configs/lip/hrnet48_ocr.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
