#!/usr/bin/env bash
# SegFix on a small HRNet for CamVid, for a CPU. Modes: bash scripts/camvid/segfix/run_h_small_d_4_segfix.sh help
# Another network: BACKBONE=hrnet18 bash scripts/camvid/segfix/run_h_small_d_4_segfix.sh train 1
CONFIG=configs/camvid/segfix_hrnet_small.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../../launcher.sh"
