# Sourced by the scripts that run something on an instrumented build of the native module.
#
# build_sanitized PYTHON address|thread: packs the package into build/sanitize/site or build/sanitize-thread/site,
# the usual one is left alone; then sets up the environment for what follows, and checks that it is used.

runtime() { "${CXX:-c++}" -print-file-name="$1"; }

build_sanitized() {
  local python=$1 kind=$2 base=build/sanitize sanitizers=address,undefined library=libasan
  if [ "$kind" = thread ]; then base=build/sanitize-thread sanitizers=thread library=libtsan; fi
  # objects stay, so that only what changed is compiled; the packed Python files must not be those of another day
  rm -rf $base/lib* $base/bdist* "$base/site"
  env -u HOTLOOP_BUILD_DIR HOTLOOP_CUDA=0 HOTLOOP_SANITIZE=$sanitizers "$python" -m pip install -q --disable-pip-version-check \
    --no-deps --no-build-isolation --target "$base/site" .

  # libstdc++ goes with it: a sanitizer must find __cxa_throw when it starts, and Python itself is no C++ program
  export LD_PRELOAD="$(runtime $library.so) $(runtime libstdc++.so.6)"
  # leaks: the interpreter and torch keep memory until the process ends, on purpose
  export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
  export PYTHONPATH=$PWD/$base/site

  "$python" - "$library" <<'PYTHON'
import pathlib, sys
from hotloop import _core

assert "sanitize" in _core.__file__, f"{_core.__file__} is not the instrumented build"
mapped = pathlib.Path("/proc/self/maps").read_text()
assert sys.argv[1] in mapped, "the module is not instrumented"
assert sys.argv[1] != "libasan" or "libubsan" in mapped, "the module is not instrumented"
PYTHON
}
