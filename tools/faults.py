"""The faults that tools/plant_faults.py plants, each with the command that must notice it and what that says.

An edit is a piece of a file, which must stand there once, and what takes its place. Keep them to a line or
two: they have to be mended when the code around them changes (tests/test_plant_faults.py tells).
"""

from __future__ import annotations

from typing import NamedTuple


class Edit(NamedTuple):
    """In `path`, `old` becomes `new`."""

    path: str
    old: str
    new: str


class Fault(NamedTuple):
    """What is broken, and what must notice.

    `needs` names a Python module without which the command cannot run.
    """

    name: str
    broken: str  # for a table of the documentation
    edit: Edit
    command: tuple[str, ...]  # PYTHON stands for the interpreter
    told: str  # a regular expression that the output of the command must hold
    needs: str = ""


def tests(*nodes: str) -> tuple[str, ...]:
    return ("PYTHON", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *nodes)


# What tools/sanitize.sh does, for one file and without building the CUDA kernels for the host.
SANITIZED_CLIP = (
    "bash",
    "-c",
    '. tools/sanitized.sh; build_sanitized "$0" address; '
    'exec "$0" -m pytest -q -x --capture=sys -p no:cacheprovider "$1"',
    "PYTHON",
    "tests/test_clip_grad_norm.py",
)
FORKED = "tests/test_forked_child.py::test_ops_work_in_a_forked_child"
THREADS = "tests/test_concurrent_calls.py"
CLIP = "csrc/cpu/clip_grad_norm.cpp"
GUARD = "python/hotloop/loop_nonfinite.py"
NONFINITE = "tests/test_nonfinite.py::test_"
SUMS = Edit(
    CLIP, "F64x4 sums[kGroups] = {};", "static F64x4 sums[kGroups];\n  for (F64x4& sum : sums) sum = F64x4{};"
)
SHAPE = Edit(
    "csrc/bind/bind_row_priorities.cpp",
    'expect_shape(kOp, "out", w, {a.shape[0]}, "[S]");',
    'expect_ndim(kOp, "out", w, 1, "[S]");',
)

FAULTS = (
    Fault(
        "address",
        "`clip_grad_norm_` converts into half of the memory that it needs",
        Edit(
            CLIP,
            "alignas(64) T scratch[kPiece];\n  const Matrix row = as_row(run);\n  F64x4",
            "alignas(64) T scratch[kPiece / 2];\n  const Matrix row = as_row(run);\n  F64x4",
        ),
        SANITIZED_CLIP,
        "AddressSanitizer: stack-buffer-overflow",
    ),
    Fault(
        "undefined",
        "float64 gradients are read as vectors, wherever they lie",
        Edit(CLIP, "std::memcpy(to, at, sizeof *to);", "*to = *reinterpret_cast<const F64x4*>(at);"),
        SANITIZED_CLIP,
        "runtime error: load of misaligned address",
    ),
    Fault(
        "race, under ThreadSanitizer",
        "`clip_grad_norm_` keeps its sums in static memory",
        SUMS,
        ("tools/sanitize_threads.sh", "PYTHON"),
        "WARNING: ThreadSanitizer: data race",
    ),
    Fault(
        "race",
        "the same, on the ordinary build",
        SUMS,
        tests(f"{THREADS}::test_threads_get_what_one_thread_gets"),
        r"(optimizer|heads) in thread \d",
    ),
    Fault(
        "bounds, under the fuzzer",
        "`gather` does not check its indices",
        Edit(
            "csrc/bind/bind_gather.cpp",
            'expect_indices(kOp, "indices", i, p.sources.empty() ? 0 : p.sources[0].shape[0], '
            '"the first size of sources");',
            'expect_dtype(kOp, "indices", i, DType::i64);',
        ),
        ("tools/fuzz.sh", "PYTHON", "3000", "0"),
        "AddressSanitizer: (heap-buffer-overflow|SEGV)|runtime error: signed integer overflow",
    ),
    Fault(
        "indices, under Hypothesis",
        "indices that are too large are let through",
        Edit("csrc/bind/tensor_arg.cpp", "if (index < 0 || index >= limit) {", "if (index < 0) {"),
        tests("tests/test_boundary_fuzz.py::test_whatever_stands_for_an_argument"),
        "Segmentation fault|wrote outside of|exit code -(6|11)",
    ),
    Fault(
        "shape, by chance",
        "`row_priorities` takes an `out` of any length",
        SHAPE,
        ("PYTHON", "-W", "ignore", "tests/boundary_fuzz.py", "--runs", "20000"),
        "row_priorities.* wrote outside of|exit code -(6|11)",
    ),
    Fault(
        "shape, under Hypothesis",
        "the same",
        SHAPE,
        tests("tests/test_boundary_fuzz.py::test_whatever_stands_for_an_argument"),
        "row_priorities.* wrote outside of|exit code -(6|11)",
    ),
    Fault(
        "source, under atheris",
        "`StorePlan`'s way through torch takes a source that is no tensor",
        Edit(
            "python/hotloop/ops/store_plan.py",
            '        require_tensors("StorePlan.store: each source", sources)\n',
            "",
        ),
        ("PYTHON", "tools/fuzz_atheris.py", "-runs=20000", "-len_control=0", "-max_len=200", "-seed=1"),
        "StorePlan.* raised RuntimeError",
        needs="atheris",
    ),
    Fault(
        "property",
        "`gather` forgets the stride of its indices",
        Edit("csrc/cpu/gather.cpp", "p.indices[j * p.index_stride];", "p.indices[j];"),
        tests("tests/test_gather.py"),
        "FAILED tests/test_gather.py::test_",
    ),
    Fault(
        "description",
        "a negative number of dimensions is believed",
        Edit(
            "csrc/bind/tensor_arg.cpp",
            "if (raw.ndim < 0 || (raw.ndim > 0 && raw.shape == nullptr))",
            "if (raw.ndim > 0 && raw.shape == nullptr)",
        ),
        tests("tests/test_exchange_api.py::test_what_describes_no_tensor_is_refused"),
        "FAILED",
    ),
    Fault(
        "fork",
        "nobody notices that the process was forked",
        Edit("csrc/cpu/forked_child.cpp", "[] { lost_pool = true; }", "[] {}"),
        tests(FORKED),
        "'-14'",  # the alarm: it hung
    ),
    Fault(
        "shutdown",
        "a daemon thread that cannot have the GIL back goes on unwinding",
        Edit(
            "csrc/bind/tensor_arg.cpp",
            "for (;;) std::this_thread::sleep_for(std::chrono::hours(1));",
            "throw;",
        ),
        tests("tests/test_shutdown.py::test_daemon_threads_that_are_inside_an_op"),
        "exit code -6",
    ),
    Fault(
        "copy of a sampler",
        "a copied sampler has another seed",
        Edit(
            "python/hotloop/segment_sampler.py",
            "    def state_dict(self) -> dict[str, Any]:",
            '    def __getstate__(self) -> dict[str, Any]:\n        return {**self.__dict__, "seed": 0}\n\n'
            "    def state_dict(self) -> dict[str, Any]:",
        ),
        tests("tests/test_segment_sampler.py::test_a_restored_sampler_draws_the_same"),
        "FAILED.*pickle",
    ),
    Fault(
        "copy of an experience",
        "the copy's cursors stand where a new experience's do",
        Edit("python/hotloop/ops/row_cursors.py", "        self.load_state_dict(state)\n", "        pass\n"),
        tests("tests/test_copies.py::test_an_experience_in_the_middle_of_a_rollout"),
        "FAILED.*deepcopy",
    ),
    Fault(
        "environment that dies",
        "nobody watches the processes that PufferLib waits for",
        Edit(
            "python/hotloop/envs/processes.py", "        wait(sentinels)\n", "        self._closed.wait()\n"
        ),
        tests("tests/test_envs_processes.py::test_a_wait_that_would_last_for_ever_is_ended"),
        "DID NOT RAISE",
    ),
    Fault(
        "environment that dies in training",
        "the trainer saves nothing when it is lost",
        Edit(
            "python/hotloop/trainer/trainer.py",
            "            self._write_checkpoint(best=False)\n        holds =",
            "        holds =",
        ),
        tests(
            "tests/test_envs_processes.py::test_a_run_whose_environment_died_says_so_and_goes_on_when_resumed"
        ),
        r"assert \(\d, .*== \(3, None\)",
    ),
    Fault(
        "full disk",
        "a checkpoint is written over the one that is there",
        Edit("python/hotloop/trainer/files.py", 'path.with_name(f".{path.name}.{os.getpid()}.tmp")', "path"),
        tests(
            "tests/test_trainer_checkpoint.py::test_a_file_that_cannot_grow_at_any_byte_keeps_the_old_checkpoint"
        ),
        "no checkpoint at|not a readable checkpoint",
    ),
    Fault(
        "damaged checkpoint",
        "checksums are not compared",
        Edit("python/hotloop/trainer/checkpoint.py", "damaged = archive.testzip()", "damaged = None"),
        tests("tests/test_trainer_checkpoint.py::test_every_flipped_bit_and_every_cut_is_noticed"),
        "FAILED",
    ),
    Fault(
        "foreign checkpoint",
        "what is in a file is executed",
        Edit(
            "python/hotloop/trainer/checkpoint.py",
            'map_location="cpu", weights_only=True',
            'map_location="cpu", weights_only=False',
        ),
        tests("tests/test_trainer_checkpoint.py::test_a_checkpoint_executes_nothing"),
        "FAILED",
    ),
    Fault(
        "NaN, raise",
        "nothing is said before the phase ends",
        Edit(GUARD, "        if not finite:\n            self._found()\n", ""),
        tests(f"{NONFINITE}raise_names_what_the_environment_sent"),
        r"assert \(1, None\) == \(0, 1\)",
    ),
    Fault(
        "NaN, raise at the end",
        "statistics of the whole phase are not looked at",
        Edit(
            GUARD, 'if self._mode != "raise":\n            return stats', "if True:\n            return stats"
        ),
        tests(f"{NONFINITE}rows_that_no_law_draws_are_found_all_the_same"),
        "DID NOT RAISE",
    ),
    Fault(
        "NaN, raise before the step",
        "the gradients are clipped and not looked at",
        Edit(GUARD, "error_if_nonfinite=True", "error_if_nonfinite=False"),
        tests(f"{NONFINITE}raise_comes_before_the_bad_update"),
        "FAILED",
    ),
    Fault(
        "NaN in rewards",
        "rewards are not searched for it",
        Edit(
            GUARD,
            "sorted(self._experience.store_keys, key",
            'sorted(set(self._experience.store_keys) - {"rewards"}, key',
        ),
        tests(f"{NONFINITE}raise_names_what_the_environment_sent"),
        r"FAILED.*rewards",
    ),
    Fault(
        "NaN in observations",
        "observations are searched for it after what they spoil",
        Edit(GUARD, '"env_obs": 0, "rewards": 2,', '"env_obs": 9, "rewards": 2,'),
        tests(f"{NONFINITE}raise_names_what_the_environment_sent"),
        r"FAILED.*env_obs",
    ),
    Fault(
        "NaN in values",
        "values are not searched for it",
        Edit(
            GUARD,
            "[*keys, *(key for key in _WRITTEN_BACK if key not in keys)]",
            '[key for key in keys if key != "values"]',
        ),
        tests(f"{NONFINITE}values_of_the_rollout"),
        "FAILED",
    ),
    Fault(
        "NaN in gradients",
        "gradients are not searched for it",
        Edit(GUARD, "gradient = non_finite_gradient(self._policy)", "gradient = None"),
        tests(f"{NONFINITE}a_loss_that_overflows_names_the_gradient"),
        "FAILED",
    ),
    Fault(
        "NaN, skip",
        "statistics of a minibatch that was skipped stay",
        Edit(GUARD, "tracker.rewind(mark)", "pass"),
        tests(
            f"{NONFINITE}a_skipped_minibatch_leaves_no_trace",
            f"{NONFINITE}skip_drops_the_minibatch_and_counts_it",
        ),
        "FAILED",
    ),
    Fault(
        "NaN, ignore",
        "it is treated as `raise`",
        Edit(
            GUARD,
            "self._mode = self._given or configured",
            'self._mode = (self._given or configured).replace("ignore", "raise")',
        ),
        tests(f"{NONFINITE}ignore_goes_on"),
        "NonFiniteError",
    ),
    Fault(
        "profiled program's error",
        "`hotloop profile` takes it for a mistake in its own arguments",
        Edit(
            "python/hotloop/profiling/command.py",
            "        except KeyboardInterrupt:\n            code = 130\n",
            "        except KeyboardInterrupt:\n            code = 130\n"
            "        except ValueError as error:\n            return _refuse(str(error))\n",
        ),
        tests(
            "tests/test_profiling_command.py::test_what_the_program_raises_comes_through_with_its_traceback"
        ),
        "FAILED",
    ),
    Fault(
        "soak, state",
        "a resumed run does not restore the generators of random numbers",
        Edit("python/hotloop/trainer/trainer.py", '        set_rng_state(state["rng"])\n', ""),
        ("PYTHON", "tools/soak.py", "--seconds", "60"),
        "soak: the runs differ, first in epoch",
    ),
    Fault(
        "soak, memory",
        "a thread leaves 1 MiB behind every half second",
        Edit(
            "python/hotloop/trainer/trainer.py",
            "            for note in self._notes:\n",
            "            import threading, time\n            kept: list[bytes] = []\n"
            "            def leak() -> None:\n                while True:\n"
            "                    kept.append(bytes(range(256)) * 4096)\n                    time.sleep(0.5)\n"
            "            threading.Thread(target=leak, daemon=True).start()\n"
            "            for note in self._notes:\n",
        ),
        ("PYTHON", "tools/soak.py", "--seconds", "60"),
        "soak: memory grew from",
    ),
)
