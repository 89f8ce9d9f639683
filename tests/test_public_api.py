"""The front door: what `import fmn_guard` offers, and how little it loads."""

from __future__ import annotations

import inspect
import json
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import fmn_guard

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "diffusers", "transformers", "numpy")


def _fresh(code: str, *arguments: str) -> str:
    """Runs code in an interpreter that has imported nothing yet, and returns its last line of output."""
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1]


def test_public_names_are_few_sorted_and_unique() -> None:
    assert list(fmn_guard.__all__) == sorted(set(fmn_guard.__all__))
    assert len(fmn_guard.__all__) <= 25


def test_dir_lists_every_public_name() -> None:
    assert set(fmn_guard.__all__) <= set(dir(fmn_guard))


@pytest.mark.parametrize("name", fmn_guard.__all__)
def test_public_name_is_a_class_or_function_with_a_docstring_of_its_own(name: str) -> None:
    public = getattr(fmn_guard, name)
    assert inspect.isclass(public) or inspect.isfunction(public)
    assert (vars(public) if inspect.isclass(public) else {"__doc__": public.__doc__}).get("__doc__")
    assert public.__module__.startswith("fmn_guard.")


@pytest.mark.parametrize("name", fmn_guard.__all__)
def test_public_name_still_means_the_same_once_every_module_is_imported(name: str) -> None:
    before = getattr(fmn_guard, name)
    for module in pkgutil.iter_modules(fmn_guard.__path__):
        import_module(f"fmn_guard.{module.name}")
    assert getattr(fmn_guard, name) is before


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        fmn_guard.no_such_name  # noqa: B018


def test_every_name_in_the_package_docstring_is_public() -> None:
    assert fmn_guard.__doc__
    words = fmn_guard.__doc__.replace("(", " ").split()
    shown = {word.removeprefix("fg.") for word in words if word.startswith("fg.")}
    assert shown
    assert shown <= set(fmn_guard.__all__)


def test_import_loads_none_of_its_modules() -> None:
    loaded = _fresh("import fmn_guard, json, sys; print(json.dumps(list(sys.modules)))")
    assert not [name for name in json.loads(loaded) if name.startswith("fmn_guard.") or name in HEAVY]


def test_without_torch_only_the_names_of_the_torch_half_are_missing() -> None:
    code = f"""
import json, sys
sys.modules.update(dict.fromkeys({HEAVY!r}))  # importing them now fails
import fmn_guard
missing = []
for name in fmn_guard.__all__:
    try:
        getattr(fmn_guard, name)
    except ImportError:
        missing.append(name)
print(json.dumps(missing))
"""
    torch_half = {
        name
        for name in fmn_guard.__all__
        if getattr(fmn_guard, name).__module__.split(".")[1] in ("model", "forget", "audit")
    }
    assert set(json.loads(_fresh(code))) <= torch_half


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["apply", "--help"],
        ["lint", "manifests/quickstart.yaml"],
        ["plan", "manifests/quickstart.yaml"],
    ],
    ids=" ".join,
)
def test_light_command_never_imports_torch(arguments: list[str]) -> None:
    code = f"""
import sys
from fmn_guard.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    assert _fresh(code, *arguments) == "[]"
