# Sourced by demo.sh and test.sh: leaves PYTHON pointing at an environment in which openseg is installed. That is the
# active virtual environment, or else .venv, made here. An installation is done again only when what it installs
# changed. "setup_environment test" adds the test extra.

setup_environment() {
  local extra="${1:-}" target base stamp wanted
  if [ -n "${VIRTUAL_ENV:-}" ]; then
    PYTHON="${VIRTUAL_ENV}/bin/python"
  elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then
    PYTHON="${CONDA_PREFIX}/bin/python"
  else
    PYTHON=.venv/bin/python
    [ -x "${PYTHON}" ] && "${PYTHON}" -m pip --version >/dev/null 2>&1 || make_venv
  fi
  PYTHON="$(cd "$(dirname "${PYTHON}")" && pwd)/$(basename "${PYTHON}")"
  export PYTHON
  target=".${extra:+[${extra}]}"
  base="$(dirname "$(dirname "${PYTHON}")")/.openseg-installed"
  stamp="${base}${extra:+-${extra}}"
  wanted="$(pwd) $(cat pyproject.toml requirements.txt | cksum)"
  if [ "$(cat "${stamp}" 2>/dev/null)" = "${wanted}" ]; then return; fi
  echo "installing openseg ${target} into ${PYTHON%/bin/python} (PyTorch is large, this takes minutes)"
  "${PYTHON}" -m pip install --quiet --disable-pip-version-check --editable "${target}" || {
    echo "error: the installation failed, see above; fix it and run again" >&2
    exit 2
  }
  echo "${wanted}" >"${base}" # an extra includes the base
  echo "${wanted}" >"${stamp}"
}

make_venv() {
  local candidate
  for candidate in python3 python python3.13 python3.12 python3.11 python3.10; do
    if "${candidate}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      "${candidate}" -m venv --clear .venv || {
        echo "error: ${candidate} -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 2
      }
      return
    fi
  done
  echo "error: no Python >= 3.10 found" >&2
  exit 2
}
