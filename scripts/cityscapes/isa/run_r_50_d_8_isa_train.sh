#!/usr/bin/env bash
# ISA on ResNet-50, Cityscapes. Modes: bash scripts/cityscapes/isa/run_r_50_d_8_isa_train.sh help
CONFIG=configs/cityscapes/resnet50_isa.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
