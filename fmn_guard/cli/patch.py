"""``fmn-guard patch``: put a patch on a checkpoint and take it off, and look into one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.table import Column, Table

from ..errors import InputError, RefusedArtefact
from ..facts import describe_checkpoint
from ..manifest import CheckpointRef
from ..record import write_atomic
from ..stats import percent
from .console import emit, emit_json, shown, talk
from .device import device_option

if TYPE_CHECKING:
    from ..forget.export import Form
    from ..forget.factors import Edit
    from ..forget.folder import Precision
    from ..forget.patch import Part, Patch

_out = click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="File or folder to write; it must not be there yet.",
)
_target = click.argument("target", metavar="PATCH|FOLDER", type=click.Path(path_type=Path))
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group()
def patch() -> None:
    """Apply, revert, combine, inspect and export patches.

    A patch is what `fmn-guard apply` leaves in its run folder: the edit of each pass, by itself, bound to the base that
    it was made for. Where a command takes PATCH|FOLDER, a run folder or a patched checkpoint stands for its patch.
    """


@patch.command()
@click.argument("checkpoint")
@click.argument("patch", metavar="PATCH|RUN", type=click.Path(path_type=Path))
@_out
@click.option(
    "--precision",
    type=click.Choice(["float32", "base"]),
    default="float32",
    show_default=True,
    help="float32: edited weights as they were audited. base: rounded to the base's own type, which is another model.",
)
@click.option("--final", is_flag=True, help="Keep nothing by which the patch can be taken off: for publishing.")
def apply(checkpoint: str, patch: Path, out: Path, precision: Precision, final: bool) -> None:
    """Write a patched checkpoint: the base's folder with a patch in its weights.

    Refused where the patch was made for another base. The folder keeps the patch, and what it took the place of, in
    fmn-guard/: `fmn-guard patch revert` gives the base back byte for byte.
    """
    base = describe_checkpoint(CheckpointRef(checkpoint=checkpoint), Path())

    from ..forget.folder import patch_folder
    from ..forget.patch import read_patch

    path = _file_of(patch)
    patch_folder(base, read_patch(path), path, out, precision, revertible=not final)
    talk(f"wrote {shown(out)}")
    if not final:
        talk("its folder fmn-guard gives the base back: do not publish it; --final leaves it out")
    if precision == "base":
        talk("its weights are rounded: what was audited is another model, so audit this one with `fmn-guard audit`")


@patch.command()
@click.argument("folder", type=click.Path(path_type=Path))
@_out
def revert(folder: Path, out: Path) -> None:
    """Write the base of a patched checkpoint again, byte for byte."""
    from ..forget.folder import revert_folder

    revert_folder(folder, out)
    talk(f"wrote {shown(out)}: the base, byte for byte")


@patch.command()
@_target
@click.argument("other", metavar="PATCH", type=click.Path(path_type=Path))
@click.option("--concept", "concepts", multiple=True, metavar="SLUG", help="Add this one only. May be repeated.")
@_out
def add(target: Path, other: Path, concepts: tuple[str, ...], out: Path) -> None:
    """Add concepts of another patch, and redo none that are there.

    The other patch is one of the same base; or, for a patched checkpoint, one that was made on top of it, with the
    patched checkpoint as its base.
    """
    from ..forget.combine import joined, only
    from ..forget.folder import patch_of
    from ..forget.patch import read_patch

    new = read_patch(_file_of(other))
    new = only(new, concepts) if concepts else new

    def with_more(patch: Patch) -> Patch:
        on_top = None
        if new.base_digest != patch.base_digest and target.is_dir() and patch_of(target) is not None:
            on_top = describe_checkpoint(CheckpointRef(checkpoint=str(target.absolute())), Path()).facts.identity
        return joined([patch, new], also=on_top)

    made = _rewritten(target, with_more, out)
    talk(f"wrote {shown(out)}, which forgets {', '.join(made.concepts)}")
    talk("no pass was redone, so none knows of those that it stands beside now: audit it again")


@patch.command()
@_target
@click.argument("concepts", nargs=-1, required=True, metavar="SLUG...")
@_out
def drop(target: Path, concepts: tuple[str, ...], out: Path) -> None:
    """Take concepts out, and redo none of the others."""
    from ..forget.combine import after, without

    later: list[str] = []

    def with_fewer(patch: Patch) -> Patch:
        later.extend(after(patch, concepts))
        return without(patch, concepts)

    made = _rewritten(target, with_fewer, out)
    talk(f"wrote {shown(out)}, which forgets {', '.join(made.concepts) or 'nothing'}")
    if later:
        talk(f"computed on top of that, and not redone: {', '.join(later)}")
    talk("what was audited is another model: audit this one again")


@patch.command()
@click.argument("patches", nargs=-1, required=True, metavar="PATCH...", type=click.Path(path_type=Path))
@_out
def merge(patches: tuple[Path, ...], out: Path) -> None:
    """Put several patches of one base together into one file."""
    from ..forget.combine import joined
    from ..forget.patch import read_patch, write_patch

    made = joined([read_patch(_file_of(path)) for path in patches])
    _check_free(out)
    write_patch(out, made)
    talk(f"wrote {shown(out)}, which forgets {', '.join(made.concepts)}")
    talk("each was made without the others: audit them together")


@patch.command("list")
@_target
@_json
def list_concepts(target: Path, as_json: bool) -> None:
    """List what a patch forgets, in the order in which it was forgotten, and what that takes."""
    from ..forget.patch import read_patch

    found = read_patch(_file_of(target))
    if as_json:
        emit_json(_told(found, layers=False))
        return
    table = Table("Concept", "Kind", "Layers", "Rank", "Bytes", "Of the denoiser", "Error", box=None)
    for part in found.parts:
        said = _part_told(part, found.unet_bytes)
        table.add_row(
            ", ".join(part.facts.concepts),
            part.facts.kind or "",
            str(len(part.edits)),
            _ranks(part),
            f"{said['bytes']:,}",
            _share(said["share_of_unet"]),
            f"{part.facts.metrics['error']:.2g}" if "error" in part.facts.metrics else "",
        )
    emit(table)


@patch.command()
@_target
@_json
def inspect(target: Path, as_json: bool) -> None:
    """Show each edit of a patch, layer by layer: its form, its bytes and its norm."""
    from ..forget.patch import read_patch

    found = read_patch(_file_of(target))
    told = _told(found, layers=True)
    if as_json:
        emit_json(told)
        return
    click.echo(f"base: {found.base_digest}\nbytes: {told['bytes']:,}, {_share(told['share_of_unet'])} of the UNet's")
    for part, said in zip(found.parts, told["parts"], strict=True):
        title = f"{', '.join(part.facts.concepts)}: {said['bytes']:,} bytes, {_share(said['share_of_unet'])}"
        table = Table(Column("Layer", overflow="fold"), "Form", "Bytes", "Norm", title=title, box=None)
        for layer in said["layers"]:
            form = f"rank {layer['rank']}" if layer["rank"] is not None else "differences"
            table.add_row(layer["name"], form, f"{layer['bytes']:,}", f"{layer['norm']:.4g}")
        emit(table)
        metrics = ", ".join(f"{name} {value:g}" for name, value in sorted(part.facts.metrics.items()))
        click.echo(f"plan {part.facts.plan_digest[:19]}{': ' if metrics else ''}{metrics}")


@patch.command()
@_target
@click.option("--format", "form", required=True, type=click.Choice(["kohya", "diffusers", "diff"]), help="See above.")
@_out
@click.option(
    "--check",
    metavar="CHECKPOINT",
    help="Load it onto this base as its readers do, compare, and say in it what it is for.",
)
@device_option
def export(target: Path, form: Form, out: Path, check: str | None, device: str) -> None:
    r"""Write a patch in a form that other programs load.

    \b
    kohya      a LoRA by kohya's names, for ComfyUI, A1111 and diffusers; alpha is the rank
    diffusers  a LoRA as diffusers saves it, with its metadata
    diff       whole differences by kohya's names, for ComfyUI

    All hold the sum of all passes, for strength 1; at another, nothing that was audited holds. --check loads the first
    two with diffusers' `load_lora_weights`; for the third it adds what the file names to the base's weights. What it is
    for stands in its metadata by ModelSpec, which galleries and user interfaces show.
    """
    from ..forget.export import TOLERANCE, effect_lost, exported
    from ..forget.patch import check_base, read_patch

    path = _file_of(target)
    found = read_patch(path)
    base = describe_checkpoint(CheckpointRef(checkpoint=check), Path()) if check else None
    if base is not None:
        check_base(path, found, base.facts.identity)
    _check_free(out)
    write_atomic(out, exported(found, form, base))
    if base is not None:
        lost = effect_lost(base, found, out, form, device)
        if not lost <= TOLERANCE:
            out.unlink()
            raise RefusedArtefact(
                f"{shown(out)}: loaded again, it misses the patch's effect by {lost:.1e} of it, above {TOLERANCE:g}",
                hint="its reader changes what it reads: which versions are installed?",
            )
        talk(f"loaded again, it misses the patch's effect by {lost:.1e} of it; up to {TOLERANCE:g} passes")
    talk(f"wrote {shown(out)}")


def _file_of(target: Path) -> Path:
    """The patch of a patched checkpoint or a run, or the patch itself."""
    if not target.is_dir():
        return target
    from ..forget.folder import patch_of
    from ..forget.patch import PATCH

    return patch_of(target) or target / PATCH


def _rewritten(target: Path, change: Callable[[Patch], Patch], out: Path) -> Patch:
    """Writes a patch, or a patched checkpoint, with another patch in place of its own."""
    from ..forget.folder import patch_of, repatch_folder
    from ..forget.patch import read_patch, write_patch

    if target.is_dir() and patch_of(target) is not None:
        return repatch_folder(target, change, out)
    made = change(read_patch(_file_of(target)))
    _check_free(out)
    write_patch(out, made)
    return made


def _check_free(out: Path) -> None:
    if out.exists():
        raise InputError(f"{shown(out)} is there already", hint="give another name; nothing is overwritten")
    if not out.absolute().parent.is_dir():
        raise InputError(f"there is no folder {out.parent}", hint="create it first")


def _told(found: Patch, *, layers: bool) -> dict[str, Any]:
    parts = [_part_told(part, found.unet_bytes, layers=layers) for part in found.parts]
    size = sum(part["bytes"] for part in parts)
    return {
        "base_digest": found.base_digest,
        "unet_bytes": found.unet_bytes,
        "bytes": size,
        "share_of_unet": _of(size, found.unet_bytes),
        "parts": parts,
    }


def _part_told(part: Part, unet_bytes: int, *, layers: bool = False) -> dict[str, Any]:
    from ..forget.factors import bytes_of, dense

    size = sum(map(bytes_of, part.edits.values()))
    told = part.facts.model_dump(mode="json") | {"bytes": size, "share_of_unet": _of(size, unet_bytes)}
    if layers:
        told["layers"] = [
            {"name": name, "rank": _rank(edit), "bytes": bytes_of(edit), "norm": round(dense(edit).norm().item(), 6)}
            for name, edit in part.edits.items()
        ]
    return told


def _rank(edit: Edit) -> int | None:
    """Rank of factors; None of differences."""
    from ..forget.factors import Factors

    return len(edit.down) if isinstance(edit, Factors) else None


def _ranks(part: Part) -> str:
    ranks = sorted(rank for rank in map(_rank, part.edits.values()) if rank is not None)
    if not ranks:
        return "full" if part.edits else ""
    return f"{ranks[0]}-{ranks[-1]}" if len(ranks) == len(part.edits) else f"{ranks[0]}-full"


def _of(size: int, whole: int) -> float | None:
    return round(size / whole, 6) if whole else None


def _share(share: float | None) -> str:
    return "unknown" if share is None else percent(share)
