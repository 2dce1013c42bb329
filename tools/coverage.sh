#!/usr/bin/env bash
# Which lines of Python and of C++ the tests run. The package is built with counters under build/coverage, where the
# reports lie too; the usual build is left alone.
#
# usage: tools/coverage.sh PYTHON [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
shift
work=build/coverage

rm -rf "$work/site" "$work"/html-* "$work/data"
mkdir -p "$work/data" "$work/html-cpp"
# -O1: counters of code that -O3 unrolled and copied say little of the lines that were written
CXXFLAGS="--coverage -fprofile-update=atomic -O1" LDFLAGS=--coverage HOTLOOP_BUILD_DIR=$work/ninja HOTLOOP_CUDA=0 \
  "$python" setup.py -q build --build-base "$work" --build-lib "$work/site"
find "$work/ninja" -name '*.gcda' -delete

export PYTHONPATH=$PWD/$work/site COVERAGE_FILE=$PWD/$work/data/coverage
"$python" -c 'import hotloop._core as core; assert "coverage/site" in core.__file__, core.__file__'
status=0
"$python" -m coverage run --rcfile=pyproject.toml -m pytest -q "$@" || status=$?

"$python" -m coverage combine -q --rcfile=pyproject.toml
"$python" -m coverage html -q --rcfile=pyproject.toml -d "$work/html-python"
"$python" -m coverage report --rcfile=pyproject.toml --skip-covered --sort=cover | tail -n 25
"$python" -m gcovr --root . --filter 'csrc/' --object-directory "$work/ninja" "$work/ninja" --exclude-throw-branches \
  --merge-mode-functions=separate --gcov-ignore-parse-errors=negative_hits.warn \
  --html-details "$work/html-cpp/index.html" --txt-summary --txt "$work/cpp.txt"
echo "reports: $work/html-python/index.html, $work/html-cpp/index.html; files: $work/cpp.txt"
exit "$status"
