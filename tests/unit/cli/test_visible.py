"""Whatever a record holds, a terminal shows it and is not changed by it."""

from __future__ import annotations

import json
import unicodedata
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.markup import escape

from ingestion_platform.cli.terminal import Terminal, literal, new_table
from ingestion_platform.cli.visible import hexdump, shown
from ingestion_platform.errors import PlatformError
from ingestion_platform.escaping import visible

SHOWN = {
    "nothing": (None, "null"),
    "empty": (b"", ""),
    "text": ("Zürich \t!".encode(), "Zürich \\t!"),
    "lines": (b"a\nb\r\n", "a\nb\\r\n"),
    "colours": (b"\x1b[31mred", "\\x1b[31mred"),
    "upper controls": ("a\x9b2J".encode(), "a\\x9b2J"),
    "hidden direction": ("a‮b".encode(), "a\\u202eb"),
    "byte order mark": (b"\xef\xbb\xbf{}", "\\ufeff{}"),
    "a number": (b"12", "12"),
    "cut off": (b'{"a":', '{"a":'),
    "an object": (b'{"b":1.50,"a":[],"b":[1,{}]}',
                  '{\n  "b": 1.50,\n  "a": [],\n  "b": [\n    1,\n    {}\n  ]\n}'),
    "numbers as sent": (b"[1e400,NaN,12345678901234567890]",
                        "[\n  1e400,\n  NaN,\n  12345678901234567890\n]"),
    "a control in JSON": (b'{"a":"\\u001b[0m"}', '{\n  "a": "\\u001b[0m"\n}'),
    "no text": (b"\x00\xffA[/]", f"00000000  {'00 ff 41 5b 2f 5d':<47}  |..A[/]|"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_a_value_is_shown_as_it_was_sent(name: str) -> None:
    """JSON in lines with all keys and digits, text with escapes, the rest as a dump."""
    value, expected = SHOWN[name]
    assert shown(value) == expected


def test_long_values_show_their_beginning() -> None:
    """And how much there is more; a cut within a character spoils nothing."""
    assert shown(("ä" * 10).encode(), most=5) == "ää\n… 15 more bytes"
    assert shown(b"\x00" * 40, most=16).endswith("|................|\n… 24 more bytes")
    assert shown(b"[1, 2]", most=3) == "[1,\n… 3 more bytes"


@given(
    st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "ignore"))
)
def test_nothing_that_a_terminal_obeys_comes_through(value: bytes) -> None:
    """For any bytes at all; line ends are those of the display."""
    categories = {unicodedata.category(char) for char in shown(value) if char != "\n"}
    assert not categories & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=10,
    )
)
def test_json_that_is_set_out_says_the_same(value: object) -> None:
    """As far as its characters are visible ones."""
    text = json.dumps(value, ensure_ascii=True)
    if text.isprintable() and "\\u" not in text and isinstance(value, dict | list):
        assert json.loads(shown(text.encode())) == value


def test_a_dump_tells_place_and_ascii() -> None:
    """Sixteen bytes a line."""
    lines = list(hexdump(bytes(range(0x30, 0x44))))
    assert (
        lines[0] == "00000000  30 31 32 33 34 35 36 37 38 39 3a 3b 3c 3d 3e 3f  |0123456789:;<=>?|"
    )
    assert lines[1].startswith("00000010  40 41 42 43 ")
    assert visible("a\nb") == "a\\nb"


@given(st.text(max_size=40) | st.sampled_from(["\x1b[2J", "a\rb", "\x9b1m", "\u2028", "\ud800"]))
def test_terminal_prints_no_controls(text: str) -> None:
    """Neither where a text is marked as literal nor where that was forgotten, nor as JSON."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        terminal = Terminal()
        terminal.json({text: [text]})
        terminal.error(PlatformError(text, action=text))
        terminal.out.print(escape(text))
        table = new_table("", [text])
        table.add_row(literal(text))
        terminal.table(table)
    categories = {unicodedata.category(c) for c in out.getvalue() + err.getvalue() if c != "\n"}
    assert not categories & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def test_error_lines_are_indented(capsys: pytest.CaptureFixture[str]) -> None:
    """A name in an error cannot begin a line of its own."""
    Terminal().error(PlatformError("no file a\nerror: forged"))
    assert capsys.readouterr().err == "error: no file a\n  error: forged\n"
