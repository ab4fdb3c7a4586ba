import pytest

from distiq.errors import MOST_CHARACTERS, MOST_LINES, UserError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Grüße, 映画, \u200d, 👩\u200d🔬", "Grüße, 映画, \u200d, 👩\u200d🔬"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x\x1b]8;;http://a\x1b\\y", "xy"),
        ("a\x07\x08\x7f\x9b31mb", "a31mb"),
        ("a\r\nb\tc\u2028d", "a  b c d"),
        ("a\u202eb\u2066c", "abc"),
        ("caf\udce9", "caf\\udce9"),
    ],
)
def test_what_a_terminal_is_shown(text, shown):
    assert printable(text) == shown
    shown.encode()


def test_a_message_keeps_its_lines():
    assert str(UserError("one\n  two")) == "one\n  two"


def test_a_message_has_an_end():
    lines = str(UserError("\n".join(str(number) for number in range(100)))).splitlines()
    assert len(lines) == MOST_LINES
    assert lines[-2:] == [str(MOST_LINES - 2), f"... and {100 - MOST_LINES + 1} more lines"]
    assert len(str(UserError("x" * 10**6))) < MOST_CHARACTERS + 10
