"""The small languages of the command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.cli.grid import parse_partitions, parse_seeds
from benchmark.errors import InputError
from tests.reference.toy import make_spec as toy_spec


class TestSeeds:
    @pytest.mark.parametrize(
        ("items", "expected"),
        [
            (["0"], (0,)),
            (["0-2", "7"], (0, 1, 2, 7)),
            (["7", "0-2"], (0, 1, 2, 7)),
            (["3-3"], (3,)),
            (["1", "0-2", "1"], (0, 1, 2)),
        ],
    )
    def test_numbers_and_ranges(self, items: list[str], expected: tuple[int, ...]):
        assert parse_seeds(items) == expected

    @given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), min_size=1, max_size=4))
    def test_are_a_sorted_set(self, ranges: list[tuple[int, int]]):
        wanted = {seed for first, n in ranges for seed in range(first, first + n + 1)}
        assert parse_seeds([f"{first}-{first + n}" for first, n in ranges]) == tuple(sorted(wanted))

    @pytest.mark.parametrize("item", ["", "a", "-1", "1-", "2-1", "1-2-3", "1.5", "0..3", "1,2", "+1", " ", "²"])
    def test_what_is_neither_is_refused(self, item: str):
        with pytest.raises(InputError) as error:
            parse_seeds(["0", item])
        assert str(error.value) == f"--seeds must be numbers or ranges as 0-4, got {item!r} instead"


class TestPartitions:
    def test_the_published_one_and_partitions(self):
        assert parse_partitions("proposed") == ["proposed"]
        assert parse_partitions("random:3") == ["random-0", "random-1", "random-2"]
        for name in parse_partitions("random:11"):
            assert toy_spec(partition=name).partition == name

    @pytest.mark.parametrize(
        "text", ["", "random", "random:", "random:0", "random:-1", "random:x", "random-1", "rand:2"]
    )
    def test_anything_else_is_refused(self, text: str):
        with pytest.raises(InputError) as error:
            parse_partitions(text)
        assert str(error.value) == f"--splits must be proposed or random:K with K of at least 1, got {text!r} instead"
