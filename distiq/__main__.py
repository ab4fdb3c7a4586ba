"""`python -m distiq` is the `distiq` command."""

from distiq.cli import app

if __name__ == "__main__":
    app(prog_name="distiq")
