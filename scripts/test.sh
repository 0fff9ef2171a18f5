#!/usr/bin/env bash
# The project's own checks: ruff, mypy, the tables of MODEL_ZOO.md, then the whole test suite.
#
#   bash scripts/test.sh [--quick] [pytest options]
#
# --quick leaves out what takes longest (for daily work). The environment is the one of scripts/demo.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

options=()
if [ "${1:-}" = --quick ]; then
  options=(-m "not slow")
  shift
fi

source scripts/setup.sh
setup_environment test
"${PYTHON}" -m ruff check .
"${PYTHON}" -m ruff format --check .
"${PYTHON}" -m mypy
"${PYTHON}" scripts/model_zoo.py --check
"${PYTHON}" -m pytest -n 2 --dist loadfile --no-loadscope-reorder ${options[@]+"${options[@]}"} "$@"
