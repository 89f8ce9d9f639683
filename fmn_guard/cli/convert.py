"""``fmn-guard convert``: a checkpoint from one layout into another."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..errors import InputError
from .console import shown, talk


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Diffusers folder of the same family, for configurations and tokenizers of a single file; no weights needed.",
)
def convert(source: Path, out: Path, config: Path | None) -> None:
    """Make a diffusers folder of a single file, safetensors of pickles, or a single file of a diffusers folder.

    An OUT that ends in .safetensors is a file in the original layout, anything else a folder; neither may exist. A
    pickle is scanned and read by PyTorch's reader of weights alone, and no other command opens one. No network is used.
    Prints the weights digest, which is the same in each layout.
    """
    if not source.exists():
        raise InputError(f"no checkpoint {shown(source)}", hint="give a file, or a diffusers folder")
    to_single = out.suffix == ".safetensors"
    if source.is_file() and to_single:
        raise InputError(
            f"{shown(source)} and {shown(out)} are both files", hint="make a folder of it first, then a file of that"
        )
    if source.is_file() and config is None:
        raise InputError(
            f"{shown(source)} holds weights alone",
            hint="give a diffusers folder of the same family, such as the one that it was tuned from, with --config",
        )
    if source.is_dir() and config is not None:
        raise InputError("a folder has its own configurations", hint="leave out --config")

    from ..model.convert import clean_folder, to_file, to_folder

    if config is not None:
        made = to_folder(source, config, out)
    elif to_single:
        made = to_file(source, out)
    else:
        made = clean_folder(source, out)
    if made.left_out:
        first = ", ".join(made.left_out[:3])
        talk(f"left out {len(made.left_out)} tensors that are no weights of the model, such as {first}")
    talk(f"wrote {shown(out)}")
    click.echo(made.weights_digest)
