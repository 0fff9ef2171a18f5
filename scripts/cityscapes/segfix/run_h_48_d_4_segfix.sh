#!/usr/bin/env bash
# SegFix on HRNet-W48 for Cityscapes. Modes: bash scripts/cityscapes/segfix/run_h_48_d_4_segfix.sh help
# A lighter network: BACKBONE=hrnet18 PRETRAINED_MODEL=./pretrained_model/hrnetv2_w18_imagenet_pretrained.pth
CONFIG=configs/cityscapes/segfix_hrnet48.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
