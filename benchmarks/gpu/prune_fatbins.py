"""Keep the code for SM90 of every fat binary in a shared library (all of it where there is none).

prune_fatbins.py SOURCE TARGET: the file keeps its size and layout; what is dropped becomes zeros,
which any compressor removes. Kept entries are moved to the front of their fat binary and its size
is set.
"""

import collections
import pathlib
import struct
import sys

src, dst = sys.argv[1:3]
data = bytearray(pathlib.Path(src).read_bytes())
magic, pos, total, kept, bins, none = (
    struct.pack("<I", 0xBA55ED50),
    0,
    collections.Counter(),
    0,
    0,
    0,
)
while (pos := data.find(magic, pos)) >= 0:
    _, version, head, size = struct.unpack_from("<IHHQ", data, pos)
    if (version, head) != (1, 16) or size > len(data) - pos:
        pos += 4
        continue
    at, end, entries = pos + head, pos + head + size, []
    while at < end:
        kind, _, entry_head, payload = struct.unpack_from("<HHIQ", data, at)
        arch = struct.unpack_from("<I", data, at + 28)[0]
        if kind not in (1, 2) or not 40 <= entry_head <= 4096 or at + entry_head + payload > end:
            break
        entries.append((kind, arch, bytes(data[at : at + entry_head + payload])))
        at += entry_head + payload
    if at != end or not entries:
        pos += 4
        continue
    bins += 1
    chosen = [e for e in entries if e[0] == 2 and e[1] == 90]
    if not chosen:
        none += 1
        chosen = entries
    for kind, arch, blob in entries:
        total["ptx" if kind == 1 else "sm", arch] += len(blob)
    body = b"".join(e[2] for e in chosen)
    kept += len(body)
    data[pos + head : end] = body + bytes(size - len(body))
    struct.pack_into("<Q", data, pos + 8, len(body))
    pos = end
pathlib.Path(dst).write_bytes(data)
print(
    f"{bins} fat binaries, {none} without sm_90 (left whole); kept {kept / 2**20:.0f} MiB of",
    {f"{k}_{a}": f"{n / 2**20:.0f} MiB" for (k, a), n in sorted(total.items())},
)
