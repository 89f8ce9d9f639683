"""``fmn-guard sample``: look at what a checkpoint draws, before and after a patch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ..facts import describe_checkpoint
from ..manifest import CheckpointRef
from ..suite import Sampler
from .console import shown, talk
from .device import Precision, device_option, dtype_option

if TYPE_CHECKING:
    from PIL import Image

SMALLEST = 128  # pixels; smaller pictures are shown enlarged
MARGIN = 8
CAPTION = 18  # pixels above a row


@click.command()
@click.argument("checkpoint")
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@click.option("--patch", type=click.Path(path_type=Path), help="Draw with this patch too, beside the base.")
@click.option("--seed", default=0, show_default=True, help="Seed of the first picture of each prompt.")
@click.option("--count", type=click.IntRange(1), default=4, show_default=True, help="Pictures of each prompt.")
@click.option("--steps", type=click.IntRange(1), default=15, show_default=True, help="Denoising steps.")
@click.option("--guidance", type=click.FloatRange(1), default=4.0, show_default=True, help="Guidance scale.")
@device_option
@dtype_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("sheet.png"),
    show_default=True,
    help="PNG to write.",
)
def sample(
    checkpoint: str,
    prompts: tuple[str, ...],
    patch: Path | None,
    seed: int,
    count: int,
    steps: int,
    guidance: float,
    device: str,
    precision: Precision,
    output: Path,
) -> None:
    """Draw a sheet of pictures: a row per prompt, the base on the left and the patched model on the right."""
    base = describe_checkpoint(CheckpointRef(checkpoint=checkpoint), Path())

    from ..forget.patch import apply_patch
    from ..model.checkpoint import load_pipeline
    from ..model.sampler import draw

    texts = [prompt for prompt in prompts for _ in range(count)]
    sampler = Sampler(steps=steps, guidance=guidance)
    seeds = [seed + i for _ in prompts for i in range(count)]
    pipeline = load_pipeline(base.folder, device, precision)
    columns = [draw(pipeline, texts, seeds, sampler)]
    if patch is not None:
        apply_patch(pipeline, patch, base.facts.identity)
        columns.append(draw(pipeline, texts, seeds, sampler))
    _sheet(prompts, count, columns).save(output)
    talk(f"wrote {shown(output)}")


def _sheet(prompts: Sequence[str], count: int, columns: Sequence[Sequence[Image.Image]]) -> Image.Image:
    from PIL import Image, ImageDraw

    size = columns[0][0].width
    size *= max(1, -(-SMALLEST // size))
    block, row = count * size + MARGIN, CAPTION + size + MARGIN
    sheet = Image.new("RGB", (MARGIN + block * len(columns), MARGIN + row * len(prompts)), "white")
    pen = ImageDraw.Draw(sheet)
    for c, pictures in enumerate(columns):
        for r, prompt in enumerate(prompts):
            left, top = MARGIN + c * block, MARGIN + r * row
            pen.text((left, top), f"{('base', 'patched')[c]}: {prompt}", fill="black")
            for i, picture in enumerate(pictures[r * count : (r + 1) * count]):
                enlarged = picture.resize((size, size), Image.Resampling.NEAREST)
                sheet.paste(enlarged, (left + i * size, top + CAPTION))
    return sheet
