"""Fails where a kernel object compiled for AVX could leak code into the baseline.

The linker merges functions of the same name from different objects and keeps any one of them. If an inline
function or template outside the instruction-set namespaces were compiled into an AVX-512 object, the baseline
path could run that copy and crash on an older processor. So the AVX objects may define nothing but symbols of
their own namespace.

usage: python tools/check_isa_symbols.py [folder of objects]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def leaks(path: Path, isa: str) -> list[str]:
    command = ["nm", "-C", "--defined-only", str(path)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = []
    for line in listing.splitlines():
        kind, name = line.split(maxsplit=2)[1:]
        # capitals are visible to the linker; weak ones (W, V, u) are what it merges
        if kind in "TWVuDBR" and f"hotloop::{isa}::" not in name and name != "DW.ref.__gxx_personality_v0":
            found.append(f"{path.name}: {kind} {name}")
    return found


def main(folder: Path) -> int:
    objects = [(path, path.name.split(".")[-2]) for path in sorted(folder.rglob("*.*.o"))]
    wide = [(path, isa) for path, isa in objects if isa != "baseline"]
    if not wide:
        print(f"check_isa_symbols: no per-instruction-set objects under {folder}: build in place first")
        return 1
    problems = [leak for path, isa in wide for leak in leaks(path, isa)]
    print("\n".join(problems) if problems else f"check_isa_symbols: {len(wide)} objects, no symbol can leak")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "build")))
