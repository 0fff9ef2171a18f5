# Read by the launchers in scripts/, by segfix.py and by the preparation programs. Values from the environment win.
# PYTHON: the active environment's python, or that of .venv where scripts/demo.sh made one.
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; fi
fi
DATA_ROOT="${DATA_ROOT:-./data}"
