#!/usr/bin/env bash
# HRNet-W48 + ASP-OCR on Cityscapes. Modes: bash scripts/cityscapes/hrnet/run_h_48_d_4_asp_ocr.sh help
CONFIG=configs/cityscapes/hrnet48_asp_ocr.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
