"""``python -m fmn_guard``: the command line."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main(prog_name="fmn-guard")
