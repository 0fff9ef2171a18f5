#!/usr/bin/env bash
# SegFix on HRNeXt-20 (Higher-HRNet) for Cityscapes. Modes: bash scripts/cityscapes/segfix/run_hx_20_d_2_segfix.sh help
# Another backbone needs its own weights: BACKBONE=hrnet18 PRETRAINED_MODEL=./pretrained_model/hrnetv2_w18_imagenet_pretrained.pth
CONFIG=configs/cityscapes/segfix_hrnext20.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
