#!/usr/bin/env bash
# EfficientNet-Lite0 + MLP head, fine-tuned on CamVid. Modes: bash scripts/camvid/run_effnet_lite0_balanced.sh help
CONFIG=configs/camvid/effnet_lite0_balanced.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
