"""The pictures that a page holds: read from a run folder, checked against its audit, and blurred for good."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from ..errors import BrokenChain, FmnGuardError
from ..evidence import Audit, Side
from ..gathered import gather
from ..plan import Plan
from ..record import Digest, bytes_digest

if TYPE_CHECKING:
    from ..render.html.samples import Picture, Pictures

Embed = Literal["none", "blurred", "full"]
"""What a page holds: no pictures, the sensitive ones blurred, or all of them sharp."""

BLURRED = 8
"""Pixels a side of a blurred picture: no face and no body can be made out again of 64 colours."""
SHARP = 128
"""Pixels a side of a sharp one, at most."""


def read_pictures(run: Path, plan: Plan, audit: Audit, embed: Embed) -> Pictures:
    """The pictures that a page shows of a run; empty where the run kept none.

    Args:
        run: The run folder.
        plan: Its plan.
        audit: Its audit, which holds the digest of each picture.
        embed: What may be seen.

    Raises:
        BrokenChain: a picture is not the one that was judged.
        FmnGuardError: there are pictures, and no Pillow to check and blur them.
    """
    folder = run / "images"
    if embed == "none" or not folder.is_dir():
        return {}
    from ..render.html.samples import samples

    evidence = gather(plan, audit)
    sides: tuple[Side, ...] = get_args(Side)
    pictures: dict[tuple[str, Side], Picture] = {}
    for sample in samples(evidence):
        for side in sides:
            file = folder / side / sample.probe.picture_name
            judged = evidence.seen.get((sample.probe.id, side))
            if file.is_file():
                blur = sample.sensitive and embed == "blurred"
                pictures[sample.probe.id, side] = _read(file, judged.image_digest if judged else None, blur)
    return pictures


def _read(file: Path, judged: Digest | None, blur: bool) -> Picture:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise FmnGuardError(
            "pictures cannot be checked and blurred: the Python module 'PIL' is not installed",
            hint="pip install pillow, or leave pictures out with --embed-samples none",
        ) from error
    from ..render.html.samples import Picture

    try:
        picture = Image.open(file, formats=["PNG"]).convert("RGB")
        found: Digest | None = bytes_digest(picture.tobytes())
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # whatever Pillow says of a damaged file
        found = None
    if found is None or found != judged:
        raise BrokenChain(
            f"{file}: not the picture that was judged",
            hint="restore it, or leave pictures out with --embed-samples none",
        )
    # Written anew in any case: a file can hold more than its pixels.
    out = BytesIO()
    if blur:
        picture.resize((BLURRED, BLURRED), Image.Resampling.BOX).save(out, "PNG")
        return Picture(out.getvalue(), "image/png", blurred=True)
    if max(picture.size) <= SHARP:
        picture.save(out, "PNG")
        return Picture(out.getvalue(), "image/png", blurred=False)
    picture.thumbnail((SHARP, SHARP))
    picture.save(out, "JPEG", quality=90, subsampling=0)
    return Picture(out.getvalue(), "image/jpeg", blurred=False)
