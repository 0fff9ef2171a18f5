#!/usr/bin/env bash
# MobileNetV4-Conv-Small + MLP head on CamVid. Modes: bash scripts/camvid/run_mobilenetv4_small.sh help
CONFIG=configs/camvid/mobilenetv4_small_mlp.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
