#!/usr/bin/env bash
# Frozen EfficientNet-Lite0 + MLP head on CamVid. Modes: bash scripts/camvid/run_effnet_lite0_fast.sh help
CONFIG=configs/camvid/effnet_lite0_fast.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
