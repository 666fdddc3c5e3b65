"""The command line: ``layerlab``."""

from layerlab.cli.app import app, main

__all__ = ["app", "main"]
