"""What people read is true: every YAML loads, every command exists, every link leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fmn_guard.attacks import load_attacks
from fmn_guard.cases import load_cases
from fmn_guard.cli import main
from fmn_guard.frameworks import load_framework
from fmn_guard.manifest import load_manifest
from fmn_guard.policy import load_policy
from fmn_guard.suite import load_suite

ROOT = Path(__file__).parent.parent
LOADERS: dict[str, Callable[[Path], object]] = {
    "manifests": load_manifest,
    "policies": load_policy,
    "policies/tests": load_cases,
    "policies/frameworks": load_framework,
    "audits/suites": load_suite,
    "audits/attacks": load_attacks,
}
LOADER_OF_KIND: dict[str, Callable[[Path], object]] = {
    "ConceptManifest": load_manifest,
    "ReleasePolicy": load_policy,
    "AuditSuite": load_suite,
    "AttackSuite": load_attacks,
    "PolicyCases": load_cases,
    "ComplianceFramework": load_framework,
}


def _files(*patterns: str) -> list[Path]:
    """Files of the repository that match, committed or about to be."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted({ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()})


def _name(path: object) -> str:
    return str(path.relative_to(ROOT)) if isinstance(path, Path) else str(path)


class Block(NamedTuple):
    """One fenced block of a document.

    Attributes:
        document: The file it stands in.
        language: The word behind the fence.
        text: What is between the fences.
    """

    document: Path
    language: str
    text: str

    def __str__(self) -> str:
        return f"{_name(self.document)}: {self.text.splitlines()[0]}"


def _blocks() -> Iterator[Block]:
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for path in _files("*.md"):
        for found in fence.finditer(path.read_text(encoding="utf-8")):
            yield Block(path, *found.groups())


def _commands(document: str = "*.md") -> list[str]:
    """What follows a ``$`` in console blocks, each once, in order."""
    lines = [
        line[2:]
        for block in _blocks()
        if block.language == "console" and block.document.match(document)
        for line in block.text.splitlines()
        if line.startswith("$ ")
    ]
    return list(dict.fromkeys(lines))


# ---- data folders


def _data_files() -> list[Path]:
    return _files("manifests/*.yaml", "policies/*.yaml", "audits/suites/*.yaml", "audits/attacks/*.yaml")


@pytest.mark.parametrize("path", _data_files(), ids=_name)
def test_shipped_yaml_loads_with_the_loader_of_its_folder(path: Path) -> None:
    folders = path.relative_to(ROOT).parents
    next(LOADERS[str(folder)] for folder in folders if str(folder) in LOADERS)(path)


@pytest.mark.parametrize("path", _files("benchmarks/development/*.yaml"), ids=_name)
def test_what_the_eraser_is_tuned_on_loads(path: Path) -> None:
    loaders = {"manifest": load_manifest, "policy": load_policy, "suite": load_suite}
    loaders.get(path.stem, load_manifest)(path)


@pytest.mark.parametrize("path", [*_data_files(), *_files("benchmarks/development/*.yaml")], ids=_name)
def test_shipped_yaml_names_a_schema_that_exists_for_editors(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert (named := re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first))
    assert (path.parent / named[1]).is_file()


@pytest.mark.parametrize("folder", ["manifests", "policies", "audits/suites", "audits/attacks"])
def test_data_folder_has_documents_in_it(folder: str) -> None:
    assert _files(f"{folder}/*.yaml")


def _documents_shown() -> Iterator[Block]:
    """Blocks that hold a whole YAML file; tests/test_docs_commands.py loads those that have a name, in their folder."""
    for block in _blocks():
        if "apiVersion:" in block.text and not re.match(r"# \S+\n", block.text):
            yield block


@pytest.mark.parametrize("block", list(_documents_shown()), ids=str)
def test_yaml_shown_in_a_document_loads(block: Block, tmp_path: Path) -> None:
    kind = re.search(r"^kind: (\w+)$", block.text, re.MULTILINE)
    assert kind
    shown = tmp_path / "shown.yaml"
    shown.write_text(block.text, encoding="utf-8")
    LOADER_OF_KIND[kind[1]](shown)


# ---- commands


def _make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))


def _parse(arguments: list[str]) -> click.Command:
    """Finds the command that arguments ask for and parses them, without running anything.

    Raises:
        click.UsageError: there is no such command or option, or there are arguments left over.
    """
    command: click.Command = main
    context = click.Context(command, info_name="fmn-guard")
    while True:
        parser = command.make_parser(context)
        _, rest, _ = parser.parse_args(list(arguments))
        if not isinstance(command, click.Group):
            if rest:
                raise click.UsageError(f"left over: {rest}", context)
            return command
        if not rest:
            return command
        name, found, arguments = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)


def test_parser_of_commands_refuses_what_does_not_exist() -> None:
    for wrong in (["no-such-command"], ["apply", "--no-such-option"], ["doctor", "left", "over"]):
        with pytest.raises(click.UsageError):
            _parse(wrong)


def test_readme_shows_the_two_commands_and_the_whole_walk() -> None:
    shown = _commands("README.md")
    assert {"make quickstart", "make test"} <= set(shown)
    verbs = {shlex.split(command)[1] for command in shown if command.startswith("fmn-guard ")}
    assert {"lint", "plan", "apply", "report", "gate"} <= verbs


def _mentions() -> list[str]:
    """Commands of fmn-guard that stand inside a sentence, as inline code."""
    texts = (path.read_text(encoding="utf-8") for path in _files("*.md"))
    return sorted({found for text in texts for found in re.findall(r"`(fmn-guard [a-z][^`\n]*)`", text)})


@pytest.mark.parametrize("command", [*_commands(), *_mentions()])
def test_command_shown_in_a_document_exists(command: str) -> None:
    match shlex.split(command, comments=True):
        case ["fmn-guard", *arguments]:
            _parse(arguments)
        case ["make", target]:
            assert target in _make_targets()
        case [".", ".venv/bin/activate"] | ["pip", "install", *_] | ["git", *_]:
            pass
        case ["pre-commit", "install"]:
            pass
        case [program, *_] if (ROOT / program).is_file():
            assert os.access(ROOT / program, os.X_OK)
        case ["python", "-m", module, *_]:
            folder = ROOT.joinpath(*module.split("."))
            assert (folder / "__main__.py").is_file() or folder.with_suffix(".py").is_file()
        case _:
            pytest.fail(f"no test knows what to do with: {command}")


@pytest.mark.slow
def test_walk_of_the_readme_runs_as_shown(tmp_path: Path) -> None:
    for folder in ("manifests", "policies"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copytree(ROOT / "audits" / "suites", tmp_path / "audits" / "suites")
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    walk = [shlex.split(command, comments=True) for command in _commands("README.md")]
    for command in (each for each in walk if each[0] == "fmn-guard"):
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, f"{shlex.join(command)}\n{run.stdout}\n{run.stderr}"


# ---- text


def _links() -> Iterator[tuple[Path, str]]:
    for path in _files("*.md"):
        text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for found in re.finditer(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text):
            target = found[1] or found[2]
            if not re.match(r"[a-z][a-z+.-]*:", target):
                yield path, target


@pytest.mark.parametrize(("path", "target"), list(_links()), ids=_name)
def test_relative_link_leads_to_a_file_and_heading(path: Path, target: str) -> None:
    file, _, anchor = target.partition("#")
    found = path.parent / file if file else path
    assert found.exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in slugs


def _text_files() -> Iterator[Path]:
    for path in _files():
        if b"\0" not in path.read_bytes()[:8192]:
            yield path


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a path of one machine", r"(?<![\w.$}])/(work|farm|root|opt|home|Users)/"),
        (
            "a package registry",
            r"pypi\.org|pythonhosted\.org|registry\.npm|download\.pytorch\.org|--(extra-)?index-url",
        ),
    ],
)
def test_no_text_names(what: str, pattern: str) -> None:
    found = [
        f"{_name(path)}:{number}: {what}: {line.strip()[:100]}"
        for path in _text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert not found, "\n".join(found)


# ---- things said twice


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_citation_and_changelog_tell_the_version_of_the_project() -> None:
    version = _project()["version"]
    assert f'\nversion: "{version}"\n' in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(rf"^## \[?{version}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)


def _requirements() -> list[Requirement]:
    project = _project()
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return [each for each in map(Requirement, lines) if each.name != "fmn-guard"]


def test_constraints_pin_every_dependency_within_its_bounds() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    for requirement in _requirements():
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_constraints_are_exact_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"#.*|[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
