#!/usr/bin/env bash
# The whole path on rendered streets: train HRNet + OCR, validate, train SegFix, refine the labels, compare.
#
#   bash scripts/demo.sh [--seed N] [--quick]
#
# Needs no data and no GPU (uses one when there is one). Everything goes to runs/demo/seed_<N>; run it again after
# Ctrl-C and it continues; remove that folder to start over. --quick only shows that every step runs (a minute or two,
# tiny images, poor scores); it goes to runs/demo/quick_<N>.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

seed=1 kind=seed scenes=() shrink=()
while [ $# -gt 0 ]; do
  case "$1" in
    --seed) seed="${2:?--seed needs a number}"; shift 2 ;;
    --quick)
      kind=quick
      scenes=(--train 8 --val 4 --size 128 256)
      shrink=("train.max_iters=20" "train.batch_size=2" "augment.crop_size=[96,128]")
      shift
      ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; echo "error: unknown option $1" >&2; exit 2 ;;
  esac
done

source scripts/setup.sh
setup_environment
trap 'status=$?; [ ${status} -eq 0 ] || echo "stopped; run the same command again to continue" >&2' EXIT

# Half the time on a CPU that computes in bf16; a GPU needs no help.
precision=fp32
if grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo; then precision=bf16; fi

work="runs/demo/${kind}_${seed}"
data="${work}/data"
labels="${data}/seg_result/demo/hrnet_tiny_ocr_val/label"
started=${SECONDS}

run() {
  echo
  echo "[$((SECONDS - started)) s] $*"
  "${PYTHON}" "$@"
}

train() { # train a config, or go on with one that was interrupted
  local config="$1" name="$2" mode=train
  if [ -f "${work}/checkpoints/demo/${name}_latest.pth" ]; then mode=resume; fi
  run main.py "${mode}" --config "${config}" --checkpoints "${work}/checkpoints" --runs "${work}/tensorboard" \
    "data.root=${data}" "train.seed=${seed}" "train.precision=${precision}" ${shrink[@]+"${shrink[@]}"}
}

run lib/datasets/preprocess/demo/demo_generator.py --out "${data}" --seed "${seed}" ${scenes[@]+"${scenes[@]}"}
train configs/demo/hrnet_tiny_ocr.yaml hrnet_tiny_ocr
run main.py val --config configs/demo/hrnet_tiny_ocr.yaml --checkpoints "${work}/checkpoints" "data.root=${data}"
run lib/datasets/preprocess/cityscapes/dt_offset_generator.py --datadir "${data}/demo"
train configs/demo/segfix_hrnet_tiny.yaml segfix_hrnet_tiny
run main.py offsets --config configs/demo/segfix_hrnet_tiny.yaml --checkpoints "${work}/checkpoints" \
  --out "${work}/offsets" "data.root=${data}"
run segfix.py --input "${labels}" --offset "${work}/offsets" --dataset demo --data-root "${data}" --scale 1 --min-confidence 0.4 \
  --figures 3

echo
echo "The demo took $((SECONDS - started)) s. Worth a look:"
echo "  images of before and after   ${labels}_w_segfix_figures/"
echo "  rendered scenes                ${data}/demo/val/image/"
echo "  training curves                tensorboard --logdir ${work}/tensorboard"
