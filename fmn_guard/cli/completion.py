"""``fmn-guard completion``: shell completion."""

from __future__ import annotations

import rich_click as click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script by which a shell completes fmn-guard's commands and options.

    For bash: `eval "$(fmn-guard completion bash)"` in ~/.bashrc; for zsh the same in ~/.zshrc;
    for fish: `fmn-guard completion fish > ~/.config/fish/completions/fmn-guard.fish`.
    """
    maker = get_completion_class(shell)
    assert maker is not None  # click knows every shell in SHELLS
    program = ctx.find_root().command
    click.echo(maker(program, {}, "fmn-guard", "_FMN_GUARD_COMPLETE").source())
