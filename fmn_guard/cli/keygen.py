"""``fmn-guard keygen``: keys to sign runs with."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..signing import make_keys
from .console import shown, talk
from .keys import passphrase, passphrase_option


@click.command()
@click.argument("key", type=click.Path(path_type=Path))
@click.option("--passphrase", "locked", is_flag=True, help="Lock the private key with a passphrase, asked for now.")
@passphrase_option
def keygen(key: Path, locked: bool, passphrase_env: str | None) -> None:
    """Make an ed25519 key that signs, KEY, and its public half that verifies, KEY.pub; nothing is overwritten."""
    secret = passphrase(passphrase_env, confirm=True) if locked or passphrase_env else None
    public = make_keys(key, secret)
    talk(f"wrote {shown(key)}, which signs: keep it secret{'' if secret else '; it is not locked'}")
    talk(f"wrote {shown(public)}, which verifies: give it to whoever checks releases")
