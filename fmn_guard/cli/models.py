"""The two models of a run: the base as it was then, and what was audited."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BrokenChain, InputError, RefusedArtefact
from ..evidence import Audit
from ..facts import Checkpoint, describe_checkpoint
from ..manifest import CheckpointRef
from ..record import Digest
from .console import shown
from .device import Where

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def described(reference: str, identity: Digest, option: str) -> Checkpoint:
    """Finds a checkpoint that must have an identity.

    Raises:
        RefusedArtefact: it has another one.
    """
    found = describe_checkpoint(CheckpointRef(checkpoint=reference), Path())
    if found.facts.identity != identity:
        raise RefusedArtefact(
            f"the run is of {identity[:19]}, {reference} is {found.facts.identity[:19]}",
            hint=f"give the checkpoint of the run with {option}",
        )
    return found


def audited_model(
    run: Path, audit: Audit, original: Checkpoint, checkpoint: str | None, where: Where
) -> StableDiffusionPipeline:
    """Loads what a run audited: the base with the run's patch, or a checkpoint from elsewhere.

    Args:
        run: The run folder.
        audit: Its audit.
        original: The base.
        checkpoint: Where the audited checkpoint is, of a run that has no patch.
        where: Where to compute, and in which precision.

    Raises:
        InputError: a checkpoint is needed and not given, or the other way round.
        RefusedArtefact: it is another checkpoint.
        BrokenChain: the patch is not the one that was audited.
    """
    from ..forget.patch import apply_patch, patched_digest
    from ..model.checkpoint import load_pipeline

    if audit.passes_digest is None:
        if checkpoint is None:
            raise InputError(f"{shown(run)} is of a checkpoint that fmn-guard did not make", hint="give --checkpoint")
        return load_pipeline(described(checkpoint, audit.patched_digest, "--checkpoint").folder, *where)
    if checkpoint is not None:
        raise InputError(f"{shown(run)} has a patch of its own", hint="leave --checkpoint out")
    patch, identity = run / "patch.safetensors", original.facts.identity
    if patched_digest(patch, identity) != audit.patched_digest:
        raise BrokenChain(f"{patch} is not what audit.json measured", hint="restore it, or audit it again")
    patched = load_pipeline(original.folder, *where)
    apply_patch(patched, patch, identity)
    return patched
