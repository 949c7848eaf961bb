"""What the boards write as settings, the command line reads back."""

from __future__ import annotations

import shlex
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from benchmark.config import assignments, parse_assignments, parse_spec

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
TEXTS = st.text("abnNyY019.,:;=-_ []{}#'\"~&*!|>%@`\\\n\tü", max_size=9) | st.text(max_size=5)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2), max_leaves=6
)
SETTINGS = st.dictionaries(NAMES, VALUES, max_size=3)


@given(SETTINGS)
def test_assignments_are_read_back(values: dict[str, Any]) -> None:
    assert parse_assignments(assignments(values), "--set") == values
    assert shlex.split(shlex.join(assignments(values))) == assignments(values)


@given(NAMES, SETTINGS.filter(bool))
@example("a", {"a": "':", "b": None})
@example("a", {"a": "x 'y", "b": ['"', "\\\n,"]})
def test_a_name_with_its_settings_is_read_back(name: str, values: dict[str, Any]) -> None:
    assert parse_spec(f"{name}:{','.join(assignments(values))}", "--loss") == (name, values)
