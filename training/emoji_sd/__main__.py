"""``python -m training.emoji_sd STAGE``: one command a stage."""

from __future__ import annotations

from pathlib import Path

import click
import torch

LEG = [
    click.option("--minutes", default=150.0, help="Stop and checkpoint after this long."),
    click.option("--restart", is_flag=True, help="Keep the weights, start optimiser and schedule anew."),
]


def leg(default_steps: int):  # type: ignore[no-untyped-def]
    def wrap(function):  # type: ignore[no-untyped-def]
        for option in LEG:
            function = option(function)
        return click.option("--steps", default=default_steps, show_default=True)(function)

    return wrap


@click.group()
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("training/emoji_sd/work"),
    help="Downloads and checkpoints; not in git.",
)
@click.option("--threads", default=2, show_default=True)
@click.pass_context
def main(ctx: click.Context, work: Path, threads: int) -> None:
    """Trains the built-in models from public packages, stage by stage."""
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # averages of fading gradients would crawl otherwise
    ctx.obj = work


@main.command()
@click.pass_obj
def fetch(work: Path) -> None:
    """Download the emoji packages and draw all sprites."""
    from .pictures import Sprites
    from .pictures import fetch as download

    download(work)
    click.echo(f"{len(Sprites.load(work).rgba)} sprites in {work}")


@main.command()
@leg(3600)
@click.pass_obj
def vae(work: Path, **options: object) -> None:
    """Train the autoencoder."""
    from . import vae as stage

    stage.run(work, **options)  # type: ignore[arg-type]


@main.command()
@leg(700)
@click.option("--lr", default=1e-3, show_default=True)
@click.pass_obj
def clip(work: Path, **options: object) -> None:
    """Train CLIP, whose text tower the diffusion model uses frozen."""
    from . import clip as stage

    stage.run(work, **options)  # type: ignore[arg-type]


@main.command("clip-vision")
@leg(1500)
@click.pass_obj
def clip_vision(work: Path, **options: object) -> None:
    """Train CLIP's vision tower on, with the text tower frozen (needs clip)."""
    from . import clip as stage

    stage.run_vision(work, **options)  # type: ignore[arg-type]


@main.command()
@leg(1600)
@click.option("--lr", default=2e-3, show_default=True)
@click.pass_obj
def classifier(work: Path, **options: object) -> None:
    """Train the judging classifier."""
    from . import classifier as stage

    stage.run(work, **options)  # type: ignore[arg-type]


@main.command()
@leg(4200)
@click.option("--lr", default=1e-3, show_default=True)
@click.option("--leg", default=0, show_default=True, help="Each number has pictures and noise of its own.")
@click.pass_obj
def unet(work: Path, **options: object) -> None:
    """Train the diffusion model (needs vae and clip)."""
    from . import unet as stage

    stage.run(work, **options)  # type: ignore[arg-type]


@main.command()
@leg(4200)
@click.option("--lr", default=1e-3, show_default=True)
@click.pass_obj
def gold(work: Path, **options: object) -> None:
    """Train the diffusion model from nothing, without the pictures of a few concepts (needs vae and clip)."""
    from . import unet as stage
    from .world import GOLD_STANDARD

    stage.run(work, without=GOLD_STANDARD, **options)  # type: ignore[arg-type]


@main.command()
@click.option("--part", type=click.Choice(("all", "sd", "clip", "judge", "gold")), default="all", show_default=True)
@click.pass_obj
def export(work: Path, part: str) -> None:
    """Write the trained parts into the package; the gold standard, which ships with no package, by its name alone."""
    from . import export as stage

    if part == "gold":
        return stage.export_gold(work)
    for name, write in (("clip", stage.export_clip), ("judge", stage.export_judge), ("sd", stage.export_pipeline)):
        if part in ("all", name):
            write(work)
    stage.write_checksums()


@main.command()
@click.pass_obj
def adopt(work: Path) -> None:
    """Make checkpoints of the shipped weights where there are none, to go on from with --restart."""
    from . import export as stage

    stage.adopt(work)


@main.command()
@click.option("--quick", is_flag=True, help="Fewer pictures, nothing written: for looking in between.")
@click.pass_obj
def evaluate(work: Path, quick: bool) -> None:
    """Measure the shipped models against their targets; exit 1 when one is missed."""
    from .evaluate import run
    from .pictures import fetch as download

    download(work)
    raise SystemExit(0 if run(work, quick) else 1)


@main.command()
@click.pass_obj
def controls(work: Path) -> None:
    """Measure the shipped judge on held-out renders alone, and write how often it is wrong beside its weights."""
    from fmn_guard.audit.detectors.builtin_judge import BuiltinJudge

    from .evaluate import judge_controls, write_controls
    from .pictures import fetch as download

    download(work)
    judge = BuiltinJudge()
    rows = judge_controls(work, judge)
    write_controls(judge, rows)
    for row in rows:
        click.echo(f"{row['axis']}: {row['found']} of {row['shown']} found, {row['alarms']} of {row['absent']} alarms")


@main.command()
@click.pass_obj
def anchors(work: Path) -> None:
    """Draw the anchor pictures of ConceptBench into its suite."""
    from .anchors import write
    from .pictures import fetch as download

    download(work)
    click.echo(f"{len(write(work))} pictures")


if __name__ == "__main__":
    main()
