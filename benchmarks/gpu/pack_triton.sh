#!/usr/bin/env bash
# The embedded Triton and what `ctclip_server` and `ctclip_client` import, for a machine that has Python 3.12
# with torch, but no package index: downloads the wheels, drops what is not used there, packs it (about 30 MiB).
#
#   pack_triton.sh OUT.tar.xz        versions: those of constraints.txt
#
# There: tar -xJf OUT.tar.xz -C DIR; PYTHONPATH=DIR:…, and CTCLIP_STUB_PATH=DIR/stub for the NumPy before 2 that
# Triton's Python stubs need, and other packages there cannot be imported with.
set -euo pipefail
out=$(realpath -m "${1:?OUT.tar.xz}")
pinned=$(cd "$(dirname "$0")/../.." && pwd)/constraints.txt
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
names=(nvidia-pytriton tritonclient python-rapidjson protobuf grpcio numpy nibabel psutil)
wanted=(); for name in "${names[@]}"; do wanted+=("$(grep -m 1 "^$name==" "$pinned")"); done
platforms=(); for glibc in 2_12 2_17 2_24 2_27 2_28 2_34 2_35; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
pip download -q --no-deps --only-binary=:all: --python-version 3.12 "${platforms[@]}" \
    --platform manylinux2010_x86_64 --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --platform any \
    -d "$work" "${wanted[@]}"
mkdir "$work/x" && cd "$work/x"
for wheel in "$work"/*.whl; do python3 -m zipfile -e "$wheel" .; done
chmod +x pytriton/tritonserver/bin/tritonserver pytriton/tritonserver/python_backend_stubs/3.12/*
# Of pytriton the binary alone is used; its libpython is that of another Python, which nothing links.
find pytriton -mindepth 1 -maxdepth 1 ! -name tritonserver -exec rm -r {} +
touch pytriton/__init__.py
find pytriton/tritonserver/python_backend_stubs -mindepth 1 -maxdepth 1 ! -name 3.12 -exec rm -r {} +
rm nvidia_pytriton.libs/libpython3*
# ICU's tables, 29 MB that only XML in odd encodings needs: zeros, which take no place in the archive.
icu=$(echo nvidia_pytriton.libs/libicudata*)
read -r offset length < <(readelf -SW "$icu" | sed -n 's/^ *\[ *[0-9]*\] \.rodata  *PROGBITS  *[0-9a-f]*  *\([0-9a-f]*\) \([0-9a-f]*\) .*/\1 \2/p')
head -c $((16#$length)) /dev/zero | dd of="$icu" bs=64K oflag=seek_bytes seek=$((16#$offset)) conv=notrunc status=none
find . -type d \( -name tests -o -name test \) -prune -exec rm -r {} +
find . \( -name '*.pyi' -o -name '*.h' -o -name '*.a' \) -delete
rm -rf tritonclient/http tritonhttpclient tritongrpcclient tritonshmutils tritonclientutils ./*.data numpy/{f2py,distutils}
mkdir stub && mv numpy numpy.libs numpy-*.dist-info stub
mkdir -p "$(dirname "$out")" && tar -cf - * | xz -T2 -6 >"$out"
ls -la "$out"
