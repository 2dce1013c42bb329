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
. tools/sanitized.sh
export HOTLOOP_SANITIZE=address,undefined  # tests/cuda_host/build.py reads it
"$python" tests/cuda_host/build.py
build_sanitized "$python" address

tests=(tests/test_tensor_boundary.py tests/test_departure_estimators.py tests/test_summary.py tests/test_cuda_scan.py
  tests/test_exchange_api.py tests/test_concurrent_calls.py tests/test_boundary_fuzz.py)
for source in csrc/*/*.cpp; do
  stem=$(basename "$source" .cpp)
  if [ "$stem" = freed_memory ]; then continue; fi  # what malloc does: the sanitizer's is another
  test=tests/test_${stem#bind_}.py  # the plans have no kernel file of their own, only a binding
  if [ -f "$test" ] && [[ " ${tests[*]} " != *" $test "* ]]; then tests+=("$test"); fi
done
# a finding aborts the process: only with the file descriptors left alone does its report reach the terminal
"$python" -u -m pytest -q -n 2 --dist worksteal --capture=sys -p no:cacheprovider "${tests[@]}" "$@"
