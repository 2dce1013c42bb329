"""A wheel beside the torch that its users have: doctor, a short training, the op tests, OpenMP.

HOTLOOP_TORCH_SITE=2.14.1=/site-packages borrows torch of that version, with hotloop's other requirements,
from another environment instead of installing it: a torch for CUDA takes gigabytes.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fresh_environment import CONSTRAINTS, ROOT, FreshEnvironment

PYTHON = f"{sys.version_info[0]}{sys.version_info[1]}"
OLDEST, NEWEST = "2.13.0", "2.14.1"
EXTRAS = (
    "gymnasium", "hypothesis", "matplotlib", "pillow", "pytest", "pyyaml", "rich", "tensorboard", "tyro",
)  # fmt: skip

THREADS = """
import os, sys
{imports}
import torch
from hotloop import _core, ops
paths = {{line.split()[-1] for line in open("/proc/self/maps") if "/" in line}}
names = ("libgomp", "libiomp", "libomp")
print(len([path for path in paths if any(name in path.rsplit("/", 1)[-1] for name in names)]))
x = torch.rand(4096, 128)
def grown(threads):
    torch.set_num_threads(threads)
    before = len(os.listdir("/proc/self/task"))
    ops.gae(x, x, x > 0.99, last_values=x[:, 0].contiguous(), gamma=0.99, gae_lambda=0.95)
    return len(os.listdir("/proc/self/task")) - before
print(grown(1), _core.openmp_max_threads(), grown(3), _core.openmp_max_threads())
"""


def borrowed(version: str) -> Path | None:
    named, _, site = os.environ.get("HOTLOOP_TORCH_SITE", "").partition("=")
    return Path(site) if named == version else None


@pytest.fixture(
    scope="module", params=[OLDEST, pytest.param(NEWEST, marks=pytest.mark.slow)], ids=lambda v: f"torch {v}"
)
def installed(
    request: pytest.FixtureRequest, wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FreshEnvironment]:
    if PYTHON not in wheels:
        pytest.fail(f"no wheel for this Python, {PYTHON}")
    version = request.param
    folder = tmp_path_factory.mktemp("beside-torch")
    environment = FreshEnvironment(Path(sys.executable), folder)
    site = borrowed(version)
    constraints = folder / "constraints.txt"
    constraints.write_text(
        re.sub(r"^torch==.*$", f"torch=={version}", CONSTRAINTS.read_text(), flags=re.MULTILINE)
    )
    if site is not None:
        own = environment.evaluate("import sysconfig; print(sysconfig.get_path('purelib'))")
        # plain paths in a .pth file come after the environment's own packages
        Path(own, "borrowed.pth").write_text(f"{site}\n")
        assert environment.evaluate("import torch; print(torch.__version__)").startswith(version)
        # whatever lies there already, a hotloop among it
        environment.install("--no-deps", "--ignore-installed", wheels[PYTHON])
        # what the extras bring, of which nothing needs torch
        environment.install("-c", constraints, *EXTRAS)
    else:
        environment.install("-c", constraints, f"{wheels[PYTHON]}[test]")
    yield environment
    shutil.rmtree(folder)


def test_it_is_the_wheel_that_is_imported(installed: FreshEnvironment) -> None:
    told = installed.evaluate(
        "import hotloop, importlib.metadata as m; from hotloop import _core; "
        "print(_core.__file__, hotloop.__version__, _core.build_info()['version'], m.version('hotloop'))"
    ).split()
    assert Path(told[0]).is_relative_to(installed.scripts.parent)
    assert len(set(told[1:])) == 1


def test_doctor_is_content(installed: FreshEnvironment) -> None:
    report = installed.run(installed.scripts / "hotloop", "doctor")
    assert "Training on the CPU can work." in report
    assert "self test             passed" in report


def test_a_short_training(installed: FreshEnvironment) -> None:
    installed.run(
        installed.scripts / "hotloop", "train", "--env", "CartPole-v1", "--total-timesteps", "20000",
        "--seed", "1", "--run-dir", "runs/short",
    )  # fmt: skip
    with (installed.elsewhere / "runs/short/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["agent_steps"]) >= 20000
    assert float(rows[-1]["episode_return_mean"]) > 30  # a random policy keeps the pole up for about 22 steps
    assert (installed.elsewhere / "runs/short/checkpoint.pt").exists()


@pytest.mark.parametrize(
    "imports",
    [
        "import torch, hotloop",
        "import hotloop, torch",
        "from hotloop import _core",
        "from hotloop import ops",
    ],
)
def test_one_openmp_runtime_and_one_thread_where_one_is_asked_for(
    installed: FreshEnvironment, imports: str
) -> None:
    runtimes, threads = installed.evaluate(THREADS.format(imports=imports)).splitlines()
    assert runtimes == "1"
    assert threads.split() == ["0", "1", "2", "3"]  # threads that a call added, threads it may use


def test_the_op_tests_pass(installed: FreshEnvironment) -> None:
    stems = {path.stem.removeprefix("bind_") for path in (ROOT / "csrc").glob("*/*.cpp")}
    names = sorted(f"test_{stem}.py" for stem in stems if (ROOT / f"tests/test_{stem}.py").exists())
    names += ["test_tensor_boundary.py", "test_exchange_api.py", "test_runtime.py", "test_core_stub.py"]
    assert len(names) > 25
    tests = installed.elsewhere / "tests"
    tests.mkdir(exist_ok=True)
    for path in (ROOT / "tests").glob("*.py"):
        shutil.copy(path, tests)
    shutil.copy(ROOT / "pyproject.toml", installed.elsewhere)
    # readelf reads the module in test_runtime.py: no compiler, but not Python's either
    readelf = shutil.which("readelf")
    path = f"{installed.scripts}"
    if readelf is not None:
        tools = installed.elsewhere / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "readelf").symlink_to(readelf)
        path += os.pathsep + str(tools)
    output = installed.run(
        installed.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow",
        # it compiles an allocator of its own
        "--deselect", "tests/test_freed_memory.py::test_another_allocator_is_left_alone",
        *(f"tests/{name}" for name in dict.fromkeys(names)), PATH=path,
    )  # fmt: skip
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None
    assert int(passed[1]) > 500, output
    print(output.splitlines()[-1])
