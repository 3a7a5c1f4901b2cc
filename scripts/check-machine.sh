#!/bin/sh
# Says what a machine lacks for this project, with the line that installs it. $1: the interpreter.
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
if [ -n "$glibc" ] && [ "$(printf '%s\n2.35\n' "$glibc" | sort -V | head -n 1)" != 2.35 ]; then
    lacks "glibc 2.35 or newer (this machine has $glibc)" \
        "Use Ubuntu 22.04, Debian 12 or newer."
fi

if [ -z "$python" ] || ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))'; then
    lacks "Python 3.11 or 3.12" \
        "sudo apt-get install python3 python3-venv    (or: make PYTHON=/path/to/python3.11)"
    exit 1
fi

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    lacks "venv for Python $version" "sudo apt-get install python$version-venv"
fi
if ! "$python" - <<'EOF'
import ctypes, sys, sysconfig
from pathlib import Path

name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
if (Path(sysconfig.get_config_var("LIBDIR") or "/") / name).exists():
    sys.exit(0)
try:
    ctypes.CDLL(name)
except OSError:
    sys.exit(1)
EOF
then
    lacks "the shared library of Python $version, which Triton's Python backend loads" \
        "sudo apt-get install libpython$version    (pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install -f $version)"
fi

exit $missing
