#!/usr/bin/env bash
# The project's own checks: ruff, mypy, the tables of MODEL_ZOO.md, the documentation site, then the whole test suite.
#
#   bash scripts/test.sh [--quick | --lowest] [pytest options]
#
# --quick leaves out what takes longest (for daily work). The environment is the one of scripts/demo.sh. --lowest makes
# the environment .venv-lowest of the lowest versions that requirements.txt allows, and runs the quick tests in it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lowest() { # the quick tests with the lowest versions of what openseg depends on
  local python
  for python in python3.10 python3.11 python3; do command -v "${python}" >/dev/null && break; done
  [ -x .venv-lowest/bin/python ] || "${python}" -m venv .venv-lowest
  sed 's/>=/==/' requirements.txt >.venv-lowest/constraints.txt
  .venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv # pip takes over ten minutes to resolve
  .venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python -c .venv-lowest/constraints.txt -e '.[test]'
  exec .venv-lowest/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" "$@"
}

if [ "${1:-}" = --lowest ]; then
  shift
  lowest "$@"
fi

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
"${PYTHON}" scripts/notebook.py --check
"${PYTHON}" -m mkdocs build --strict --site-dir .venv/site
"${PYTHON}" -m pytest -n 2 --dist loadfile --no-loadscope-reorder ${options[@]+"${options[@]}"} "$@"
