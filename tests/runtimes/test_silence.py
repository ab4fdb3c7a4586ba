"""silence(): nothing reaches the terminal inside, everything does behind it."""

import os
import warnings

import pytest

from distiq.runtimes.silence import silence


def test_prints_of_python_and_of_native_code_are_held_back(capfd):
    with silence():
        print("from Python")
        os.write(1, b"from native code\n")
        os.write(2, b"an error line of native code\n")
        warnings.warn("a warning", UserWarning, stacklevel=1)
    print("behind it", flush=True)
    assert capfd.readouterr() == ("behind it\n", "")


def test_an_error_comes_through_and_the_terminal_is_back(capfd):
    with pytest.raises(ValueError, match="broken"), silence():
        raise ValueError("broken")
    os.write(1, b"back\n")
    assert capfd.readouterr().out == "back\n"
