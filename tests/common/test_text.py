"""What errors say, cut to a line."""

import pytest

from ghostify.common.text import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such layer\nTraceback follows"), "no such layer"),
        (AssertionError(), "AssertionError"),
        (RuntimeError("\n  \n"), "RuntimeError"),
        (RuntimeError("x" * 1000), "x" * 300),
    ],
)
def test_the_first_line_of_an_error(error, line):
    assert first_line(error) == line
