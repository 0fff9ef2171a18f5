# Read by every launcher in scripts/ and by segfix.py. Values from the environment win.
PYTHON="${PYTHON:-python}"
DATA_ROOT="${DATA_ROOT:-./data}"
