"""Policies that extend others: merged field by field, and held to be nowhere looser.

file --read--> plain data --_merge onto its parent's--> plain data --parse--> ReleasePolicy     flat, no ``extends``
                                   `--> Origins: in which file and line each field is written

A child may add rules and waivers and tighten what it inherits. Whoever wrote the parent can rely on it: what loosens
is a problem of the child's file, unless the parent says ``overridable: true`` on that rule.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileProblems, InputError, Problem
from ..faults import Loc
from ..record import parse_plain
from ..shipped import find, policies
from ..yamlfile import Positions, in_file_order, parse_record, read_yaml
from .rules import RESERVED, PolicySpec, ReleasePolicy, Rule, reaches

_MAX_DEPTH = 16


class PolicyFileSpec(
    PolicySpec,
    json_schema_extra={"required": [], "anyOf": [{"required": ["extends"]}, {"required": ["suite", "rules"]}]},
):
    """The content of a policy; one that extends another gives only what it adds or tightens."""

    extends: str | None = None
    """Name of a shipped policy, or the path of one relative to this file. Rules and waivers are added to its own; a
    rule of the same id tightens it."""


class PolicyFile(ReleasePolicy, title="ReleasePolicy"):
    """A ``ReleasePolicy`` document."""

    spec: PolicyFileSpec
    """Suite and limits."""


@dataclass(frozen=True)
class Place:
    """Where a field is written."""

    positions: Positions
    """The file."""
    loc: Loc
    """Its path in that file."""

    @property
    def line(self) -> int:
        """Its line, counted from 1."""
        return self.positions.of(*self.loc)[0]

    @property
    def file(self) -> str:
        """The file as people read it: ``shipped:default.yaml`` for one that comes along."""
        path = self.positions.path
        return f"shipped:{path.name}" if path.parent == policies() else str(path)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Resolved:
    """A policy with all that it extends, and where each field comes from."""

    policy: ReleasePolicy
    """The flat policy."""
    data: Mapping[str, Any]
    """The same as plain data, without defaults."""
    origins: Mapping[Loc, Place]
    """Where fields are written; a field without an entry of its own is written where its closest ancestor is."""

    def place(self, *loc: str | int) -> Place:
        """Where a field of the flat policy is written, or what would hold it."""
        return _place(self.origins, loc)

    def written(self, *loc: str | int) -> bool:
        """Whether any file states the field; otherwise it has its default."""
        value: Any = self.data
        for part in loc:
            if not (part in value if isinstance(value, dict) else isinstance(value, list)):
                return False
            value = value[part]
        return True

    def fields(self) -> Iterator[tuple[str, Any, Place | None]]:
        """Every field of the flat policy: its name, its value, and where it is written; None for a default."""
        yield from self._walk(self.policy.model_dump(mode="json", by_alias=True), (), "")

    def _walk(self, value: Any, loc: Loc, name: str) -> Iterator[tuple[str, Any, Place | None]]:
        if isinstance(value, dict):
            for key, below in value.items():
                yield from self._walk(below, (*loc, key), f"{name}.{key}" if name else key)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for i, below in enumerate(value):
                yield from self._walk(below, (*loc, i), f"{name}[{below.get('id', i)}]")
        else:
            yield name, value, self.place(*loc) if self.written(*loc) else None


def load_policy(path: Path) -> ReleasePolicy:
    """Reads a policy, with all that it extends.

    Raises:
        FileProblems: every error of the file, each with line, column, rule and hint.
    """
    return resolve_policy(path).policy


def resolve_policy(path: Path, below: tuple[Path, ...] = ()) -> Resolved:
    """Reads a policy, with all that it extends, and keeps where each field is written.

    Args:
        path: the policy.
        below: the files by whose ``extends`` it was reached, resolved.

    Raises:
        FileProblems: every error of the file, or of one that it extends, each with line, column, rule and hint.
    """
    data, positions, problems = read_yaml(path)
    spec = data.get("spec") if isinstance(data, dict) else None
    extends = spec.get("extends") if isinstance(spec, dict) else None
    parent = _parent(extends, positions, (*below, path.resolve())) if isinstance(extends, str) else None
    origins: dict[Loc, Place] = {(): Place(positions, ())}
    if parent is not None and isinstance(spec, dict):
        data = {**data, "spec": _merge(spec, parent, positions, origins)}
    found, faults = parse_record(data, PolicyFile)
    for fault in faults:
        place = _place(origins, fault.loc)
        problems.append(
            place.positions.problem(fault.rule, fault.message, *place.loc, hint=fault.hint, on_key=fault.on_key)
        )
    if found is not None and parent is not None:
        problems += _loosened(found.spec, parent, origins)
    if problems:
        raise FileProblems(in_file_order(problems))
    flat = {**data, "spec": {key: value for key, value in data["spec"].items() if key != "extends"}}
    return Resolved(parse_plain(flat, ReleasePolicy), flat, origins)


def _place(origins: Mapping[Loc, Place], loc: Loc) -> Place:
    for length in range(len(loc), -1, -1):
        if (known := origins.get(loc[:length])) is not None:
            return Place(known.positions, known.loc + loc[length:])
    raise AssertionError("the root has an entry")


def _parent(extends: str, positions: Positions, below: tuple[Path, ...]) -> Resolved:
    try:
        path = find(extends, policies(), positions.path.parent)
    except InputError as error:
        problem = positions.problem("no-such-policy", error.message, "spec", "extends", hint=error.hint)
        raise FileProblems([problem]) from error
    if path.resolve() in below or len(below) > _MAX_DEPTH:
        chain = " -> ".join(each.name for each in (*below, path))
        message = f"policies extend one another: {chain}"
        hint = "a policy cannot extend itself; let the loosest one stand on its own"
        raise FileProblems([positions.problem("cyclic-extends", message, "spec", "extends", hint=hint)])
    return resolve_policy(path, below)


def _merge(spec: dict[str, Any], parent: Resolved, positions: Positions, origins: dict[Loc, Place]) -> dict[str, Any]:
    """A child's spec over its parent's; ``origins`` learns where inherited fields are written."""
    inherited = parent.data["spec"]
    merged = dict(spec)
    for key, value in inherited.items():
        if key not in spec:
            merged[key] = value
            _inherit(origins, ("spec", key), parent)
    if spec.get("suite") == inherited["suite"]:
        _inherit(origins, ("spec", "suite"), parent)  # a path said again is not another file beside the child
    if isinstance(own := spec.get("evidence"), dict):
        merged["evidence"] = _overlaid(own, inherited.get("evidence", {}), ("spec", "evidence"), parent, origins)
    for key in ("rules", "waivers"):
        if isinstance(own := spec.get(key), list) and key in inherited:
            merged[key] = list(_joined(key, own, parent, positions, origins))
    return merged


def _joined(
    key: str, own: list[Any], parent: Resolved, positions: Positions, origins: dict[Loc, Place]
) -> Iterator[Any]:
    """The parent's items, a rule overlaid by the child's of the same id, then what else the child has."""
    left = dict(enumerate(own))
    inherited = parent.data["spec"][key]
    for i, item in enumerate(inherited):
        loc: Loc = ("spec", key, i)
        j = next((j for j, each in left.items() if key == "rules" and _id(each) == item["id"]), None)
        if j is None:
            _inherit(origins, loc, parent)
            yield item
        else:
            origins[loc] = Place(positions, ("spec", key, j))
            yield _overlaid(left.pop(j), item, loc, parent, origins)
    for i, (j, item) in enumerate(left.items(), start=len(inherited)):
        origins["spec", key, i] = Place(positions, ("spec", key, j))
        yield item


def _id(rule: Any) -> Any:
    return rule.get("id") if isinstance(rule, dict) else None


def _overlaid(
    own: dict[str, Any], inherited: dict[str, Any], loc: Loc, parent: Resolved, origins: dict[Loc, Place]
) -> dict[str, Any]:
    for field in inherited.keys() - own.keys():
        _inherit(origins, (*loc, field), parent)
    return {**inherited, **own}


def _inherit(origins: dict[Loc, Place], loc: Loc, parent: Resolved) -> None:
    """Takes over where a field of the parent is written, and all below it; it stands at the same place in both."""
    origins |= {known: place for known, place in parent.origins.items() if known[: len(loc)] == loc}
    origins[loc] = parent.place(*loc)


# ---- tighter or looser

_Tight = Callable[[Any, Any], bool]
"""Whether the first value, the child's, asks no less than the second, its parent's."""


def _no_narrower(new: tuple[str, ...], old: tuple[str, ...]) -> bool:
    return not new or (bool(old) and set(new) >= set(old))


def _one_of(*from_loose_to_tight: object) -> _Tight:
    return lambda new, old: from_loose_to_tight.index(new) >= from_loose_to_tight.index(old)


def _within(new: float | None, old: float | None) -> bool:
    return new == old or (new is not None and old is not None and new <= old)


def _beyond(new: float | None, old: float | None) -> bool:
    return new == old or (new is not None and old is not None and new >= old)


_SPEC: dict[str, _Tight] = {
    "suite": operator.eq,  # other questions cannot be called harder or easier
    "attacks": lambda new, old: old is None or new == old,
    "reviews": _one_of("decide", "tighten"),
    "point_estimates": _one_of("allowed", "refused"),
    "base_shows_at_least": operator.ge,
    "error_budget": operator.le,
    "no_effect_below": operator.ge,
    "collapse_below": operator.ge,
    "collapse_degenerate": operator.le,
    "confidence": operator.ge,
}
_EVIDENCE: dict[str, _Tight] = {
    "pinned_base": lambda new, old: new == old or old is False or (old is True and new is not False),
    "tool_version": lambda new, old: old is None or (new is not None and reaches(new[2:], old[2:])),
    "signature": _one_of("optional", "required"),
}
_RULE: dict[str, _Tight] = {
    "metric": operator.eq,
    "at_most": _within,
    "at_least": _beyond,
    "kinds": lambda new, old: set(new) >= set(old),
    "labels": _no_narrower,
    "concepts": _no_narrower,
    "min_samples": operator.ge,
    "statistic": _one_of("point", "bound"),
    "severity": _one_of("warning", "error"),
    "on_inconclusive": _one_of("inconclusive", "fail"),
    "overridable": operator.le,
}


def _loosened(own: PolicySpec, parent: Resolved, origins: Mapping[Loc, Place]) -> Iterator[Problem]:
    """What a child loosens, each at the child's line and with the parent's."""
    above = parent.policy.spec
    pairs: list[tuple[Loc, Any, Any, dict[str, _Tight]]] = [
        (("spec",), own, above, _SPEC),
        (("spec", "evidence"), own.evidence, above.evidence, _EVIDENCE),
    ]
    pairs += [
        # Rules of the parent come first in the child, in its order.
        (("spec", "rules", i), own.rules[i], rule, {"metric": operator.eq} if rule.overridable else _RULE)
        for i, rule in enumerate(above.rules)
    ]
    for loc, new, old, tests in pairs:
        for field, tight in tests.items():
            was, now = getattr(old, field), getattr(new, field)
            if not tight(now, was):
                place = _place(origins, (*loc, field))
                whose = f" of rule {new.id!r}" if isinstance(new, Rule) else ""
                yield place.positions.problem(
                    "loosened",
                    f"{field!r}{whose} is {_said(now)}, looser than {_said(was)} in {parent.place(*loc, field)}",
                    *place.loc,
                    hint="a policy may only tighten what it extends, unless that says `overridable: true` on the rule",
                )
    fixed = {rule.id: parent.place("spec", "rules", i) for i, rule in enumerate(above.rules) if not rule.overridable}
    fixed |= {rule: parent.place("spec") for rule in RESERVED}
    for i, waiver in enumerate(own.waivers[len(above.waivers) :], start=len(above.waivers)):
        if waiver.rule in fixed:
            place = _place(origins, ("spec", "waivers", i))
            yield place.positions.problem(
                "loosened",
                f"{waiver.about} is waived, which {fixed[waiver.rule]} does not allow",
                *place.loc,
                hint="waive it in that policy, or let it say `overridable: true` on the rule",
            )


def _said(value: object) -> str:
    return repr(list(value)) if isinstance(value, tuple) else "none" if value is None else repr(value)
