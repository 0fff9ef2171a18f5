#!/usr/bin/env bash
# ISA on ResNet-101, Cityscapes. Modes: bash scripts/cityscapes/isa/run_r_101_d_8_isa_train.sh help
CONFIG=configs/cityscapes/resnet101_isa.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
