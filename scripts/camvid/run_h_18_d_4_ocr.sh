#!/usr/bin/env bash
# HRNet-W18 + OCR on CamVid. Modes: bash scripts/camvid/run_h_18_d_4_ocr.sh help
CONFIG=configs/camvid/hrnet18_ocr.yaml
NAME=hrnet_w18_ocr
DATASET=camvid
DATA_FOLDER=camvid
PUBLISHED_ID=1
PRETRAINED_MODEL="${PRETRAINED_MODEL-}"
TASK=semantic
SEGFIX_SCALE=1
SEGFIX_OPTIONS="--min-confidence 0.3 --keep-thin 5"
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
