# The modes of every launcher. A launcher sets NAME (the experiment's checkpoint name without its id), CONFIG and
# sources this file, which then runs the mode given on the command line:
#
#   CONFIG            experiment file
#   NAME              checkpoints are checkpoints/<dataset>/${NAME}_<id>_latest.pth
#   DATASET           folder below $DATA_ROOT
#   TASK              semantic or segfix
#   BACKBONE          another backbone than the experiment's (optional)
#   PRETRAINED_MODEL  ImageNet weights of the backbone, for train (optional; empty: random weights)
#   SEGFIX_SCALE      pixels a step of the segfix mode (default 2)
#
# Everything after the mode's own arguments goes to main.py or segfix.py as it is, e.g. train.max_iters=100.
set -euo pipefail

caller="${BASH_SOURCE[1]}"
launcher="scripts/${caller#*scripts/}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source config.profile

usage() {
  echo "usage: bash ${launcher} MODE [ID] [...]"
  echo
  echo "  train ID [key=value ...]      train; refuses to overwrite checkpoints/${DATASET}/${NAME}_<ID>_latest.pth"
  echo "  resume ID [key=value ...]     continue an interrupted training"
  if [ "${TASK}" = semantic ]; then
    echo "  val ID [key=value ...]        predict and score the validation split, single scale"
    echo "  test ID [ss] [key=value ...]  predict \$DATA_ROOT/${DATASET}/test, single scale"
    echo "  segfix ID [val|test] [...]    sharpen the labels of val or test with SegFix offsets"
  else
    echo "  segfix_pred_val ID [...]      predict the offsets of the validation split"
    echo "  segfix_pred_test ID [...]     predict the offsets of the test split"
  fi
  echo "  help                          show this"
  echo
  echo "ID names one run of the experiment: 1 for a published file, which goes to checkpoints/${DATASET}/ or"
  echo "~/checkpoints/${DATASET}/. The experiment is ${CONFIG}, the data is \$DATA_ROOT/${DATASET}"
  echo "(now ${DATA_ROOT}/${DATASET}). Set PYTHON and DATA_ROOT in config.profile or the environment."
}

fail() {
  echo "error: $*" >&2
  exit 2
}

mode="${1:-help}"
case "${mode}" in
  help | -h | --help) usage; exit 0 ;;
esac
[ $# -ge 2 ] || fail "mode ${mode} needs an ID, for example: bash ${launcher} ${mode} 1"
id="$2"
shift 2

run_main() {
  local command="$1"
  shift
  "${PYTHON}" main.py "${command}" --config "${CONFIG}" "${overrides[@]}" "$@"
}

overrides=("name=${NAME}_${id}" "data.root=${DATA_ROOT}")
if [ -n "${BACKBONE:-}" ]; then overrides+=("model.backbone=${BACKBONE}"); fi
if [ -n "${PRETRAINED_MODEL:-}" ] && [ "${mode}" = train ]; then
  [ -f "${PRETRAINED_MODEL}" ] || fail "ImageNet weights ${PRETRAINED_MODEL} are not there; put them there (pretrained_model/README.md), or start from random weights: PRETRAINED_MODEL= bash ${launcher} train ${id}"
  overrides+=("model.pretrained=${PRETRAINED_MODEL}")
fi

result="${DATA_ROOT}/seg_result/${DATASET}/${NAME}_${id}"
case "${TASK}:${mode}" in
  *:train | *:resume) run_main "${mode}" "$@" ;;
  semantic:val) run_main val "$@" ;;
  semantic:test)
    if [ "${1:-ss}" = ms ]; then fail "multi-scale testing is not available yet; use: bash ${launcher} test ${id} ss"; fi
    if [ "${1:-}" = ss ]; then shift; fi
    run_main test "$@"
    ;;
  semantic:segfix)
    split="${1:-val}"
    if [ $# -gt 0 ]; then shift; fi
    case "${split}" in
      val) labels="${result}_val/label" ;;
      test) labels="${result}_test_ss/label" ;;
      *) fail "segfix ${id} takes val or test, not ${split}" ;;
    esac
    [ -d "${labels}" ] || fail "no labels in ${labels}; make them with: bash ${launcher} ${split} ${id}"
    "${PYTHON}" segfix.py --input "${labels}" --split "${split}" --dataset "${DATASET}" --scale "${SEGFIX_SCALE:-2}" "$@"
    ;;
  segfix:segfix_pred_val) run_main offsets --split val "$@" ;;
  segfix:segfix_pred_test) run_main offsets --split test "$@" ;;
  *)
    usage >&2
    fail "unknown mode ${mode}"
    ;;
esac
