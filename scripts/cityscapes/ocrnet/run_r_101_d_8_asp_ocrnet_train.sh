#!/usr/bin/env bash
# ASP-OCR on ResNet-101, Cityscapes. Modes: bash scripts/cityscapes/ocrnet/run_r_101_d_8_asp_ocrnet_train.sh help
CONFIG=configs/cityscapes/resnet101_asp_ocr.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
