#!/bin/sh
# Says what a machine lacks for this project, with the line that installs it. $1: the interpreter;
# $2: gpu for the environment of a machine with an NVIDIA GPU.
set -u
python=$1
missing=0

lacks() {
    echo "missing: $1" >&2
    echo "         $2" >&2
    missing=1
}

if [ "$(uname -s)" != Linux ] || [ "$(uname -m)" != x86_64 ]; then
    lacks "Linux on x86_64 (this is $(uname -s) on $(uname -m))" \
        "The embedded Triton and TensorRT exist for Linux on x86_64; use such a machine."
fi

glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
if [ "$(printf '%s\n2.35\n' "${glibc:-0}" | sort -V | head -n 1)" != 2.35 ]; then
    lacks "glibc 2.35 or newer (this machine has ${glibc:-another C library})" \
        "Use Ubuntu 22.04, Debian 12 or newer."
fi

if ! command -v bash >/dev/null; then
    lacks "bash, through which Triton starts its Python models" "sudo apt-get install bash"
fi

# CUDA 13 runs on every driver from the 580 branch on. The environment may be made elsewhere.
if [ "${2:-}" = gpu ]; then
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
    case ${driver%%.*} in
    '' | *[!0-9]*) echo "note: no NVIDIA GPU answers here (nvidia-smi)" >&2 ;;
    *) [ "${driver%%.*}" -ge 580 ] ||
        lacks "an NVIDIA driver for CUDA 13 (this is $driver)" "Install driver 580 or newer." ;;
    esac
fi

# Distributions name the versions that they have; others have neither.
python_remedy() {
    for version in 3.12 3.11; do
        if apt-cache show "python$version-venv" >/dev/null 2>&1; then
            echo "sudo apt-get install python$version python$version-venv libpython$version"
            return
        fi
    done
    echo "This system's packages have neither: with https://docs.astral.sh/uv" \
        "uv python install 3.12 && make PYTHON=\"\$(uv python find 3.12)\""
}

if [ -z "$python" ] || ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
    lacks "Python 3.11 or 3.12${python:+ ($python is none)}" "$(python_remedy)"
    exit 1
fi

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    lacks "venv for Python $version" "sudo apt-get install python$version-venv"
fi
# The places where the embedded Triton will look: a library of another build would not be taken.
if ! "$python" - <<'EOF'
import sys, sysconfig
from pathlib import Path

name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
folders = [sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib"]
multiarch = sysconfig.get_config_var("MULTIARCH")
if multiarch and sys.base_prefix == "/usr":
    folders += [f"/usr/lib/{multiarch}", f"/lib/{multiarch}"]
sys.exit(not any((Path(folder) / name).is_file() for folder in folders if folder))
EOF
then
    lacks "the shared library of Python $version, which Triton's Python backend loads" \
        "sudo apt-get install libpython$version    (pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install -f $version)"
fi

exit $missing
