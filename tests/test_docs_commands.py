"""Every command in docs/ is run, page by page and in order, and prints what its page says.

A `yaml` block that begins with `# name` is written to the file of that name. An `sh` block is a script. In a `console`
block each line behind a `$` is a command, which exits with 0 or with what its comment says; the lines below it are in
what it prints, in that order, and `...` stands for anything.

Forgetting and drawing take minutes. Here, `apply` and `audit` come upon a run that is finished already, and go on from
there; the slow test waits for the real one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from fmn_guard.assembly import Shard, batches_of, partial_store
from fmn_guard.cli import main
from fmn_guard.evidence import Audit
from fmn_guard.facts import describe_checkpoint
from fmn_guard.forget.patch import write_patch
from fmn_guard.lint import lint_manifest, lint_policy
from fmn_guard.manifest import CheckpointRef
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.record import digest, read_record, write_record
from fmn_guard.shipped import find, policies

from .builder import forgotten, make_audit, make_passes
from .paper import save_paper_checkpoint
from .patched import make_patch
from .pictures import write_pictures
from .stored import fill, panel_of

DOCS = Path(__file__).parent.parent / "docs"
TUTORIAL = DOCS / "tutorial.md"
PAGES = sorted(path for path in DOCS.rglob("*.md") if path not in (TUTORIAL, DOCS / "experiments.md"))
DRAWS_ONLY = ("sample", "replay", "mscore", "attack")


class File(NamedTuple):
    """A file that a page shows."""

    name: str
    text: str


class Script(NamedTuple):
    """A script that a page shows."""

    text: str


class Command(NamedTuple):
    """A command that a page shows."""

    line: str
    exits_with: int
    prints: list[str]


class Ran(NamedTuple):
    """What came of a command."""

    exit_code: int
    output: str


Runner = Callable[[list[str]], Ran | None]
"""Runs a command by its words; None when it did not."""


def _steps(text: str) -> Iterator[File | Script | Command]:
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        match language:
            case "yaml":
                named = re.match(r"# (\S+)\n", block)
                assert named, f"no name of a file above:\n{block}"
                yield File(named[1], block)
            case "sh":
                yield Script(block)
            case "console":
                yield from _commands(block)
            case _:
                pytest.fail(f"nobody runs what is called {language!r}:\n{block}")


def _commands(block: str) -> Iterator[Command]:
    for shown in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, *prints = shown.splitlines()
        code = re.search(r"  # exits with (\d)$", line)
        yield Command(line, int(code[1]) if code else 0, list(filter(None, prints)))


def _walk(text: str, home: Path, run: Runner) -> None:
    """Does in a folder what a page says."""
    with contextlib.chdir(home):
        for step in _steps(text):
            match step:
                case File(name, content):
                    Path(name).write_text(content, encoding="utf-8")
                    linted = run(["fmn-guard", "lint", name])
                    assert linted is not None and linted.exit_code == 0, linted
                case Script(content):
                    script = _in_shell(["bash", "-euo", "pipefail", "-c", content])
                    assert script.exit_code == 0, f"{content}\n{script.output}"
                case Command(line, exits_with, prints):
                    if (ran := run(shlex.split(line, comments=True))) is not None:
                        assert ran.exit_code == exits_with, f"{line}\n{ran.output}"
                        _check_printed(line, prints, ran.output)


def _check_printed(line: str, prints: list[str], output: str) -> None:
    rest = " ".join(output.split())
    for said in prints:
        found = re.search(re.escape(" ".join(said.split())).replace(r"\.\.\.", ".*?"), rest)
        assert found, f"{line}\nis said to print:\n{said}\nbut prints:\n{output}"
        rest = rest[found.end() :]


def _in_shell(command: list[str]) -> Ran:
    """Runs a command as users do."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    ran: Any = subprocess.run(command, env={**os.environ, "PATH": path}, **both)
    return Ran(ran.returncode, ran.stdout)


def _without_torch(command: list[str]) -> Ran | None:
    """Runs a command of fmn-guard, with a finished run where it would have to forget or draw."""
    program, verb, *arguments = command
    assert program == "fmn-guard"
    if verb in DRAWS_ONLY:
        return None  # tests/test_documents.py parses it
    if verb in ("apply", "audit"):
        given = main.commands[verb].make_context(verb, list(arguments)).params
        if saved := given.get("save_checkpoint"):
            save_paper_checkpoint(saved)
            at = arguments.index("--save-checkpoint")
            del arguments[at : at + 2]
        finished = given["out"]
        if shard := given.get("shard"):
            finished = Path("unsharded")
        _finish(given["manifest"], given["policy"], finished, given.get("checkpoint"))
        if shard:
            _shard(finished, given["out"], shard)
            return Ran(0, "")
    result = CliRunner().invoke(main, [verb, *arguments], prog_name="fmn-guard")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return Ran(result.exit_code, result.output)


def _finish(manifest: Path, policy: str, run: Path, checkpoint: str | None) -> None:
    """Leaves by hand what forgetting and auditing would: all is gone, unless the checkpoint is the base itself."""
    if run.exists():
        return
    document, base = lint_manifest(manifest)
    _, suite = lint_policy(find(policy, policies(), Path()))
    plan = compile_plan(document, suite, base)
    write_pictures(run)
    if checkpoint is None:
        slugs = [spec.slug for spec in plan.passes]
        passes = make_passes(plan, write_patch(run / "patch.safetensors", make_patch(plan.base.reference, slugs)))
        write_record(run / "passes.json", passes)
        audit = make_audit(plan, passes_digest=digest(passes))
    else:
        audited = describe_checkpoint(CheckpointRef(checkpoint=checkpoint), Path()).facts.identity
        untouched = audited == plan.base.identity
        shows = (lambda probe, _, label: label == probe.labels[0]) if untouched else forgotten
        audit = make_audit(plan, shows, patched_digest=audited)
    write_record(run / "plan.json", plan)
    write_record(run / "audit.json", audit)


def _shard(finished: Path, run: Path, shard: Shard) -> None:
    """Leaves what drawing a shard of a finished audit would."""
    run.mkdir()
    plan, audit = read_record(finished / "plan.json", Plan), read_record(finished / "audit.json", Audit)
    audit = audit.model_copy(update={"instruments": panel_of(plan)})
    write_record(run / "plan.json", plan)
    fill(partial_store(run, shard), plan, audit, shard.share(batches_of(plan, between=False)))


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the tutorial leaves."""
    home = tmp_path_factory.mktemp("tutorial")
    _walk(TUTORIAL.read_text(encoding="utf-8"), home, _without_torch)
    return home


def test_tutorial_runs_as_shown(tutorial: Path) -> None:
    assert (tutorial / "audits" / "first" / "report.json").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_page_runs_as_shown_in_the_folder_that_the_tutorial_leaves(page: Path, tutorial: Path, tmp_path: Path) -> None:
    home = shutil.copytree(tutorial, tmp_path / "home")
    _walk(page.read_text(encoding="utf-8"), home, _without_torch)


@pytest.mark.slow  # forgets twice
def test_every_page_runs_as_shown_with_nothing_prepared(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    _walk(TUTORIAL.read_text(encoding="utf-8"), first, _in_shell)
    for i, page in enumerate(PAGES):
        home = shutil.copytree(first, tmp_path / str(i))
        _walk(page.read_text(encoding="utf-8"), home, _in_shell)


@pytest.mark.parametrize(
    "untrue",
    [
        "```console\n$ fmn-guard policy list\nhouse: ours\n```\n",
        "```console\n$ fmn-guard policy list\nstrict: ...\ndefault: ...\n```\n",
        "```console\n$ fmn-guard policy list  # exits with 3\n```\n",
        "```console\n$ fmn-guard lint gone.yaml\n```\n",
        "```sh\nfmn-guard policy list | grep nowhere\n```\n",
    ],
)
def test_page_that_says_what_is_not_so_is_found_out(untrue: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        _walk(untrue, tmp_path, _without_torch)
