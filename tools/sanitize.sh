#!/usr/bin/env bash
# Runs the tests that bear the name of a native source file, those of the tensor boundary and of what estimators
# share, on a build with AddressSanitizer and UndefinedBehaviorSanitizer: on the CPU, and where an op has CUDA kernels
# on those too, under the host runner. The instrumented package lies under build/sanitize, the instrumented kernels under
# build/cuda_host_sanitize; the usual ones are left alone.
#
# usage: tools/sanitize.sh PYTHON [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
shift
site=build/sanitize/site

# objects stay, so that only what changed is compiled; the packed Python files must not be those of another day
rm -rf build/sanitize/lib* build/sanitize/bdist* "$site"
env -u HOTLOOP_BUILD_DIR HOTLOOP_SANITIZE=address,undefined "$python" -m pip install -q --disable-pip-version-check \
  --no-deps --no-build-isolation --target "$site" .

export HOTLOOP_SANITIZE=address,undefined  # tests/cuda_host/build.py reads it too
"$python" tests/cuda_host/build.py

runtime() { "${CXX:-c++}" -print-file-name="$1"; }
# libstdc++ goes with it: AddressSanitizer must find __cxa_throw when it starts, and Python itself is no C++ program
export LD_PRELOAD="$(runtime libasan.so) $(runtime libstdc++.so.6)"
# leaks: the interpreter and torch keep memory until the process ends, on purpose
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
export PYTHONPATH=$PWD/$site

"$python" - <<'PYTHON'
import pathlib
from hotloop import _core

assert "sanitize" in _core.__file__, f"{_core.__file__} is not the instrumented build"
mapped = pathlib.Path("/proc/self/maps").read_text()
assert "libasan" in mapped and "libubsan" in mapped, "the module is not instrumented"
PYTHON

tests=(tests/test_tensor_boundary.py tests/test_departure_estimators.py tests/test_summary.py tests/test_cuda_scan.py)
for source in csrc/*/*.cpp; do
  stem=$(basename "$source" .cpp)
  if [ "$stem" = freed_memory ]; then continue; fi  # what malloc does: the sanitizer's is another
  test=tests/test_${stem#bind_}.py  # the plans have no kernel file of their own, only a binding
  if [ -f "$test" ] && [[ " ${tests[*]} " != *" $test "* ]]; then tests+=("$test"); fi
done
# a finding aborts the process: only with the file descriptors left alone does its report reach the terminal
"$python" -u -m pytest -q --capture=sys -p no:cacheprovider "${tests[@]}" "$@"
