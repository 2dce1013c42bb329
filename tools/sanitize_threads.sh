#!/usr/bin/env bash
# Runs ops from several threads at once on a build with ThreadSanitizer. That build has no OpenMP: libgomp, whose
# barriers ThreadSanitizer cannot see, would drown a finding in false alarms. What is watched is therefore what
# callers' threads do to each other: the tables of the binding, static data, kernels without the GIL. That blocks of
# one parallel loop do not write over each other rests on the tests that compare numbers of threads bit by bit.
#
# usage: tools/sanitize_threads.sh PYTHON [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
shift
. tools/sanitized.sh
build_sanitized "$python" thread
# Python, NumPy and torch are not instrumented: only accesses of the native module count, whoever it races with.
export TSAN_OPTIONS="ignore_noninstrumented_modules=1 halt_on_error=1 second_deadlock_stack=1 exitcode=66"
"$python" -u -m pytest -q --capture=sys -p no:cacheprovider tests/test_concurrent_calls.py \
  tests/test_tensor_boundary.py -k "threads" "$@"
