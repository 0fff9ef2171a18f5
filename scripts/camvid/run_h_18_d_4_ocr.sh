#!/usr/bin/env bash
# HRNet-W18 + OCR on CamVid. Modes: bash scripts/camvid/run_h_18_d_4_ocr.sh help
CONFIG=configs/camvid/hrnet18_ocr.yaml
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
