"""How the program begins and ends: a command is imported when it is asked for, and every error that is meant has a
message, a hint and an exit code; the rest is a crash.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any

import rich_click as click

from ..errors import FileProblems, FmnGuardError, MissingDependency

# Which extra of the distribution brings a module.
_EXTRAS = {
    "PIL": "run",
    "accelerate": "run",
    "diffusers": "run",
    "picklescan": "run",
    "numpy": "run",
    "peft": "run",
    "safetensors": "run",
    "torch": "run",
    "transformers": "run",
    "nudenet": "nudenet",
    "onnxruntime": "nudenet",
    "cv2": "nudenet",
    "cryptography": "sign",
    "securesystemslib": "sign",
    "ray": "ray",
}


class Commands(MutableMapping[str, click.Command]):
    """Commands by name, each imported when it is first looked up: a gate does not wait for what an eraser needs.

    Args:
        names: the commands; ``no-pickle`` is ``no_pickle`` in the module of that name beside this one.
    """

    def __init__(self, *names: str) -> None:
        self._found: dict[str, click.Command | None] = dict.fromkeys(names)

    def __getitem__(self, name: str) -> click.Command:
        if (found := self._found[name]) is None:
            module = name.replace("-", "_")
            found = self._found[name] = getattr(import_module(f".{module}", __package__), module)
        return found

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._found[name] = command

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


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
