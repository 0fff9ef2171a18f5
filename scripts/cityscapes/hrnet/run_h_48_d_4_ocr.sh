#!/usr/bin/env bash
# HRNet-W48 + OCR on Cityscapes. Modes: bash scripts/cityscapes/hrnet/run_h_48_d_4_ocr.sh help
CONFIG=configs/cityscapes/hrnet48_ocr.yaml
NAME=hrnet_w48_ocr
DATASET=cityscapes
DATA_FOLDER=cityscapes
PUBLISHED_ID=1
TASK=semantic
SEGFIX_SCALE=2
PRETRAINED_MODEL="${PRETRAINED_MODEL-./pretrained_model/hrnetv2_w48_imagenet_pretrained.pth}"
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
