"""An atheris (libFuzzer) target for the native boundary: the cases of tests/boundary_fuzz.py, chosen by
libFuzzer, which steers towards code that was not reached before.

It needs `pip install atheris` (CPython 3.11 to 3.13 on Linux). Only of the Python code is coverage measured:
the native module is built by whatever compiler there is, with clang or without.

usage: python tools/fuzz_atheris.py [libFuzzer's options, such as -runs=100000 or -max_total_time=60] [CORPUS]
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
warnings.simplefilter("ignore")

with atheris.instrument_imports(include=["hotloop"]):
    import hotloop.ops  # noqa: F401

import torch  # noqa: E402

from boundary_fuzz import corpus, run_case  # noqa: E402

torch.set_num_threads(1)
CALLS = corpus()


def one_case(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    run_case(CALLS, lambda n: provider.ConsumeIntInRange(0, n - 1))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_case)
    atheris.Fuzz()
