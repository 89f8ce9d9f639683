"""What an older version wrote, in today's formats; nothing that was not measured or decided is made up for it.

YAML file --lift_text--> Lifted text     comments and order stay
run folder --lift_run--> LiftedRun       its chain is checked as it stands, then lifted, chained and judged anew
LiftedRun --write_run--> another run folder, with migrated.json

A run is never rewritten where it is: its digests and its signature are about what it was.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.util import load_yaml_guess_indent

import fmn_guard

from .chain import FILES, MIGRATED, PICTURES, SIGNATURE, STAGES, check_files, write_files
from .errors import BrokenChain, FileProblems, InputError
from .evidence import Audit, PassRecords
from .findings import Outcome
from .plan import Plan, plan_digest
from .policy import ReleasePolicy
from .record import Digest, R, Record, digest, file_digest, parse_plain, read_json, write_atomic, write_record
from .render import render
from .report import Report, judge
from .yamlfile import read_yaml

CURRENT = 1
"""The one version that this code reads, of documents and of records."""

Document = dict[str, Any]
"""Plain data: of a YAML file, or of a run as ``{"plan": ..., "passes": ..., "audit": ..., "policy": ...,
"report": ...}``; without passes where fmn-guard made no patch."""


class Lift(NamedTuple):
    """One step from an older format towards today's."""

    about: str
    """What it changes, in a sentence for people."""
    fits: Callable[[Document], bool]
    """Whether a document is of the older format."""
    apply: Callable[[Document], Document]
    """The same document in the newer one; pure.

    Raises:
        InputError: the newer format asks for something that the older one does not tell.
    """


class Migrated(Record):
    """migrated.json: which run this one was lifted from."""

    schema_version: Literal["fmn-guard/migrated/v1"] = "fmn-guard/migrated/v1"
    """Format of this record."""
    lifts: tuple[str, ...]
    """What was changed, in sentences."""
    superseded: dict[str, Digest]
    """Digest of the bytes of each stage of the earlier run, and of its list of files and its signature where it had
    them: what speaks of it by these speaks of the earlier run, not of this one."""
    verdict_before: Outcome
    """What the earlier run's report said; this one was judged anew."""


class LiftedText(NamedTuple):
    """A YAML file in today's format."""

    text: str
    lifts: tuple[Lift, ...]
    """What was applied; empty where the file was of today's format, and the text is as it was."""


class LiftedRun(NamedTuple):
    """A run in today's formats, not written yet."""

    source: Path
    """The folder that it was lifted from."""
    plan: Plan
    passes: PassRecords | None
    audit: Audit
    policy: ReleasePolicy
    report: Report
    """Judged anew, on the day on which it was judged before."""
    migrated: Migrated
    lifts: tuple[Lift, ...]
    """What was applied; empty where the run was of today's formats."""


def lift_text(path: Path, lifts: Sequence[Lift] | None = None) -> LiftedText:
    """Lifts a manifest, policy, suite, file of cases or framework.

    Args:
        path: The file.
        lifts: Steps to choose from; those that are known unless others are given.

    Raises:
        FileProblems: it is no YAML.
        InputError: it is of a newer version, or of one that nothing lifts.
    """
    data, _, problems = read_yaml(path)
    if problems:
        raise FileProblems(problems)
    document = data if isinstance(data, dict) else {}
    _refuse_newer(path, document.get("apiVersion"))
    lifted, applied = _lifted(document, DOCUMENT_LIFTS if lifts is None else lifts)
    if _version_of(lifted.get("apiVersion")) != CURRENT:
        raise InputError(
            f"{path}: nothing lifts {document.get('apiVersion')!r} to fmn-guard/v{CURRENT}",
            hint="is it spelled as in the examples? then write it anew, from `fmn-guard init` or a shipped file",
        )
    text = path.read_text(encoding="utf-8")
    return LiftedText(_rewritten(text, applied) if applied else text, applied)


def lift_run(run: Path) -> LiftedRun:
    """Lifts a concluded run, which must be of one piece by its own digests, and judges its audit anew.

    Raises:
        BrokenChain: a digest does not match: lifted, that would no longer be seen.
        InputError: a file is missing, unreadable, of a newer version, or tells too little for today's formats.
    """
    if (run / FILES).exists():
        check_files(run)
    with_passes = (run / "passes.json").exists()
    names = ("plan", *(("passes",) if with_passes else ()), "audit", "policy", "report")
    old = {name: _read(run / f"{name}.json") for name in names}
    _check_chain(run, old)
    with _shaped_as_expected(run):
        new, applied = _lifted(old, RUN_LIFTS)
        said = old["report"]["verdict"], old["report"].get("judged_on")
        judged_on = date.fromisoformat(said[1]) if said[1] else None
        beside = [name for name in (*STAGES, FILES, SIGNATURE) if (run / name).exists()]
        migrated = Migrated(
            lifts=tuple(lift.about for lift in applied),
            superseded={name: file_digest(run / name) for name in beside},
            verdict_before=said[0],
        )
    plan = _parsed(run, "plan", new, Plan)
    passes = None
    if with_passes:
        new["passes"] = new["passes"] | {"plan_digest": plan.digest}
        passes = _parsed(run, "passes", new, PassRecords)
    passes_digest = digest(passes) if passes else None
    new["audit"] = new["audit"] | {"plan_digest": plan.digest, "passes_digest": passes_digest}
    audit = _parsed(run, "audit", new, Audit)
    policy = _parsed(run, "policy", new, ReleasePolicy)
    report = judge(plan, audit, policy, passes, judged_on=judged_on)
    return LiftedRun(run, plan, passes, audit, policy, report, migrated, applied)


def write_run(lifted: LiftedRun, out: Path) -> None:
    """Writes a lifted run into a new folder: its records, its report, its patch and its pictures, and migrated.json.

    Reports in further formats stay behind: they told of the earlier run.

    Raises:
        InputError: the folder is there already, or cannot be made.
    """
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists, and nothing is written over", hint="give a new folder")
    making = out.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        making.mkdir()
        _write_into(making, lifted)
        making.rename(out)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written: {error.strerror or error}", hint="give a new folder in a folder"
        ) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _write_into(folder: Path, lifted: LiftedRun) -> None:
    source, plan, passes, audit, policy, report, migrated, _ = lifted
    write_record(folder / "plan.json", plan)
    if passes:
        write_record(folder / "passes.json", passes)
        shutil.copyfile(source / "patch.safetensors", folder / "patch.safetensors")
    write_record(folder / "audit.json", audit)
    write_record(folder / "policy.json", policy)
    write_record(folder / "report.json", report)
    write_atomic(folder / "report.md", render(folder / "report.md", report, plan, audit, passes))
    write_record(folder / MIGRATED, migrated)
    if (source / PICTURES).is_dir():
        shutil.copytree(source / PICTURES, folder / PICTURES)
    write_files(folder, None, ())


def _lifted(document: Document, lifts: Sequence[Lift]) -> tuple[Document, tuple[Lift, ...]]:
    applied = []
    for lift in lifts:
        if lift.fits(document):
            document = lift.apply(document)
            applied.append(lift)
    return document, tuple(applied)


def _rewritten(text: str, lifts: Sequence[Lift]) -> str:
    """The text of a file with lifts applied to it as people wrote it."""
    yaml = YAML(pure=True)
    yaml.preserve_quotes = True
    yaml.width = 1 << 16  # lines are broken where they were
    document, indent, offset = load_yaml_guess_indent(text, yaml=yaml)
    nested = re.search(r"^( +)[^\s#-]", text, re.MULTILINE)
    yaml.indent(mapping=len(nested[1]) if nested else 2, sequence=indent or 2, offset=offset or 0)
    for lift in lifts:
        document = lift.apply(document)
    out = StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def _version_of(stated: object) -> int | None:
    found = re.fullmatch(r"fmn-guard/(?:[a-z]+/)?v([0-9]+)", stated) if isinstance(stated, str) else None
    return int(found[1]) if found else None


def _refuse_newer(path: Path, stated: object) -> None:
    version = _version_of(stated)
    if version is None:
        raise InputError(f"{path} does not say of which version of fmn-guard it is", hint="is it the right file?")
    if version > CURRENT:
        raise InputError(
            f"{path} is of {stated}: this is fmn-guard {fmn_guard.__version__}, which reads v{CURRENT}",
            hint="pip install --upgrade fmn-guard",
        )


def _read(path: Path) -> Document:
    data = read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} is no record of fmn-guard's", hint="is it the right folder?")
    # The policy is the one document that people write.
    _refuse_newer(path, data.get("apiVersion" if path.name == "policy.json" else "schema_version"))
    return data


@contextmanager
def _shaped_as_expected(run: Path) -> Iterator[None]:
    """Turns what a lift stumbles over into a message: older records have no schema to be held against."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{run}: its records are not shaped as any version of fmn-guard shapes them",
            hint="is it the right folder?",
        ) from error


def _parsed(run: Path, name: str, lifted: Document, record: type[R]) -> R:
    try:
        return parse_plain(lifted[name], record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InputError(
            f"{run / name}.json cannot be lifted: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            hint="what this version asks for is not in it: measure again, with `fmn-guard apply` or `fmn-guard audit`",
        ) from error


def _check_chain(run: Path, old: Document) -> None:
    """Checks an older run by the digests in it, over its records as they are written."""
    passes, audit, report = old.get("passes"), old["audit"], old["report"]
    with _shaped_as_expected(run):
        planned = plan_digest(old["plan"])
    passes_digest = digest(passes) if passes else None
    patch = run / "patch.safetensors"
    stated = [
        ("audit.json", "plan", audit.get("plan_digest"), planned),
        ("audit.json", "passes", audit.get("passes_digest"), passes_digest),
        ("report.json", "plan", report.get("plan_digest"), planned),
        ("report.json", "passes", report.get("passes_digest"), passes_digest),
        ("report.json", "audit", report.get("audit_digest"), digest(audit)),
        ("report.json", "policy", report.get("policy_digest"), digest(old["policy"])),
    ]
    if passes:
        stated.insert(0, ("passes.json", "plan", passes.get("plan_digest"), planned))
        found = file_digest(patch) if patch.exists() else None
        stated.insert(1, ("patch.safetensors", "patch", passes.get("patch_digest"), found))
    for file, what, said, found in stated:
        if said != found:
            raise BrokenChain(
                f"{run / file}: digest of the {what} is {said or 'missing'}, expected {found or 'none'}",
                hint="restore the run first: lifted, this would no longer be seen",
            )


# ---- the lifts, oldest first


def _several_solutions(run: Document) -> bool:
    return any(isinstance(spec.get("preserve"), list) for spec in run["plan"]["passes"])


def _one_solution(run: Document) -> Document:
    """0.1.0 planned several closed-form solutions from careful to forceful, tried them in turn, and the last stood.

    Which one that was, passes.json tells. The probability below which it went on to re-steering is left out: it is
    spent.
    """
    new = deepcopy(run)
    records = {record["slug"]: record for record in new.get("passes", {}).get("passes", ())}
    for spec in new["plan"]["passes"]:
        weights = spec["preserve"]
        tried = records.get(spec["slug"], {}).pop("solutions", len(weights) if len(weights) == 1 else 0)
        if not 1 <= tried <= len(weights):
            raise InputError(
                f"plan.json: pass {spec['slug']} plans {len(weights)} closed-form solutions, and nothing tells which "
                "one stood",
                hint="measure again, with `fmn-guard apply` or `fmn-guard audit`",
            )
        spec["preserve"] = weights[tried - 1]
        if spec["stop"] is not None:
            spec["stop"].pop("fading", None)
    return new


def _older_policy(run: Document) -> bool:
    return "evidence" not in run["policy"]["spec"]


def _with_defaults(run: Document) -> Document:
    """Policies of 0.1.0 knew no waivers, no required evidence, and one way to match and to judge."""
    new = deepcopy(run)
    spec = new["policy"]["spec"]
    spec |= {
        "waivers": [],
        "evidence": {"pinned_base": False, "tool_version": None, "signature": "optional"},
        "point_estimates": "refused",
    }
    for rule in spec["rules"]:
        rule |= {"labels": [], "concepts": []}
        rule |= {"statistic": "bound", "on_inconclusive": "inconclusive", "overridable": False}
    return new


DOCUMENT_LIFTS: tuple[Lift, ...] = ()
"""Of files that people write: none yet, since v1 is the first."""

RUN_LIFTS = (
    Lift(
        "plan.json and passes.json: of several closed-form solutions of a pass, the plan keeps the one that stood.",
        _several_solutions,
        _one_solution,
    ),
    Lift("policy.json: what policies can ask for since then is set to ask for nothing.", _older_policy, _with_defaults),
)
"""Of runs."""
