"""`python -m distiq` is the `distiq` command."""

from distiq.cli.main import app

if __name__ == "__main__":
    app(prog_name="distiq")
