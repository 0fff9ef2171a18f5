#!/usr/bin/env bash
# A small refiner, learned from rendered images. Modes: bash scripts/refiner/run_unet_small.sh help
CONFIG=configs/refiner/unet_small.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
