#!/usr/bin/env bash
# HRNet-W48 + OCR on LIP. Modes: bash scripts/lip/run_h_48_d_4_ocr_train.sh help
CONFIG=configs/lip/hrnet48_ocr.yaml
NAME=hrnet_w48_ocr
DATASET=lip
DATA_FOLDER=lip
PUBLISHED_ID=1
TASK=semantic
SEGFIX_SCALE= # no SegFix network
PRETRAINED_MODEL="${PRETRAINED_MODEL-./pretrained_model/hrnetv2_w48_imagenet_pretrained.pth}"
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
