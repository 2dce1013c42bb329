"""What all integrations share: hosts and versions, attributes exchanged and put back, results compared."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import hotloop
from hotloop import integrations
from hotloop.__main__ import main
from hotloop.integrations import hosts, patches
from hotloop.integrations.verify import CALLS, Verifier


class Base:
    def inherited(self) -> str:
        return "base"


class Owner(Base):
    @staticmethod
    def static() -> str:
        return "static"

    @property
    def size(self) -> int:
        return 1

    def method(self) -> str:
        return "method"


@pytest.fixture
def package() -> Iterator[tuple[ModuleType, ModuleType]]:
    """A host of two modules, the second of which imported a function of the first by name."""
    first, second = ModuleType("doublehost.first"), ModuleType("doublehost.second")
    first.work = lambda: "theirs"  # type: ignore[attr-defined]
    second.alias = first.work  # type: ignore[attr-defined]
    sys.modules.update({"doublehost.first": first, "doublehost.second": second})
    yield first, second
    for name in [name for name in sys.modules if name.startswith("doublehost.")]:
        del sys.modules[name]


def test_every_attribute_is_put_back_as_the_same_object() -> None:
    before = dict(vars(Owner))
    made = patches.Patches("sb3")
    made.replace(Owner, "static", staticmethod(lambda: "ours"))
    made.replace(Owner, "size", property(lambda self: 2))
    made.replace(Owner, "method", lambda self: "ours")
    made.replace(Owner, "method", lambda self: "ours again")
    made.replace(Owner, "inherited", lambda self: "ours")
    owner = Owner()
    assert (owner.static(), owner.size, owner.method(), owner.inherited()) == (
        "ours",
        2,
        "ours again",
        "ours",
    )
    assert patches.installed("sb3") is made
    made.remove()
    assert {name: value for name, value in vars(Owner).items() if before.get(name) is not value} == {}
    assert vars(Owner).keys() == before.keys()
    assert owner.inherited() == "base"
    assert patches.installed("sb3") is None
    made.remove()


def test_a_missing_attribute_is_refused_by_name() -> None:
    with pytest.raises(AttributeError, match=r"integrations\.sb3: Owner has no metod to exchange"):
        patches.Patches("sb3").replace(Owner, "metod", None)


def test_functions_are_exchanged_wherever_they_were_imported(package: tuple[ModuleType, ModuleType]) -> None:
    first, second = package
    theirs = first.work
    made = patches.Patches("rl_games")
    made.replace_everywhere(first, "work", lambda: "ours")
    assert (first.work(), second.alias()) == ("ours", "ours")
    late = ModuleType("doublehost.late")  # imported while ours is there
    late.work = first.work  # type: ignore[attr-defined]
    sys.modules["doublehost.late"] = late
    made.remove()
    assert first.work is theirs
    assert second.alias is theirs
    assert late.work is theirs


def test_status_tells_what_is_patched() -> None:
    made = patches.Patches("skrl")
    made.replace(Owner, "method", None)
    told = {host["name"]: host["patched"] for host in integrations.status()}
    made.remove()
    assert told["skrl"] == [f"{__name__}.Owner.method"]
    assert told["sb3"] == []


def host(version: str | None, tested: tuple[str, ...]) -> hosts.Host:
    class Installed(hosts.Host):
        @property
        def version(self) -> str | None:
            return version

    return Installed("skrl", "sys", "skrl", tested, "", "")


def test_an_untested_version_is_refused_unless_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_ALLOWED", set())
    host("2.0", ("1.0", "2.0")).require()
    with pytest.raises(integrations.UntestedHostError, match=r"skrl: tested with skrl 1\.0, 1\.1, got 2\.0"):
        host("2.0", ("1.0", "1.1")).require()
    host("2.0", ("1.0",)).require(force=True)
    integrations.allow_untested("skrl")
    host("2.0", ("1.0",)).require()


def test_a_missing_host_is_refused_even_by_force() -> None:
    absent = hosts.Host("skrl", "no_such_module", "skrl", ("1.0",), "", "")
    with pytest.raises(ModuleNotFoundError, match=r"hotloop\.integrations\.skrl: skrl is not installed"):
        absent.require(force=True)


def test_an_unknown_host_is_refused_by_name() -> None:
    with pytest.raises(KeyError, match="no integration is called 'sb4': there are metta, pufferlib"):
        integrations.allow_untested("sb4")
    with pytest.raises(AttributeError, match="sb4"):
        _ = hotloop.integrations.sb4


@pytest.mark.parametrize(("verify", "calls"), [(False, 0), (0, 0), (3, 3), (True, CALLS)])
def test_so_many_calls_are_compared(verify: bool | int, calls: int) -> None:
    verifier = Verifier("sb3", verify)
    assert sum(verifier.due() for _ in range(CALLS + 5)) == calls


def test_a_bad_number_of_calls_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sb3: verify must not be negative, got -1"):
        Verifier("sb3", -1)
    with pytest.raises(TypeError, match=r"sb3: verify must be a bool or a number of calls, got 'yes'"):
        Verifier("sb3", "yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("convert", [torch.from_numpy, np.asarray])
def test_equal_results_pass_nan_and_inf_included(convert: Any) -> None:
    x = np.array([[1.0, np.nan], [np.inf, -0.5]], np.float32)
    Verifier("sb3", 1).compare("f", {"x": convert(x), "n": 3}, {"x": convert(x.copy()), "n": 3})


@pytest.mark.parametrize(
    ("theirs", "tolerance", "message"),
    [
        ([[1.0, 2.0], [3.0, 4.5]], 0.0, r"f: x differs .* by 0\.5 at \[1, 1\] \(4\.0 beside 4\.5; 1 of 4"),
        ([[1.0, np.nan], [3.0, 4.5]], 1.0, r"by inf at \[0, 1\] \(2\.0 beside nan; 1 of 4"),
        ([[np.inf, 2.0], [3.0, 4.0]], 1.0, r"by inf at \[0, 0\]|by 1\.8e\+308 at \[0, 0\]"),
        ([[1.0, 2.0]], 1.0, r"float32 \[2, 2\] beside torch\.float32 \[1, 2\]"),
    ],
)
def test_a_difference_is_told_with_its_place(theirs: Any, tolerance: float, message: str) -> None:
    ours = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    verifier = Verifier("sb3", 1)
    with pytest.raises(integrations.VerificationError, match=message):
        verifier.compare("f", {"x": ours}, {"x": torch.tensor(theirs)}, atol=tolerance)


def test_what_is_allowed_passes() -> None:
    Verifier("sb3", 1).compare("f", {"x": torch.tensor([100.0])}, {"x": torch.tensor([101.0])}, rtol=0.01)


def test_results_under_other_names_are_a_difference() -> None:
    with pytest.raises(integrations.VerificationError, match=r"f gives \['x'\], the host's own \['y'\]"):
        Verifier("sb3", 1).compare("f", {"x": 1}, {"y": 1})


def test_the_command_lists_every_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["integrations"]) == 0
    printed = capsys.readouterr().out
    assert main(["integrations", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [host["name"] for host in told] == [host.name for host in integrations.HOSTS]
    for entry in integrations.HOSTS:
        assert entry.use in printed
        assert entry.replaces in printed
