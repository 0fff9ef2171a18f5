#!/usr/bin/env bash
# Base-OC on ResNet-50, Cityscapes. Modes: bash scripts/cityscapes/ocnet/run_r_50_d_8_baseoc_train.sh help
CONFIG=configs/cityscapes/resnet50_base_oc.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
