"""``fmn-guard mscore``: does inversion find on the patched model what it finds on the base?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ..errors import InputError
from ..evidence import Audit
from ..facts import describe_checkpoint, list_pictures
from ..inversion import InversionSettings
from ..lint import lint_manifest, lint_policy
from ..manifest import CheckpointRef
from ..mscore import (
    FILE,
    LEAST_CONTROLS,
    LEAST_SEEDS,
    Cost,
    MScore,
    Protocol,
    estimate,
    plan_mscore,
    read_mscore,
    summarise,
)
from ..plan import Plan, compile_plan
from ..record import Digest, bytes_digest, file_digest, read_record
from ..shipped import find, policies
from .audited import Audited, audited_beside, audited_run, tell
from .console import emit, emit_json, keep_quiet, shown, talk
from .device import device_option
from .models import audited_model
from .progress import reporting
from .run import default_folder, open_folder

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

_DEFAULTS = InversionSettings()


@click.command()
@click.argument("run_or_base", metavar="RUN|BASE")
@click.argument("patched", required=False)
@click.option("--manifest", type=click.Path(path_type=Path), help="What was to be forgotten, with BASE and PATCHED.")
@click.option("--policy", default="default", show_default=True, help="Whose suite draws, with BASE and PATCHED.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder, with BASE and PATCHED.")
@click.option("--base", help="Where the base is now, if not where the manifest said.")
@click.option("--checkpoint", help="The audited checkpoint, of a run of `fmn-guard audit`.")
@click.option(
    "--anchors",
    type=click.Path(path_type=Path),
    help="Folder with a folder of pictures for each slug, at least 8; the base draws the others.",
)
@click.option(
    "--seeds", type=click.IntRange(LEAST_SEEDS), default=LEAST_SEEDS, show_default=True, help="Inversions each."
)
@click.option("--steps", type=click.IntRange(1), default=_DEFAULTS.steps, show_default=True, help="Of an inversion.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, 10, min_open=True),
    default=_DEFAULTS.learning_rate,
    show_default=True,
    help="Of an inversion.",
)
@click.option(
    "--controls",
    type=click.IntRange(LEAST_CONTROLS),
    default=LEAST_CONTROLS,
    show_default=True,
    help="Retained concepts that tell what a drop is by chance.",
)
@click.option(
    "--tokens",
    type=click.IntRange(1, 16),
    multiple=True,
    default=(4,),
    show_default=True,
    help="Tokens by which targets are sought and drawn as well. May be given several times.",
)
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Where base inversions are kept; the user's cache by default."
)
@device_option
@click.option("--dry-run", is_flag=True, help="Tell the cost, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print mscore.json, or the cost.")
@click.option("--quiet", is_flag=True, help="No talk and no progress.")
def mscore(
    run_or_base: str,
    patched: str | None,
    manifest: Path | None,
    policy: str,
    out: Path | None,
    base: str | None,
    checkpoint: str | None,
    anchors: Path | None,
    seeds: int,
    steps: int,
    learning_rate: float,
    controls: int,
    tokens: tuple[int, ...],
    cache: Path | None,
    device: str,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure the M-Score of a finished run, or of a PATCHED checkpoint or patch beside its BASE.

    The same pictures are inverted on both models; what is found is compared with the concept's name, and drawn again.
    The run's report gets a section about it, and is judged again, for its policy may limit what the replay shows;
    `fmn-guard gate` exits by the verdict. Interrupted, the same command goes on.
    """
    say = keep_quiet if quiet else talk
    if patched is None:
        if out is not None:
            raise InputError("--out goes with BASE and PATCHED", hint="a run's M-Score is written into its folder")
        audited = audited_run(Path(run_or_base), base)
    else:
        audited = _of_checkpoints(run_or_base, patched, manifest, policy, out, base, checkpoint)
    run, plan = audited.run, audited.plan
    pictures = _given(anchors, plan, manifest) if anchors else {}
    protocol = plan_mscore(
        plan,
        audited.original.words(),
        settings=InversionSettings(seeds=tuple(range(seeds)), steps=steps, learning_rate=learning_rate),
        controls=controls,
        replay_tokens=tokens,
        given={slug: (_digest_of(files), len(files)) for slug, files in pictures.items()},
    )
    found = read_mscore(run)
    if found is not None and found.protocol == protocol and found.patched_digest == audited.patched_digest:
        say(f"re-using {shown(run / FILE)}")
    else:
        found = None
    kept = cache or _users_cache()
    if found is None or dry_run:
        from ..model.checkpoint import load_pipeline

        original = load_pipeline(audited.original.folder, device)
        cost = cost_of(protocol, plan, original, kept)
        if dry_run:
            emit_json(cost) if as_json else click.echo(cost.words)
            return
        say(cost.words)
        open_folder(run, plan)
        found = _measure(audited, protocol, original, patched, checkpoint, kept, pictures, device, quiet)
    tell(audited, run / FILE, say)
    if as_json:
        emit_json(found)
    else:
        from ..render.inversion import mscore_table

        emit(mscore_table(summarise(found, audited.report.confidence if audited.report else 0.95)))


def cost_of(protocol: Protocol, plan: Plan, base: StableDiffusionPipeline, cache: Path | None = None) -> Cost:
    """What a protocol costs on this machine, less what is known already."""
    from ..audit.mscore import count_cached, seconds_each

    known = count_cached(protocol, plan, cache or _users_cache(), base.device.type)
    return estimate(protocol, plan, known, seconds_each(protocol, base))


def _users_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fmn-guard" / "inversions"


def _of_checkpoints(
    base: str,
    patched: str,
    manifest: Path | None,
    policy: str,
    out: Path | None,
    moved: str | None,
    checkpoint: str | None,
) -> Audited:
    if manifest is None or moved or checkpoint:
        raise InputError(
            "BASE and PATCHED go with --manifest, and without --base and --checkpoint",
            hint="fmn-guard mscore BASE PATCHED --manifest FILE, or fmn-guard mscore RUN",
        )
    from ..forget.patch import patched_digest

    document, original = lint_manifest(manifest, CheckpointRef(checkpoint=base))
    plan = compile_plan(document, lint_policy(find(policy, policies(), Path()))[1], original)
    if Path(patched).is_file():
        identity = patched_digest(Path(patched), plan.base.identity)
    else:
        identity = describe_checkpoint(CheckpointRef(checkpoint=patched), Path()).facts.identity
    run = out or default_folder(plan, identity)
    return audited_beside(run, plan, original, identity)


def _measure(
    audited: Audited,
    protocol: Protocol,
    original: StableDiffusionPipeline,
    patched: str | None,
    checkpoint: str | None,
    cache: Path,
    pictures: dict[str, list[Path]],
    device: str,
    quiet: bool,
) -> MScore:
    from ..audit.mscore import run_mscore
    from ..forget.patch import apply_patch
    from ..model.checkpoint import load_pipeline

    run = audited.run
    if patched is None:
        audit = read_record(run / "audit.json", Audit)
        model = audited_model(run, audit, audited.original, checkpoint, (device, "float32"))
    elif Path(patched).is_file():
        model = load_pipeline(audited.original.folder, device)
        apply_patch(model, Path(patched), audited.plan.base.identity)
    else:
        model = load_pipeline(describe_checkpoint(CheckpointRef(checkpoint=patched), Path()).folder, device)
    with reporting(quiet) as progress:
        return run_mscore(
            protocol,
            audited.plan,
            original,
            model,
            patched_digest=audited.patched_digest,
            out=run,
            cache=cache,
            given=pictures,
            progress=progress,
        )


def _given(folder: Path, plan: Plan, manifest: Path | None) -> dict[str, list[Path]]:
    """Given anchors of each slug.

    Raises:
        InputError: there are none, or some of them are what a concept was forgotten from.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}", hint="give one that holds a folder of pictures for each slug")
    found = {each.name: list_pictures(each) for each in sorted(folder.iterdir()) if each.is_dir()}
    for spec in plan.passes:
        if spec.images is None or spec.slug not in found:
            continue
        if manifest is None:
            raise InputError(
                f"{spec.slug} was forgotten from given pictures, and anchors must be others",
                hint="give the --manifest that tells where these are",
            )
        used = {file_digest(each) for each in list_pictures(manifest.parent / spec.images)}
        if again := [each.name for each in found[spec.slug] if file_digest(each) in used]:
            raise InputError(
                f"anchors of {spec.slug}: {again[0]} is what it was forgotten from", hint="give other pictures"
            )
    return found


def _digest_of(files: list[Path]) -> Digest:
    return bytes_digest("".join(file_digest(each) for each in files).encode())
