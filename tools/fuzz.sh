#!/usr/bin/env bash
# Fuzzes the native boundary (tests/boundary_fuzz.py) on the build with AddressSanitizer and
# UndefinedBehaviorSanitizer.
#
# usage: tools/fuzz.sh PYTHON RUNS [SEED]
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/sanitized.sh
build_sanitized "$1" address
"$1" -u -W ignore tests/boundary_fuzz.py --runs "$2" --seed "${3:-0}"
