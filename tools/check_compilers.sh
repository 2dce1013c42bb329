#!/usr/bin/env bash
# Builds csrc with other compilers than the wheels' and, where the result runs here, runs op tests on it. Compilers that
# are missing are named and left out.
#
#   arrays    the usual compiler, with arrays in place of its vectors: what MSVC and GCC before 12 get
#   clang     clang++
#   aarch64   aarch64-linux-gnu-g++: compiled and linked, not run
#   mingw     x86_64-w64-mingw32-g++: the kernels, compiled only (Windows' headers and its 32-bit long)
#
# usage: tools/check_compilers.sh PYTHON [name ...]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
shift
chosen=${*:-arrays clang aarch64 mingw}
# what the vectors compute, and the recurrence engine
tests=(sample_segments clip_grad_norm categorical gaussian adam gae gather ppo_loss)
tests=("${tests[@]/#/tests/test_}")
tests=("${tests[@]/%/.py}")

build() { # name, then assignments for the environment
  local work=build/compilers/$1
  shift
  rm -rf "$work/site"
  mkdir -p "$work"
  env "$@" HOTLOOP_CUDA=0 HOTLOOP_BUILD_DIR="$work/ninja" \
    "$python" setup.py -q build --build-base "$work" --build-lib "$work/site" >"$work/log" 2>&1 || { tail -n 40 "$work/log"; return 1; }
  if grep -n 'warning:' "$work/log"; then echo "warnings: see $work/log"; fi
}

test_build() { # name
  local site=$PWD/build/compilers/$1/site
  PYTHONPATH=$site "$python" - "$site" <<'PYTHON'
import sys
from hotloop import _core

assert _core.__file__.startswith(sys.argv[1]), _core.__file__
print(_core.build_info(), *_core.isas_supported())
PYTHON
  PYTHONPATH=$site "$python" -m pytest -q -p no:cacheprovider "${tests[@]}"
}

for name in $chosen; do
  echo
  echo "== $name"
  case $name in
    arrays) compiler=c++ ;;
    clang) compiler=clang++ ;;
    aarch64) compiler=aarch64-linux-gnu-g++ ;;
    mingw) compiler=x86_64-w64-mingw32-g++ ;;
    *) echo "unknown: $name" && exit 2 ;;
  esac
  if ! command -v $compiler >/dev/null; then
    echo "left out: there is no $compiler"
    continue
  fi
  $compiler --version | head -n 1
  case $name in
    arrays) build arrays CXXFLAGS=-DHL_PORTABLE_VECTORS && test_build arrays ;;
    clang) build clang CXX=clang++ && test_build clang ;;
    aarch64)
      build aarch64 CXX=$compiler ARCHFLAGS=aarch64
      aarch64-linux-gnu-readelf -d build/compilers/aarch64/site/hotloop/_core*.so | grep NEEDED
      ;;
    mingw)
      count=0
      for source in csrc/cpu/*.cpp; do
        $compiler -std=c++17 -Wall -Wextra -Wno-unused-parameter -DHL_PORTABLE_VECTORS -fsyntax-only "$source"
        count=$((count + 1))
      done
      echo "$count kernel files compile"
      ;;
  esac
done
