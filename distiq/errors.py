"""The one error that a user can put right: what was found, where, and what to do."""

import re
import unicodedata

MOST_LINES, MOST_CHARACTERS = 20, 2000
ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-_]?")
SPACES = "\t\n\r\x0b\x0c\x85\u2028\u2029"
TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # of the direction of what follows


def printable(text: str) -> str:
    """One line that a terminal shows as it is: without escape sequences and control characters.

    What is no UTF-8 is written out ("\\udce9"); ends of lines and tabs become spaces.
    """
    text = ESCAPES.sub("", text).encode("utf-8", "backslashreplace").decode()
    if text.isascii() and text.isprintable():
        return text
    spaced = (" " if letter in SPACES else letter for letter in text)
    return "".join(letter for letter in spaced if unicodedata.category(letter) != "Cc" and letter not in TURNS)


def first_line(error: BaseException) -> str:
    """The first line that an error says, or its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class UserError(ValueError):
    """Raised for input that distiq refuses; the command line prints its message alone and ends with code 2.

    The message holds no control characters, and at most `MOST_LINES` lines.
    """

    def __init__(self, message: str) -> None:
        lines = [printable(line) for line in message.splitlines()]
        lines = [line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]} ..." for line in lines]
        if len(lines) > MOST_LINES:
            left_out = len(lines) - MOST_LINES + 1
            lines = [*lines[: MOST_LINES - 1], f"... and {left_out} more lines"]
        super().__init__("\n".join(lines))
