#!/usr/bin/env bash
# SegFix on HRNet-W18 for CamVid. Modes: bash scripts/camvid/segfix/run_h_18_d_4_segfix.sh help
CONFIG=configs/camvid/segfix_hrnet18.yaml
NAME=segfix_hrnet18
DATASET=camvid
TASK=segfix
OFFSETS=semantic/camvid/offset_hrnet18
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
