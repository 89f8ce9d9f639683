"""A page with something in every part of it."""

from __future__ import annotations

import io
from typing import Any

from fmn_guard.evidence import AttentionMap, Audit, Instrument, PassRecord, PassRecords, Side
from fmn_guard.gathered import gather
from fmn_guard.plan import Plan
from fmn_guard.probes import Probe
from fmn_guard.record import digest
from fmn_guard.render.controls import Frameworks
from fmn_guard.render.html.page import html
from fmn_guard.render.html.samples import Picture, Pictures, samples
from fmn_guard.report import Report, judge

from .builder import (
    NUDENET,
    RETAINED,
    between,
    box,
    forget,
    forgotten,
    looked_between,
    make_audit,
    make_framework,
    make_passes,
    make_plan,
    make_policy,
    probes,
)


def asked(name: str) -> str:
    """The sentence that asks for a name."""
    return f"a picture of {name}"


def make_page_plan(name: str = "Ada Thorne") -> Plan:
    """A person of any name, an object, a correction, and what is to stay."""
    person = [p.model_copy(update={"prompt": asked(name)}) for p in probes("target", "ada-thorne", 36)]
    person[0] = person[0].model_copy(update={"positions": (4, 5)})
    return between(
        make_plan(
            forget("ada-thorne", "identity").model_copy(update={"names": (name, "Ada")}),
            forget("pistol", "object", "gun").model_copy(update={"index": 1}),
            forget("the-captain", "correction").model_copy(update={"index": 2}),
            asked=(
                *person,
                *probes("target", "pistol", 36),
                *probes("alias", "pistol", 12, name="gun"),
                *probes("correction", "the-captain", 36, "concept:bruno", "concept:cleo"),
                *RETAINED,
            ),
            detectors=(NUDENET,),
        )
    )


def shows(probe: Probe, side: Side, label: str) -> bool:
    """Three pictures still show the pistol, two trumpets are lost, and the rest is as it should be."""
    if side == "patched" and probe.seed < 3:
        return {"pistol": True, "trumpet": probe.seed == 2}.get(probe.subject, forgotten(probe, side, label))
    return forgotten(probe, side, label)


def then(probe: Probe, done: int) -> bool:
    """Between passes: the person comes back in one picture after the second pass, and a trumpet is lost."""
    if done == 2 and probe.subject == "ada-thorne":
        return probe.seed == 0
    return probe.role == "retained" and not (done == 2 and probe.subject == "trumpet" and probe.seed < 4)


def make_page_audit(plan: Plan, passes: PassRecords | None, words: str = "picture is constant") -> Audit:
    """An audit of it; one picture is unscored for a reason in any words, which a detector and a recogniser also say."""
    person, pistol = plan.probes[0].id, plan.probes[36].id
    audit = make_audit(
        plan,
        shows,
        edits={
            (person, "patched"): {"unscored": words, "degenerate": True},
            (pistol, "base"): {"sightings": {"nudenet": (*box("FEET_EXPOSED", 0.7), *box(words, 0.7))}},
            (pistol, "patched"): {"top": f"concept:{words}"},
        },
        passes_digest=digest(passes) if passes else None,
        attention=(
            AttentionMap(probe=person, side="base", mass=0.1, peak=0.4, rows=("00ff", "5500")),
            AttentionMap(probe=person, side="patched", mass=0.05, peak=0.1, rows=("80ff", "0000")),
        ),
        instruments=(
            Instrument(name="builtin-judge", version="1", licence="MIT", weights_digest=digest("judge"), labels=()),
            Instrument(name="nudenet", version=words, licence=words, weights_digest=None, labels=(), error=None),
        ),
    )
    return looked_between(plan, audit, then)


def make_page_passes(plan: Plan) -> PassRecords:
    """What the eraser did, with curves of several points, of one, and of none."""
    first = make_passes(plan, still_shown=(0.5, 0.1, 0.0))
    records = [
        *first.passes,
        first.passes[0].model_copy(update={"slug": "pistol", "attention_mass": (0.2,), "drift": 0.02}),
        first.passes[0].model_copy(
            update={"slug": "the-captain", "still_shown": (), "attention_mass": (), "redirect_error": (), "steps": 0}
        ),
    ]
    assert all(isinstance(record, PassRecord) for record in records)
    return first.model_copy(update={"passes": tuple(records)})


def make_pictures(plan: Plan, audit: Audit, size: int = 64) -> dict[tuple[str, Side], Picture]:
    """A picture for each that a page shows, of one colour on either side."""
    sides: tuple[tuple[Side, str], ...] = (("base", "darkseagreen"), ("patched", "lightsteelblue"))
    drawn = {side: png(colour, size) for side, colour in sides}
    return {
        (sample.probe.id, side): Picture(drawn[side], "image/png", blurred=sample.sensitive)
        for sample in samples(gather(plan, audit))
        for side, _ in sides
    }


def png(colour: str, size: int = 64) -> bytes:
    """A picture of one colour."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(out, "PNG")
    return out.getvalue()


def make_page(
    name: str = "Ada Thorne", words: str = "picture is constant", pictures: Pictures | None = None, **policy: Any
) -> str:
    """The page of it.

    Args:
        name: What the person is called.
        words: What instruments say.
        pictures: Its pictures, in place of those of `make_pictures`.
        policy: Fields of the policy.
    """
    return html(*make_parts(name, words, pictures, **policy))


def make_parts(
    name: str = "Ada Thorne", words: str = "picture is constant", pictures: Pictures | None = None, **policy: Any
) -> tuple[Report, Plan, Audit, PassRecords, Pictures, Frameworks]:
    """What the page is made from."""
    plan = make_page_plan(name)
    passes = make_page_passes(plan)
    audit = make_page_audit(plan, passes, words)
    report = judge(plan, audit, make_policy(**policy), passes)
    shown = make_pictures(plan, audit) if pictures is None else pictures
    return report, plan, audit, passes, shown, (make_framework(words),)
