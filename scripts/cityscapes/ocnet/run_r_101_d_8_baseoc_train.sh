#!/usr/bin/env bash
# Base-OC on ResNet-101, Cityscapes. Modes: bash scripts/cityscapes/ocnet/run_r_101_d_8_baseoc_train.sh help
CONFIG=configs/cityscapes/resnet101_base_oc.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
