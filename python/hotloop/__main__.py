"""The command ``hotloop``: ``train``, ``evaluate``, ``envs``, ``integrations``, ``bench`` and
``doctor``.

Also ``python -m hotloop``.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from hotloop import __version__

_USAGE = """\
usage: hotloop COMMAND [ARGUMENTS]

commands:
  train         train a policy on an environment (hotloop train --help lists the settings)
  evaluate      play episodes with the policy of a run, and film them (hotloop evaluate --help)
  envs          list the libraries of environments that training can use (hotloop envs --help)
  integrations  list the trainers that hotloop slips into, and which are installed
  profile       run a trainer, anybody's, and tell where its time goes (hotloop profile --help)
  bench         measure the ops beside a copy of their bytes and beside other systems (hotloop bench --help)
  doctor        say what this installation can do, and why not

options:
  -h, --help    show this message and exit
  --version     show the version and exit
"""

# Modules that `hotloop train` imports and that only the extra `train` installs.
_TRAIN_MODULES = ("gymnasium", "matplotlib", "rich", "tensorboard", "tyro", "yaml")
# And what `hotloop bench` needs of the extra `bench`; it prints plain text where rich is missing.
_BENCH_MODULES = ("tyro",)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the arguments, without the program's name; those of the process when None.

    Returns:
        The exit code; 2 for a mistake in the arguments or a missing package.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        return _refuse("a command is missing")
    command, rest = arguments[0], arguments[1:]
    if command in ("-h", "--help", "help"):
        print(_USAGE, end="")
        return 0
    if command == "--version":
        print(f"hotloop {__version__}")
        return 0
    if command == "doctor":
        return _doctor(rest)
    if command == "train":
        return _train(rest)
    if command == "envs":
        return _envs(rest)
    if command == "integrations":
        return _integrations(rest)
    if command == "evaluate":
        return _evaluate(rest)
    if command == "profile":
        return _profile(rest)
    if command == "bench":
        return _bench(rest)
    return _refuse(f"there is no command {command!r}")


def missing_train_modules() -> list[str]:
    """The modules of the extra ``train`` that are not installed."""
    return _missing(_TRAIN_MODULES)


def _missing(modules: Sequence[str]) -> list[str]:
    return [name for name in modules if importlib.util.find_spec(name) is None]


def _doctor(rest: list[str]) -> int:
    from hotloop import doctor

    if rest in (["-h"], ["--help"]):
        print("usage: hotloop doctor\n\nExits with 0 when training on the CPU can work, else with 1.")
        return 0
    if rest:
        return _refuse(f"doctor takes no arguments, got {' '.join(rest)}")
    return doctor.main()


def _train(rest: list[str]) -> int:
    if _lacks_train_modules("train"):
        return 2
    from hotloop import cli

    return cli.train(rest)


def _envs(rest: list[str]) -> int:
    from hotloop.envs import catalogue

    return catalogue.command(rest)


def _integrations(rest: list[str]) -> int:
    from hotloop.integrations import command

    return command.main(rest)


def _evaluate(rest: list[str]) -> int:
    if _lacks_train_modules("evaluate"):
        return 2
    from hotloop import cli_evaluate

    return cli_evaluate.evaluate(rest)


def _lacks_train_modules(command: str) -> bool:
    """Whether modules of the extra ``train`` are missing, after saying so."""
    missing = missing_train_modules()
    if missing:
        print(
            f"hotloop {command}: not installed: {', '.join(missing)}\n"
            "Install what training needs with: pip install 'hotloop[train]'",
            file=sys.stderr,
        )
    return bool(missing)


def _profile(rest: list[str]) -> int:
    from hotloop.profiling import command

    return command.main(rest)


def _bench(rest: list[str]) -> int:
    missing = _missing(_BENCH_MODULES)
    if missing:
        print(
            f"hotloop bench: not installed: {', '.join(missing)}\n"
            "Install what the benchmarks need with: pip install 'hotloop[bench]'",
            file=sys.stderr,
        )
        return 2
    from hotloop.bench import command

    return command.bench(rest)


def _refuse(message: str) -> int:
    print(f"hotloop: error: {message}\n\n{_USAGE}", end="", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
