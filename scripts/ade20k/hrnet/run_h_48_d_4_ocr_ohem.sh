#!/usr/bin/env bash
# HRNet-W48 + OCR on ADE20K. Modes: bash scripts/ade20k/hrnet/run_h_48_d_4_ocr_ohem.sh help
CONFIG=configs/ade20k/hrnet48_ocr.yaml
NAME=hrnet_w48_ocr_hrnet48_ohem
DATASET=ade20k
DATA_FOLDER=ade20k
PUBLISHED_ID=1
TASK=semantic
SEGFIX_SCALE= # no SegFix network
PRETRAINED_MODEL="${PRETRAINED_MODEL-./pretrained_model/hrnetv2_w48_imagenet_pretrained.pth}"
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
