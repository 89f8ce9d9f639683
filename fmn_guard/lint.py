"""What can be said of a file before anything runs: its own problems, and those against what it names.

    manifest --lint_manifest--> Manifest and the described base; pictures and token lengths checked
    policy   --lint_policy-->   ReleasePolicy and the suite it names
    policy   --policy_warnings--> what is no problem yet, such as a waiver that has expired
    any file --lint_file-->     whichever its ``kind`` asks for

Everything found is reported at once, each problem with its place in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Literal, assert_never, cast, get_args

from .attacks.suite import load_attacks
from .cases import load_cases
from .errors import FileProblems, InputError, Problem, RefusedArtefact
from .facts import Checkpoint, describe_checkpoint, list_pictures
from .frameworks import load_framework
from .manifest import CheckpointRef, Kind, Manifest
from .policy import ReleasePolicy, resolve_policy
from .record import Record
from .sentences import longest_sentence
from .shipped import find, suites
from .source import Source, portable
from .suite import AuditSuite, load_suite
from .waivers import expired
from .yamlfile import MAX_BYTES, Loc, Positions, in_file_order, load_yaml, load_yaml_positions

DocumentKind = Literal[
    "ConceptManifest", "ReleasePolicy", "AuditSuite", "AttackSuite", "PolicyCases", "ComplianceFramework"
]


def lint_manifest(path: Path, base: CheckpointRef | None = None) -> tuple[Manifest, Checkpoint]:
    """Reads a manifest and checks it against its base and its pictures.

    Args:
        path: the manifest.
        base: checkpoint to take in place of the one it names, relative to the current directory.

    Returns:
        The manifest and its described base, ready for `compile_plan`.

    Raises:
        FileProblems: every problem, with its place in the file.
    """
    manifest, positions = load_yaml_positions(path, Manifest)
    problems = list(_picture_problems(manifest, positions, path.parent))
    try:
        found = describe_checkpoint(base or manifest.spec.base, Path() if base else path.parent)
    except InputError as error:
        rule = "refused-checkpoint" if isinstance(error, RefusedArtefact) else "no-such-checkpoint"
        problem = positions.problem(rule, error.message, "spec", "base", "checkpoint", hint=error.hint)
        raise FileProblems(in_file_order([problem, *problems])) from error
    checkpoint = replace(found, manifest_folder=path.parent, source=_source(path, manifest, positions))
    problems += _base_problems(manifest, checkpoint, positions)
    problems += _length_problems(manifest, checkpoint, positions)
    if problems:
        raise FileProblems(in_file_order(problems))
    return manifest, checkpoint


def lint_policy(path: Path) -> tuple[ReleasePolicy, AuditSuite]:
    """Reads a policy and the suite it names.

    Raises:
        FileProblems: every problem of the policy, or of its suite.
    """
    resolved = resolve_policy(path)
    place = resolved.place("spec", "suite")
    try:
        suite = find(resolved.policy.spec.suite, suites(), place.positions.path.parent)
    except InputError as error:
        problem = place.positions.problem("no-such-suite", error.message, *place.loc, hint=error.hint)
        raise FileProblems([problem]) from error
    return resolved.policy, load_suite(suite)


def lint_file(path: Path) -> DocumentKind:
    """Lints a file by what it says it is: a manifest, a policy, a suite, attacks, cases of a policy, or a framework.

    Raises:
        FileProblems: every problem, with its place in the file.
    """
    kind = _kind(path)
    match kind:
        case "ConceptManifest":
            lint_manifest(path)
        case "ReleasePolicy":
            lint_policy(path)
        case "AuditSuite":
            load_suite(path)
        case "AttackSuite":
            load_attacks(path)
        case "PolicyCases":
            load_cases(path)
        case "ComplianceFramework":
            load_framework(path)
        case _:
            assert_never(kind)
    return kind


def policy_warnings(path: Path, today: date) -> list[Problem]:
    """Waivers of a policy that have expired, each with its place; of another kind of file, nothing.

    Args:
        path: a file that `lint_file` has no problem with.
        today: the day.
    """
    if _kind(path) != "ReleasePolicy":
        return []
    resolved = resolve_policy(path)
    places = [resolved.place("spec", "waivers", i, "expires") for i in range(len(resolved.policy.spec.waivers))]
    return [
        place.positions.problem(
            "waiver-expired",
            f"the waiver of {waiver.about} by {waiver.owner} expired on {waiver.expires}",
            *place.loc,
            hint="delete it if all passes without it; otherwise the verdict is fail until its owner renews it",
        )
        for waiver, place in zip(resolved.policy.spec.waivers, places, strict=True)
        if expired(waiver, today)
    ]


class _Envelope(Record, extra="ignore"):
    kind: DocumentKind


def _kind(path: Path) -> DocumentKind:
    # Looked for in the text first: a file with a duplicate key or a bad tag is still of a kind, and is to be
    # reported with all its problems. What is not found this way is read properly, and refused in the usual words.
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_BYTES)
        written = re.findall(r"^kind: *(\w+) *(?:#.*)?$", text, re.MULTILINE)
        for kind in get_args(DocumentKind):
            if written == [kind]:
                return cast(DocumentKind, kind)
    return load_yaml(path, _Envelope).kind


def _source(path: Path, manifest: Manifest, positions: Positions) -> Source:
    spec = manifest.spec
    lines = {c.slug: positions.of("spec", "concepts", i, "phrase")[0] for i, c in enumerate(spec.concepts)}
    lines |= {c.slug: positions.of("spec", "corrections", i, "prompt")[0] for i, c in enumerate(spec.corrections)}
    return Source(path=portable(path), lines=lines)


def _picture_problems(manifest: Manifest, positions: Positions, folder: Path) -> Iterator[Problem]:
    for i, concept in enumerate(manifest.spec.concepts):
        if concept.images is not None:
            try:
                list_pictures(folder / concept.images)
            except InputError as error:
                loc = ("spec", "concepts", i, "images")
                yield positions.problem("no-such-images", error.message, *loc, hint=error.hint)


def _base_problems(manifest: Manifest, checkpoint: Checkpoint, positions: Positions) -> Iterator[Problem]:
    pinned = manifest.spec.base.digest
    if pinned is not None and pinned != checkpoint.facts.weights_digest:
        message = f"{checkpoint.facts.reference} has the weights digest {checkpoint.facts.weights_digest}"
        hint = "use the pinned checkpoint, or pin this one after checking where it comes from"
        yield positions.problem("wrong-base", message, "spec", "base", "digest", hint=hint)


def _length_problems(manifest: Manifest, checkpoint: Checkpoint, positions: Positions) -> Iterator[Problem]:
    for loc, name, kind in _names(manifest):
        try:
            checkpoint.token_positions(longest_sentence(name, style=kind == "style"))
        except InputError as error:
            yield positions.problem("phrase-too-long", error.message, "spec", *loc, hint=error.hint)


def _names(manifest: Manifest) -> Iterator[tuple[Loc, str, Kind]]:
    """Every name that a training sentence or an audit prompt will hold."""
    for i, name in enumerate(manifest.spec.keep):
        yield ("keep", i), name, "object"
    for i, concept in enumerate(manifest.spec.concepts):
        yield ("concepts", i, "phrase"), concept.phrase, concept.kind
        for j, name in enumerate(concept.aliases):
            yield ("concepts", i, "aliases", j), name, concept.kind
        for j, name in enumerate(concept.keep):
            yield ("concepts", i, "keep", j), name, concept.kind
        if concept.redirect_to is not None:
            yield ("concepts", i, "redirect_to"), concept.redirect_to, concept.kind
    for i, correction in enumerate(manifest.spec.corrections):
        yield ("corrections", i, "prompt"), correction.prompt, "object"
        yield ("corrections", i, "dominant"), correction.dominant, correction.dominant_kind
        if correction.expected is not None:
            yield ("corrections", i, "expected"), correction.expected, correction.dominant_kind
