#!/usr/bin/env bash
# HRNet-W48 + OCR on COCO-Stuff 10k. Modes: bash scripts/coco_stuff/run_h_48_d_4_ocr_ohem_train.sh help
CONFIG=configs/coco_stuff/hrnet48_ocr.yaml
NAME=hrnet_w48_ocr_hrnet48_ohem
DATASET=coco_stuff
DATA_FOLDER=coco_stuff_10k
PUBLISHED_ID=2
TASK=semantic
SEGFIX_SCALE= # no SegFix network
PRETRAINED_MODEL="${PRETRAINED_MODEL-./pretrained_model/hrnetv2_w48_imagenet_pretrained.pth}"
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
