# The modes of every launcher. A launcher sets CONFIG and sources this file, which then runs the mode given on the
# command line. All facts are those of the config: name, task, data.dataset, model.backbone and its section published.
# They are read by text, without starting Python, so each of these keys stands on one line with its value.
#
# The environment may name PRETRAINED_MODEL (empty: random weights), and of SegFix the BACKBONE.
#
# Everything after the mode's own arguments goes to main.py or segfix.py as it is, e.g. train.max_iters=100.
set -euo pipefail
unset CDPATH # or cd would print

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
launcher="$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)/$(basename "${BASH_SOURCE[1]}")"
launcher="${launcher#"${root}"/}"
cd "${root}"
source config.profile

fact() { # the first value of a key
  sed -E 's/(^| )#.*//' "${CONFIG}" | sed -nE "s/^(.*[{, ])?$1: *\"?([^],}\"]*[^],}\" ]).*/\\2/p" | head -n 1
}

NAME="$(fact name)" DATASET="$(fact dataset)" TASK="$(fact task)" OFFSETS="$(fact offsets)"
TASK="${TASK:-semantic}"
PUBLISHED_ID="$(fact id)"
PUBLISHED_ID="${PUBLISHED_ID:-1}"
PRETRAINED_MODEL="${PRETRAINED_MODEL-$(fact pretrained)}"
SEGFIX_SCALE="$(fact segfix_scale)" # empty: the dataset has no such mode
SEGFIX_OPTIONS="$(fact segfix_options)"
if [ "${TASK}" = segfix ]; then
  backbone="$(fact backbone)"
  BACKBONE="${BACKBONE:-${backbone}}"
  NAME="${NAME//"${backbone}"/"${BACKBONE}"}" OFFSETS="${OFFSETS//"${backbone}"/"${BACKBONE}"}"
fi

usage() {
  echo "usage: bash ${launcher} MODE [ID] [...]"
  echo
  echo "  train ID [key=value ...]         train; refuses to overwrite checkpoints/${DATASET}/${NAME}_<ID>_latest.pth"
  echo "  resume ID [key=value ...]        continue an interrupted training"
  if [ "${TASK}" = semantic ]; then
    echo "  val ID [ss|ms] [key=value ...]   predict and score the validation split (ms: multi-scale with flipping)"
    echo "  test ID [ss|ms] [key=value ...]  predict the test split"
    if [ -n "${SEGFIX_SCALE}" ]; then
      echo "  segfix ID [val|test] [...]       refine the labels of val or test with SegFix offsets"
    fi
  elif [ "${TASK}" = segfix ]; then
    echo "  segfix_pred_val ID [file] [...]  predict the offsets of the validation split (with another checkpoint file)"
    echo "  segfix_pred_test ID [...]        predict the offsets of the test split"
    echo "  segfix_simple_pred_val ID [...]  the same, without sliding windows"
    echo "  segfix_simple_pred_test ID [...]"
  else
    echo "  refine ID LABELS IMAGES [...]    refine the label maps in a folder"
  fi
  echo "  help                             show this"
  echo
  echo "--dry-run prints the command instead of running it."
  echo
  echo "ID names one run of the config: ${PUBLISHED_ID} for a published file, which goes to checkpoints/${DATASET}/ or"
  echo "~/checkpoints/${DATASET}/. The config is ${CONFIG}, datasets are in ${DATA_ROOT}."
  echo "Set PYTHON and DATA_ROOT in config.profile or the environment."
  echo "All GPUs that are visible are used; NPROC, NNODES, RDZV_ENDPOINT and MAX_RESTARTS are explained in docs/training.md."
}

fail() {
  echo "error: $*" >&2
  exit 2
}

mode="${1:-help}"
case "${mode}" in
  help | -h | --help) usage; exit 0 ;;
esac
[ $# -ge 2 ] || fail "mode ${mode} needs an ID, for example: bash ${launcher} ${mode} ${PUBLISHED_ID}"
id="$2"
shift 2
dry_run=no
given=()
for argument in "$@"; do
  if [ "${argument}" = --dry-run ]; then dry_run=yes; else given+=("${argument}"); fi
done
set -- ${given[@]+"${given[@]}"}

processes() { # of this machine: $NPROC, or one for each GPU that is visible
  if [ -n "${NPROC:-}" ]; then
    echo "${NPROC}"
  elif [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    tr -s , '\n' <<<"${CUDA_VISIBLE_DEVICES}" | grep -c . || true
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi -L 2>/dev/null | grep -c ^GPU || true
  else
    echo 1
  fi
}

start() { # exec: signals of a job scheduler and exit codes are the program's own
  if [ "${dry_run}" = yes ]; then
    printf '%q ' "$@"
    echo
  else
    exec "$@"
  fi
}

run_main() {
  local command="$1" count start=("${PYTHON}")
  shift
  count="$(processes)"
  [[ "${count}" =~ ^[0-9]+$ ]] || fail "NPROC=${count} is not a number of processes"
  if [ "${NNODES:-1}" != 1 ]; then
    [ -n "${RDZV_ENDPOINT:-}" ] || fail "NNODES=${NNODES} needs RDZV_ENDPOINT=<host>:<port> of one of the nodes (docs/training.md)"
    start+=(-m torch.distributed.run --nnodes "${NNODES}" --rdzv-backend c10d --rdzv-endpoint "${RDZV_ENDPOINT}"
      --rdzv-id "${RDZV_ID:-${NAME}_${id}}")
  elif [ "${count}" -gt 1 ]; then
    start+=(-m torch.distributed.run --standalone)
  fi
  if [ ${#start[@]} -gt 1 ]; then
    if [ "${count}" -lt 1 ]; then count=1; fi
    start+=(--nproc-per-node "${count}" --max-restarts "${MAX_RESTARTS:-0}")
    # or processes that are started again may read the addresses of those before (PyTorch issue 135712)
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
  fi
  start "${start[@]}" main.py "${command}" --config "${CONFIG}" "${overrides[@]}" "$@"
}

predict() { # val or test, with the scale mode that may come first
  local command="$1" scales=ss
  shift
  case "${1:-}" in
    ss | ms) scales="$1"; shift ;;
  esac
  run_main "${command}" --mode "${scales}" "$@"
}

offsets() { # a split, a suffix of the folder; then a checkpoint file may come
  local options=(--split "$1" --out "offset_pred/$1/${OFFSETS}$2")
  if [ -n "$2" ]; then options+=(test.window=null); fi
  shift 2
  case "${1:--}" in
    -* | *=*) ;;
    *) options+=(--checkpoint "$1"); shift ;;
  esac
  run_main offsets "${options[@]}" "$@"
}

overrides=("name=${NAME}_${id}" "data.root='${DATA_ROOT//\'/\'\'}'")
if [ "${TASK}" = segfix ]; then overrides+=("model.backbone=${BACKBONE}"); fi
case " $* " in
  *" --weights"*) PRETRAINED_MODEL= ;; # they hold the backbone too
esac
if [ -n "${PRETRAINED_MODEL:-}" ] && [ "${mode}" = train ]; then
  [ -f "${PRETRAINED_MODEL}" ] || [ "${dry_run}" = yes ] || fail "ImageNet weights ${PRETRAINED_MODEL} are not there; put them there (pretrained_model/README.md), or start from random weights: PRETRAINED_MODEL= bash ${launcher} train ${id}"
  overrides+=("model.pretrained='${PRETRAINED_MODEL//\'/\'\'}'")
fi

result="${DATA_ROOT}/seg_result/${DATASET}/${NAME}_${id}"
case "${TASK}:${mode}" in
  *:train | *:resume) run_main "${mode}" "$@" ;;
  semantic:val | semantic:test) predict "${mode}" "$@" ;;
  semantic:segfix)
    [ -n "${SEGFIX_SCALE}" ] || fail "there is no SegFix network of ${DATASET}; see docs/segfix.md for how to train one"
    split=val
    case "${1:--}" in
      -*) ;;
      *) split="$1"; shift ;;
    esac
    case "${split}" in
      val) labels="${result}_val/label" ;;
      test) labels="${result}_test_ss/label" ;;
      *) fail "segfix ${id} takes val or test, not ${split}" ;;
    esac
    [ -d "${labels}" ] || [ "${dry_run}" = yes ] || fail "no labels in ${labels}; make them with: bash ${launcher} ${split} ${id}"
    start "${PYTHON}" segfix.py --input "${labels}" --split "${split}" --dataset "${DATASET}" --scale "${SEGFIX_SCALE}" \
      ${SEGFIX_OPTIONS:-} "$@" # several words
    ;;
  segfix:segfix_pred_val) offsets val "" "$@" ;;
  segfix:segfix_pred_test) offsets test "" "$@" ;;
  segfix:segfix_simple_pred_val) offsets val _simple "$@" ;;
  segfix:segfix_simple_pred_test) offsets test _simple "$@" ;;
  refiner:refine)
    [ $# -ge 2 ] || fail "refine ${id} takes a folder of label maps and one of images"
    labels="$1" images="$2"
    shift 2
    start "${PYTHON}" segfix.py --input "${labels}" --images "${images}" \
      --checkpoint "checkpoints/${DATASET}/${NAME}_${id}_latest.pth" "$@"
    ;;
  *)
    usage >&2
    fail "unknown mode ${mode}"
    ;;
esac
