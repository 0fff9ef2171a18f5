#!/usr/bin/env bash
# OCR on ResNet-50, Cityscapes. Modes: bash scripts/cityscapes/ocrnet/run_r_50_d_8_ocrnet_train.sh help
CONFIG=configs/cityscapes/resnet50_ocr.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
