"""The `thoughtscope` command: parse, call one verb, print. Heavy imports happen inside the commands."""

from __future__ import annotations


def main() -> None:
    """The console entry point."""
    from thoughtscope.cli.app import run

    run()


__all__ = ["main"]
