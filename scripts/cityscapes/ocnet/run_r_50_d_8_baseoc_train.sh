#!/usr/bin/env bash
# Base-OC on ResNet-50, Cityscapes. Modes: bash scripts/cityscapes/ocnet/run_r_50_d_8_baseoc_train.sh help
CONFIG=configs/cityscapes/resnet50_base_oc.yaml
NAME=base_ocnet_deepbase_resnet50_dilated8
DATASET=cityscapes
DATA_FOLDER=cityscapes
PUBLISHED_ID=1
TASK=semantic
SEGFIX_SCALE=2
PRETRAINED_MODEL="${PRETRAINED_MODEL-./pretrained_model/resnet50-imagenet.pth}"
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
