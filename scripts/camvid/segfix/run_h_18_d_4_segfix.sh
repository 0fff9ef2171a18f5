#!/usr/bin/env bash
# SegFix on HRNet-W18 for CamVid. Modes: bash scripts/camvid/segfix/run_h_18_d_4_segfix.sh help
BACKBONE="${BACKBONE:-hrnet18}"
CONFIG=configs/camvid/segfix_hrnet18.yaml
NAME="segfix_${BACKBONE}"
DATASET=camvid
DATA_FOLDER=camvid
PUBLISHED_ID=1
PRETRAINED_MODEL="${PRETRAINED_MODEL-}"
TASK=segfix
OFFSETS="semantic/camvid/offset_${BACKBONE}"
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
