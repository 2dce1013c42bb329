"""Runs the tests of the integrations beside their hosts, each in an environment of its own (`make
test-peers`).

    python tools/test_hosts.py [host ...] [-- pytest arguments]

A test that would skip because its host is missing fails here.
"""

from __future__ import annotations

import os
import subprocess
import sys

from host_environment import ROOT, hosts, make


def main(arguments: list[str]) -> int:
    split = arguments.index("--") if "--" in arguments else len(arguments)
    chosen, rest = arguments[:split] or hosts(), arguments[split + 1 :]
    failed = []
    for host in chosen:
        print(f"\n== {host}", flush=True)
        page = f"docs/integrations/{host}.md"
        files = sorted((ROOT / "tests" / "hosts").glob(f"test_{host}*.py"))
        tests = [str(file.relative_to(ROOT)) for file in files]
        if (ROOT / page).exists():  # what it shows runs too
            tests.append(f"tests/test_docs_blocks.py::test_python_blocks_run[{page}]")
        command = [str(make(host)), "-m", "pytest", "-q", *tests, *rest]
        env = {**os.environ, "HOTLOOP_HOST": host}
        if subprocess.run(command, cwd=ROOT, env=env, check=False).returncode:
            failed.append(host)
    told = f", failed: {', '.join(failed)}" if failed else ""
    print(f"\n{len(chosen) - len(failed)} of {len(chosen)} hosts passed{told}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
