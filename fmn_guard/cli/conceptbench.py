"""``fmn-guard conceptbench``: ask any checkpoint, beside its base, for a fixed list of concepts."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..conceptbench.summary import FILE, bench_plan, bench_summary
from ..cost import estimate
from ..errors import InputError
from ..facts import describe_checkpoint
from ..gate import exit_code
from ..instruments import BUILTIN, ClipRecogniserSpec, EmbedderSpec
from ..manifest import CheckpointRef
from ..record import file_digest, write_record
from ..shipped import find, suites
from ..suite import AuditSuite, load_suite
from .beside import measured_beside
from .console import emit, emit_json, keep_quiet, shown, talk
from .device import Precision, device_option, dtype_option
from .run import check_folder, default_folder, finished_audit, lacks_instrument, open_folder


@click.command()
@click.argument("checkpoint")
@click.option("--base", help="What it was made from; without, it is asked alone, and only presence is told.")
@click.option(
    "--forgotten",
    "forgotten",
    multiple=True,
    metavar="SLUG",
    help="A concept that it was to forget, or a correction that it was to make. May be given several times.",
)
@click.option(
    "--edition",
    "--suite",
    "edition",
    default="conceptbench-1",
    show_default=True,
    help="Name or file of the edition; conceptbench-sd-1 is for Stable Diffusion.",
)
@click.option("--clip", metavar="FOLDER", help="The CLIP that recognises, where the edition names none.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; after edition and checkpoint by default.")
@click.option("--store", type=click.Path(path_type=Path), help="Keep pictures' results there, for further checkpoints.")
@device_option
@dtype_option
@click.option("--no-images", is_flag=True, help="Do not keep the pictures.")
@click.option("--json", "as_json", is_flag=True, help=f"Print {FILE}.")
@click.option("--quiet", is_flag=True, help="No talk and no progress.")
@click.pass_context
def conceptbench(
    ctx: click.Context,
    checkpoint: str,
    base: str | None,
    forgotten: tuple[str, ...],
    edition: str,
    clip: str | None,
    out: Path | None,
    store: Path | None,
    device: str,
    precision: Precision,
    no_images: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Ask CHECKPOINT, a diffusers folder, for every concept of a benchmark, and tell what it draws beside its base.

    Nothing is judged against a limit: exit code 0 if all is measured, 4 if something asked is not scored, or the base
    does not show it. What was to be forgotten may be told later: the same command goes on from the same pictures.
    """
    from ..model.fit import refuse_misfits
    from ..model.placement import available_device

    say = keep_quiet if quiet else talk
    if forgotten and base is None:
        raise InputError("--forgotten goes with --base", hint="what was forgotten shows beside the base only")
    suite = load_suite(find(edition, suites(), Path()))
    if clip is not None:
        suite = _with_clip(suite, clip)
    suspect = describe_checkpoint(CheckpointRef(checkpoint=checkpoint), Path())
    original = describe_checkpoint(CheckpointRef(checkpoint=base), Path()) if base else suspect
    plan = bench_plan(suite, original)
    run = out or default_folder(plan, suspect.facts.identity)
    check_folder(run, plan)
    audit = finished_audit(run, plan, patched_digest=suspect.facts.identity)
    if audit is None and (run / "audit.json").exists():
        raise InputError(f"{shown(run)} holds the run of another checkpoint", hint="give another --out")
    if audit is not None and not lacks_instrument(audit):
        say(f"re-using {shown(run / 'audit.json')}")
    else:
        for each in (original, suspect):
            refuse_misfits(each.folder)
        device = str(available_device(device))
        open_folder(run, plan)
        say(f"run folder: {shown(run)}; {estimate(plan).images:,} pictures of both sides")
        audit = measured_beside(
            plan,
            original,
            suspect,
            run,
            quiet,
            device=device,
            precision=precision,
            keep_images=not no_images,
            kept_store=store,
        )
        assert audit is not None  # it is of no shard
    summary = bench_summary(suite, plan, audit, forgotten)
    write_record(run / FILE, summary)
    say(f"wrote {shown(run / FILE)}")
    if as_json:
        emit_json(summary)
    else:
        from ..render.bench import bench_table

        emit(bench_table(summary))
    ctx.exit(exit_code("pass" if summary.status == "measured" else "inconclusive"))


def _with_clip(suite: AuditSuite, place: str) -> AuditSuite:
    """The edition, recognised by a CLIP at hand, which is pinned by what it is."""
    if not isinstance(suite.spec.recogniser, ClipRecogniserSpec):
        raise InputError(f"suite {suite.metadata.name} is not recognised by a CLIP", hint="leave --clip out")
    weights, licence = None, None
    if not place.startswith(BUILTIN):
        path = Path(place) / "model.safetensors"
        if not path.is_file():
            raise InputError(f"there is no {shown(path)}", hint="a CLIP is a transformers folder with safetensors")
        weights, licence = file_digest(path), "not stated"
    clip = EmbedderSpec(called="clip", folder=place, weights=weights, licence=licence)
    recogniser = suite.spec.recogniser.model_copy(update={"clip": clip})
    return suite.model_copy(update={"spec": suite.spec.model_copy(update={"recogniser": recogniser})})
