#!/usr/bin/env bash
# HRNet-W48 + OCR on COCO-Stuff 10k. Modes: bash scripts/coco_stuff/run_h_48_d_4_ocr_ohem_train.sh help
CONFIG=configs/coco_stuff/hrnet48_ocr.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
