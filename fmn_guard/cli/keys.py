"""Options about keys, and the passphrase of a private one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import rich_click as click

from ..errors import InputError

F = TypeVar("F", bound=Callable[..., None])


def keys_option(command: F) -> F:
    """Adds ``--key``; the command gets ``keys``."""
    return click.option(
        "--key",
        "keys",
        multiple=True,
        metavar="PUB",
        type=click.Path(path_type=Path),
        help="Public key that must have signed the run; of several, any one.",
    )(command)


def passphrase_option(command: F) -> F:
    """Adds ``--passphrase-env``; the command gets ``passphrase_env``."""
    return click.option(
        "--passphrase-env",
        metavar="NAME",
        help="Environment variable that holds the passphrase of the private key, instead of a prompt.",
    )(command)


def passphrase(variable: str | None, *, confirm: bool = False) -> bytes:
    """The passphrase, from an environment variable or else from a prompt.

    Raises:
        InputError: the variable is not set, or empty.
    """
    if variable is None:
        text: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
        return text.encode()
    if not (held := os.environ.get(variable)):
        raise InputError(f"--passphrase-env: {variable} is not set, or empty", hint="set it, or leave the option out")
    return held.encode()
