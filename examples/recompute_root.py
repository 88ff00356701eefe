"""Compute size and root of a published log from its entries alone: python recompute_root.py DIR

Standard library only. Exits with 0 if they are those of DIR/checkpoint. Signatures are not checked here.
"""

import base64
import hashlib
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])
_, signed_size, signed_root = (folder / "checkpoint").read_text().split("\n")[:3]
size, peaks = 0, []  # peaks: (height, hash) of the full subtrees so far, the largest first


def bundle(number, width):
    """The bytes of 256 entries, or of the last few. In names, all groups of three digits but the last have an x."""
    digits = str(number).zfill(-(-len(str(number)) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    name = "/".join(["x" + group for group in groups[:-1]] + groups[-1:])
    return (folder / "tile" / "entries" / (name if width == 256 else f"{name}.p/{width}")).read_bytes()


for first in range(0, int(signed_size), 256):
    data, at = bundle(first // 256, min(256, int(signed_size) - first)), 0
    while at < len(data):  # each entry after its length in two bytes
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        node, height, at = hashlib.sha256(b"\0" + data[at + 2 : end]).digest(), 0, end
        while peaks and peaks[-1][0] == height:
            node, height = hashlib.sha256(b"\1" + peaks.pop()[1] + node).digest(), height + 1
        peaks.append((height, node))
        size += 1
root = peaks.pop()[1] if peaks else hashlib.sha256(b"").digest()
while peaks:
    root = hashlib.sha256(b"\1" + peaks.pop()[1] + root).digest()
print(size, base64.b64encode(root).decode())
sys.exit(0 if [str(size), base64.b64encode(root).decode()] == [signed_size, signed_root] else "not as signed")
