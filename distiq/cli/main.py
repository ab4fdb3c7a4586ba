"""The command line: one call each, no logic."""

from distiq.cli import runs, recipes, bundles, models  # noqa: I001  (the help lists their commands in this order)
from distiq.cli.terminal import app

__all__ = ["app", "bundles", "models", "recipes", "runs"]
