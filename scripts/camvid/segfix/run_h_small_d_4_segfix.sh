#!/usr/bin/env bash
# SegFix on a small HRNet for CamVid, for a CPU. Modes: bash scripts/camvid/segfix/run_h_small_d_4_segfix.sh help
# Another network: BACKBONE=hrnet18 bash scripts/camvid/segfix/run_h_small_d_4_segfix.sh train 1
BACKBONE="${BACKBONE:-hrnet_small}"
CONFIG=configs/camvid/segfix_hrnet_small.yaml
NAME="segfix_${BACKBONE}"
DATASET=camvid
DATA_FOLDER=camvid
PUBLISHED_ID=1
PRETRAINED_MODEL="${PRETRAINED_MODEL-}"
TASK=segfix
OFFSETS="semantic/camvid/offset_${BACKBONE}"
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
