"""``python -m benchmarks.false_alarms``: how often NudeNet and open_nsfw see nudity where there is none. Resumable.

The pictures are those that ConceptBench asks of the built-in model, of which none is explicit: invented people in
portraits, animals, food and things. With ``--photographs FOLDER`` what is seen in each PNG of it is told as well; the
astronaut and the camera man in the wheel of scikit-image are positive controls, of faces.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from fmn_guard.audit.auditor import measure
from fmn_guard.audit.detectors import load_detector
from fmn_guard.audit.stages import Models
from fmn_guard.conceptbench.summary import bench_plan
from fmn_guard.evidence import Audit
from fmn_guard.facts import describe_checkpoint
from fmn_guard.gathered import BROAD_CLASSES, STRICT_CLASSES
from fmn_guard.instruments import NudeNetSpec, OpenNsfwSpec
from fmn_guard.manifest import CheckpointRef
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.plan import Plan
from fmn_guard.record import read_record, write_record
from fmn_guard.shipped import suites
from fmn_guard.stats import wilson
from fmn_guard.suite import load_suite

RUN = Path("build/bench-false-alarms")
DETECTORS = (NudeNetSpec(name="nudenet"), OpenNsfwSpec(name="opennsfw"))


def plan_of(pictures: int | None) -> Plan:
    """ConceptBench of the built-in model, or as many of its pictures at even distances."""
    base = describe_checkpoint(CheckpointRef(checkpoint="builtin:emoji-sd"), Path())
    plan = bench_plan(load_suite(suites() / "conceptbench-1"), base)
    n = len(plan.probes)
    kept = plan.probes if pictures is None else tuple(plan.probes[i * n // pictures] for i in range(min(n, pictures)))
    return plan.model_copy(update={"probes": kept, "detectors": DETECTORS})


def looked(plan: Plan) -> Audit:
    """What detectors see in each picture; what an earlier call saw is taken from its folder."""
    path = RUN / "audit.json"
    if path.exists() and (done := read_record(path, Audit)).plan_digest == plan.digest:
        return done
    path.unlink(missing_ok=True)
    load = partial(load_pipeline, describe_checkpoint(CheckpointRef(checkpoint=plan.base.reference), Path()).folder)
    RUN.mkdir(parents=True, exist_ok=True)
    write_record(RUN / "plan.json", plan)
    audit = measure(
        plan, Models(load, load), patched_digest=plan.base.identity, passes_digest=None, out=RUN, keep_images=False
    )
    assert audit is not None  # it is of no shard
    return audit


def table(audit: Audit) -> Iterator[str]:
    """A row for each set of classes and each class that is ever seen, and each score from which it counts."""
    for instrument in audit.instruments[1:]:
        if instrument.error:
            yield f"{instrument.name} measured nothing: {instrument.error}"
    yield "| detector | class | score from | pictures | 95 % interval |"
    yield "|---|---|---|---|---|"
    pictures = [seen for seen in audit.observations if seen.side == "base"]
    for spec in DETECTORS:
        found = [boxes for seen in pictures if (boxes := seen.sightings.get(spec.called)) is not None]
        sets = {label: {label} for label in sorted({box.label for boxes in found for box in boxes})}
        if spec.called == "nudenet":
            sets = {"strict": set(STRICT_CLASSES), "broad": set(BROAD_CLASSES)} | sets
        for label, members in sets.items():
            for least in spec.thresholds:
                hits = sum(any(box.label in members and box.score >= least for box in boxes) for boxes in found)
                if hits or label in ("strict", "broad", "nsfw"):
                    interval = wilson(hits, len(found), 0.95)
                    yield f"| {spec.called} | {label} | {least:g} | {hits} of {len(found)} | {interval} |"


def photographs(folder: Path) -> Iterator[str]:
    """What detectors see in each picture of a folder, from the least score that each gives at all."""
    detectors = [load_detector(spec) for spec in DETECTORS]
    for path in sorted(folder.glob("*.png")):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        seen = [f"{each.label} {each.score:.2f}" for detector in detectors for each in detector.detect(pixels)]
        yield f"{path.name}: {', '.join(seen) or 'nothing'}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, help="fewer than all 498")
    parser.add_argument("--photographs", type=Path, help="folder of PNG files that are looked at as well")
    asked = parser.parse_args()
    if asked.photographs:
        print(*photographs(asked.photographs), sep="\n", flush=True)
    print(*table(looked(plan_of(asked.pictures))), sep="\n")


if __name__ == "__main__":
    main()
