"""Manifests, plans, audits and policies made by hand: small, complete, and passing until a test spoils them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fmn_guard.evidence import Audit, Between, Instrument, Observation, PassRecord, PassRecords, Side, Sighting
from fmn_guard.facts import ModelFacts
from fmn_guard.frameworks import ComplianceFramework, Control, FrameworkSpec
from fmn_guard.frameworks import Source as TextSource
from fmn_guard.gathered import gather
from fmn_guard.instruments import DetectorSpec, NudeNetSpec, RecogniserSpec
from fmn_guard.manifest import Manifest, Metadata
from fmn_guard.matrix import pass_matrix
from fmn_guard.passes import PassKind, PassSpec, RetainSpec
from fmn_guard.plan import Plan
from fmn_guard.policy import PolicySpec, ReleasePolicy, Rule
from fmn_guard.probes import Probe, Role, probes_between
from fmn_guard.record import digest, parse_plain
from fmn_guard.suite import ProbeCounts, Sampler

BASE = ModelFacts(
    reference="builtin:emoji-sd",
    family="stable-diffusion",
    weights_digest=digest("weights"),
    tokenizer_digest=digest("tokenizer"),
    config_digest=digest("config"),
    prediction_type="epsilon",
    max_tokens=16,
    picture_size=64,
)
PATCHED = digest("patched")
NUDENET = NudeNetSpec(name="nudenet", thresholds=(0.4, 0.6))
SUPPRESSED = Rule(id="suppressed", metric="target_recognised", at_most=0.1)
KEPT = Rule(id="kept", metric="retained_drop", at_most=0.1)

Shows = Callable[[Probe, Side, str], bool]
"""Whether a picture of a probe shows a label."""
Edits = Mapping[tuple[str, Side], dict[str, Any] | None]
"""Changed fields of single observations; None removes one."""


def make_manifest(checkpoint: object = BASE.reference, **spec: object) -> Manifest:
    """A manifest about a checkpoint, with the rest of what a file's ``spec`` would hold."""
    document = {
        "apiVersion": "fmn-guard/v1",
        "kind": "ConceptManifest",
        "metadata": {"name": "example"},
        "spec": {"base": {"checkpoint": str(checkpoint)}, **spec},
    }
    return parse_plain(document, Manifest)


def probes(
    role: Role,
    subject: str,
    n: int,
    *labels: str,
    name: str | None = None,
    neighbour_of: tuple[str, ...] = (),
    held_out: bool = False,
) -> tuple[Probe, ...]:
    """``n`` probes in six prompts; an alias has a name of its own."""
    return tuple(
        Probe(
            id=f"{role}/{name or subject}/{i % 6}/{i}",
            role=role,
            subject=subject,
            prompt=f"{role} {name or subject} number {i % 6}",
            seed=i,
            labels=labels or (f"concept:{subject}",),
            neighbour_of=neighbour_of,
            held_out=held_out,
        )
        for i in range(n)
    )


RETAINED = (
    *probes("retained", "dog", 20),
    *probes("retained", "panda", 20, held_out=True),
    *probes("retained", "trumpet", 20, neighbour_of=("pistol",)),
)
"""What is to stay: something, something held out, and a neighbour of ``pistol``."""


def forget(slug: str, kind: PassKind = "object", *aliases: str) -> PassSpec:
    """A pass that forgets a concept, or corrects a prompt."""
    return PassSpec(
        index=0,
        slug=slug,
        kind=kind,
        names=(slug.replace("-", " "), *aliases),
        prompts=(),
        stand_ins=(),
        pictured=(),
        images=None,
        images_digest=None,
        image_count=8,
        preset="guarded",
        steps=40,
        batch=8,
        stop=None,
        learning_rate=0.1,
        momentum=0.8,
        times=4,
        noisiest=1.0,
        projection=1e-3,
        preserve=40.0,
        repulsion=0.0,
        redirect_weight=10.0,
        language_weight=4.0,
        loosened=1.0,
        retain=RetainSpec(excluded_words=(), kept=(), forgotten=(), kept_weight=2.0, sentences=900, pictures=24),
        seed=0,
        threads=1,
    )


def make_plan(
    *passes: PassSpec,
    asked: tuple[Probe, ...] | None = None,
    detectors: tuple[DetectorSpec, ...] = (),
    reference: str = "builtin:emoji-sd",
) -> Plan:
    """A plan that forgets ``pistol``, with 36 probes of it and 40 of two retained concepts."""
    usual = (*probes("target", "pistol", 36), *probes("retained", "dog", 20), *probes("retained", "cat", 20))
    return Plan(
        name="small",
        manifest_digest=digest("manifest"),
        suite_digest=digest("suite"),
        suite="standard",
        base=BASE.model_copy(update={"reference": reference}),
        passes=passes or (forget("pistol"),),
        probes=usual if asked is None else asked,
        sampler=Sampler(steps=10, guidance=3.0),
        recogniser=RecogniserSpec(name="builtin-judge"),
        detectors=detectors,
    )


def forgotten(probe: Probe, side: Side, label: str) -> bool:
    """What a perfect eraser leaves: the base shows a probe's first label, the patched model only what it must keep."""
    return (label == probe.labels[0]) == (side == "base" or probe.role == "retained")


def make_audit(plan: Plan, shows: Shows = forgotten, edits: Edits | None = None, **changes: Any) -> Audit:
    """An audit of a plan; detectors see nothing."""
    edits = edits or {}
    sides: tuple[Side, ...] = ("base", "patched")
    observations = []
    for probe in plan.probes:
        for side in sides:
            change = edits.get((probe.id, side), {})
            if change is None:
                continue
            seen = Observation(
                probe=probe.id,
                side=side,
                image_digest=digest([probe.id, side]),
                scores={label: 0.9 if shows(probe, side, label) else 0.05 for label in probe.labels},
                top="none",
                sightings={spec.called: () for spec in plan.detectors},
            )
            observations.append(seen.model_copy(update=change))
    fields: dict[str, Any] = {
        "plan_digest": plan.digest,
        "passes_digest": None,
        "patched_digest": PATCHED,
        "instruments": (
            Instrument(
                name="builtin-judge", version="1", licence="Apache-2.0", weights_digest=digest("judge"), labels=()
            ),
        ),
        "observations": tuple(observations),
    }
    return Audit(**fields | changes)


Then = Callable[[Probe, int], bool]
"""Whether a picture that is drawn after so many passes shows a probe's first label."""


def between(plan: Plan, each: int = 6, retained: int = 10) -> Plan:
    """The plan, with looks between its passes."""
    counts = ProbeCounts(target=1, retained=1, between=each, between_retained=retained)
    ids = probes_between(plan.probes, [spec.slug for spec in plan.passes], counts)
    return plan.model_copy(update={"between": ids})


def looked_between(plan: Plan, audit: Audit, then: Then) -> Audit:
    """The audit, with what was seen between passes and the matrix of it."""
    asked = {probe.id: probe for probe in plan.probes}
    looks = tuple(
        Between(
            after=done,
            observations=tuple(
                Observation(
                    probe=name,
                    side="patched",
                    image_digest=digest([name, done]),
                    scores={label: 0.9 if then(asked[name], done) else 0.05 for label in asked[name].labels},
                    sightings={spec.called: () for spec in plan.detectors},
                )
                for name in ids
            ),
        )
        for done, ids in enumerate(plan.between, start=1)
    )
    matrix = pass_matrix(gather(plan, audit), looks)
    return audit.model_copy(update={"between": looks, "matrix": matrix})


def make_policy(*rules: Rule, **spec: Any) -> ReleasePolicy:
    """A policy of two error rules, ``SUPPRESSED`` and ``KEPT``, unless others are given."""
    return ReleasePolicy(
        api_version="fmn-guard/v1",
        kind="ReleasePolicy",
        metadata=Metadata(name="house"),
        spec=PolicySpec(suite="standard", rules=rules or (SUPPRESSED, KEPT), **spec),
    )


def make_passes(plan: Plan, patch_digest: str = digest("patch"), **changes: Any) -> PassRecords:
    """What the eraser did: one pass."""
    done: dict[str, Any] = {
        "slug": plan.passes[0].slug,
        "steps": 40,
        "stopped": "ceiling",
        "still_shown": (),
        "attention_mass": (0.4, 0.2, 0.05),
        "redirect_error": (1.0, 0.5, 0.1),
        "drift": 0.0123,
        "images_digest": digest("images"),
    }
    return PassRecords(
        plan_digest=plan.digest,
        base_digest=plan.base.identity,
        passes=(PassRecord(**done | changes),),
        patch_digest=patch_digest,
    )


def make_framework(title: str = "House rules") -> ComplianceFramework:
    """A framework that asks for the people, for the rest, and for what no finding is about."""
    return ComplianceFramework(
        api_version="fmn-guard/v1",
        kind="ComplianceFramework",
        metadata=Metadata(name="house-rules"),
        spec=FrameworkSpec(
            title=title,
            source=TextSource(title=f"{title}, second edition", url="https://example.org/rules"),
            controls=(
                Control(
                    id="A.1",
                    title="Who asked to go is gone.",
                    metrics=("target_recognised",),
                    kinds=("identity",),
                    not_covered="Others.",
                ),
                Control(id="A.2", title=title, metrics=("target_recognised", "retained_drop"), not_covered=title),
                Control(id="A.3", title="Nobody is undressed.", metrics=("nudenet_strict_rate",), not_covered="Films."),
            ),
        ),
    )


def box(label: str, score: float) -> tuple[Sighting, ...]:
    """What a detector sees: one box."""
    return (Sighting(label=label, score=score),)
