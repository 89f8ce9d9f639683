"""``fmn-guard convert``: a checkpoint from one layout into another."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..errors import InputError
from ..shipped import shipped_model
from .console import shown, talk


@click.command()
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--config",
    help="Diffusers folder of the same family, for configurations and tokenizers of a single file; no weights needed.",
)
def convert(source: str, out: Path, config: str | None) -> None:
    """Make a diffusers folder of a single file, safetensors of pickles, or a single file of a diffusers folder.

    An OUT that ends in .safetensors is a file in the original layout, anything else a folder; neither may exist. A
    pickle is scanned and read by PyTorch's reader of weights alone, and no other command opens one. No network is used.
    Prints the weights digest, which is the same in each layout.
    """
    start, settings = _local(source), None if config is None else _local(config)
    to_single = out.suffix == ".safetensors"
    if start.is_file() and to_single:
        raise InputError(
            f"{source} and {shown(out)} are both files", hint="make a folder of it first, then a file of that"
        )
    if start.is_file() and settings is None:
        raise InputError(
            f"{source} holds weights alone",
            hint="give a diffusers folder of the same family, such as the one that it was tuned from, with --config",
        )
    if start.is_dir() and settings is not None:
        raise InputError("a folder has its own configurations", hint="leave out --config")

    from ..model.convert import clean_folder, to_file, to_folder

    if settings is not None:
        made = to_folder(start, settings, out)
    elif to_single:
        made = to_file(start, out)
    else:
        made = clean_folder(start, out)
    if made.left_out:
        first = ", ".join(made.left_out[:3])
        talk(f"left out {len(made.left_out)} tensors that are no weights of the model, such as {first}")
    talk(f"wrote {shown(out)}")
    click.echo(made.weights_digest)


def _local(name: str) -> Path:
    """A file or folder, or a built-in model's."""
    if name.startswith("builtin:"):
        return shipped_model(name.removeprefix("builtin:"))
    if not (path := Path(name)).exists():
        raise InputError(f"no checkpoint {name}", hint="give a file, a diffusers folder, or builtin:emoji-sd")
    return path
