#!/usr/bin/env bash
# OCR on ResNet-101, Cityscapes. Modes: bash scripts/cityscapes/ocrnet/run_r_101_d_8_ocrnet_train.sh help
CONFIG=configs/cityscapes/resnet101_ocr.yaml
NAME=spatial_ocrnet_deepbase_resnet101_dilated8
DATASET=cityscapes
DATA_FOLDER=cityscapes
PUBLISHED_ID=1
TASK=semantic
SEGFIX_SCALE=2
PRETRAINED_MODEL="${PRETRAINED_MODEL-./pretrained_model/resnet101-imagenet.pth}"
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
