#!/usr/bin/env bash
# HRNet-W48 + OCR on PASCAL-Context. Modes: bash scripts/pascal_context/run_h_48_d_4_ocr_train.sh help
CONFIG=configs/pascal_context/hrnet48_ocr.yaml
NAME=hrnet_w48_ocr_hrnet48
DATASET=pascal_context
DATA_FOLDER=pascal_context
PUBLISHED_ID=2
TASK=semantic
SEGFIX_SCALE= # no SegFix network
PRETRAINED_MODEL="${PRETRAINED_MODEL-./pretrained_model/hrnetv2_w48_imagenet_pretrained.pth}"
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
