#!/usr/bin/env bash
# SegFix on HRNet-W48 for Cityscapes, trained on train + val. Modes: bash scripts/cityscapes/segfix/run_h_48_d_4_segfix_trainval.sh help
# Another backbone needs its own weights: BACKBONE=hrnet18 PRETRAINED_MODEL=./pretrained_model/hrnetv2_w18_imagenet_pretrained.pth
CONFIG=configs/cityscapes/segfix_hrnet48_trainval.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
