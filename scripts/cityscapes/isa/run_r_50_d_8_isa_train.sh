#!/usr/bin/env bash
# ISA on ResNet-50, Cityscapes. Modes: bash scripts/cityscapes/isa/run_r_50_d_8_isa_train.sh help
CONFIG=configs/cityscapes/resnet50_isa.yaml
NAME=isanet_deepbase_resnet50_dilated8
DATASET=cityscapes
DATA_FOLDER=cityscapes
PUBLISHED_ID=1
TASK=semantic
SEGFIX_SCALE=2
PRETRAINED_MODEL="${PRETRAINED_MODEL-./pretrained_model/resnet50-imagenet.pth}"
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
