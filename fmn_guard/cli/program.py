"""How the program ends: every error that is meant has a message, a hint and an exit code; the rest is a crash."""

from __future__ import annotations

from typing import Any

import rich_click as click

from ..errors import FileProblems, FmnGuardError, MissingDependency

# Which extra of the distribution brings a module.
_EXTRAS = {
    "PIL": "run",
    "accelerate": "run",
    "diffusers": "run",
    "numpy": "run",
    "safetensors": "run",
    "torch": "run",
    "transformers": "run",
    "nudenet": "nudenet",
    "onnxruntime": "nudenet",
    "cv2": "nudenet",
    "cryptography": "sign",
    "securesystemslib": "sign",
}


class Program(click.RichGroup):
    """A group of commands that turns our errors into messages and exit codes.

    What is not a `FmnGuardError` is a bug: it passes through, and Python prints its traceback and exits with 1.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the chosen command."""
        try:
            return super().invoke(ctx)
        except FmnGuardError as error:
            _end(ctx, error)
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            if module not in _EXTRAS:
                raise
            _end(ctx, MissingDependency(module, _EXTRAS[module]))
        except KeyboardInterrupt:
            click.echo("interrupted; the same command goes on", err=True)
            ctx.exit(130)


def _end(ctx: click.Context, error: FmnGuardError) -> None:
    # Problems of a file begin with its name, line and column, where editors and CI look for them.
    click.echo(str(error) if isinstance(error, FileProblems) else f"error: {error}", err=True)
    ctx.exit(error.exit_code)
