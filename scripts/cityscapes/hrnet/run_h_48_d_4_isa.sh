#!/usr/bin/env bash
# HRNet-W48 + ISA on Cityscapes. Modes: bash scripts/cityscapes/hrnet/run_h_48_d_4_isa.sh help
CONFIG=configs/cityscapes/hrnet48_isa.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
