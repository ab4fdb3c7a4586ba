"""Holds back what converters and runtimes print about their own insides; errors still come as exceptions."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

STANDARD_STREAMS = (1, 2)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing reaches the terminal inside: no print, log or warning, of Python or of native code."""
    level = logging.root.manager.disable
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(number) for number in STANDARD_STREAMS]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in STANDARD_STREAMS:
            os.dup2(nowhere, number)
        logging.disable(logging.WARNING)
        with (
            open(os.devnull, "w") as sink,
            contextlib.redirect_stdout(sink),
            contextlib.redirect_stderr(sink),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        for number, copy in zip(STANDARD_STREAMS, kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)
