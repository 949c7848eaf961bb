"""The JSON form of an error matrix against the matrix that it came from."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.results.error_matrix import decode, encode, encode_coarsely, is_coarse

untimed = settings(deadline=None)  # a loaded machine fails no test
seeds = st.integers(0, 2**32)


@untimed
@given(seeds, st.integers(0, 8), st.integers(1, 9), st.sampled_from([1.0, 1e-3, 1e-6]))
def test_encoding_round_trips_through_json_within_float16(seed: int, n_classes: int, n: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    errors = scale * rng.uniform(0.01, 4, (n_classes, n))
    errors[rng.random(n_classes) < 0.3] = np.nan
    decoded = decode(json.loads(json.dumps(encode(errors), allow_nan=False)))
    assert decoded.dtype == np.float64
    np.testing.assert_allclose(decoded, errors, rtol=2**-10)


def test_encoding_is_deterministic_and_stable() -> None:
    errors = np.full((2, 3), 0.25)
    errors[1] = np.nan
    other_nan = np.where(np.isnan(errors), -errors, errors)  # the sign bit of a NaN must not show
    assert encode(errors) == encode(other_nan) == encode(errors.copy())
    assert encode(decode(encode(errors))) == encode(errors)


def test_encoding_is_small() -> None:
    errors = np.random.default_rng(0).random((200, 312))
    assert len(json.dumps(encode(errors))) < 3 * errors.size


@pytest.mark.parametrize("bad", [-1.0, 1e10, np.inf])
def test_errors_that_float16_roots_cannot_hold_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"errors must be in 0\.\.4\.29e9, got"):
        encode(np.array([[0.0, bad]]))


@untimed
@given(seeds, st.integers(0, 8), st.integers(1, 9), st.sampled_from([1.0, 1e-3, 1e-6]))
def test_a_coarse_encoding_is_right_within_three_percent_and_stays(seed: int, n_classes: int, n: int, scale: float):
    rng = np.random.default_rng(seed)
    errors = scale * 10.0 ** rng.uniform(-5, 0, (n_classes, n))
    errors[rng.random(n_classes) < 0.3] = np.nan
    encoded = json.loads(json.dumps(encode_coarsely(errors), allow_nan=False))
    assert is_coarse(encoded)
    assert not is_coarse(encode(errors))
    np.testing.assert_allclose(decode(encoded), errors, rtol=0.03)
    assert encode_coarsely(decode(encoded)) == encoded


def test_a_coarse_encoding_keeps_what_is_no_error_and_leaves_out_what_is_hardly_one() -> None:
    errors = np.array([[0.0, 1e-9, 1.0, np.nan]])
    assert np.nan_to_num(decode(encode_coarsely(errors)), nan=-1).tolist() == [[0.0, 0.0, 1.0, -1.0]]
    assert np.nan_to_num(decode(encode_coarsely(0 * errors)), nan=-1).tolist() == [[0.0, 0.0, 0.0, -1.0]]
    for bad in (-1.0, np.inf):
        with pytest.raises(ValueError, match="errors must be finite and not negative"):
            encode_coarsely(np.array([[0.5, bad]]))


GOOD = encode(np.ones((2, 3)))


@pytest.mark.parametrize(
    "bad",
    [
        {},
        None,
        [],
        "text",
        {**GOOD, "encoding": "float32"},
        {**GOOD, "shape": [3, 3]},
        {**GOOD, "shape": [6]},
        {**GOOD, "shape": [-2, -3]},
        {**GOOD, "shape": [2.0, 3.0]},
        {**GOOD, "shape": ["2", 3]},
        {**GOOD, "shape": 6},
        {**GOOD, "shape": None},
        {**GOOD, "data": None},
        {**GOOD, "data": GOOD["data"][:-4]},
        {**GOOD, "data": "A" + GOOD["data"][1:]},
        {**GOOD, "data": "not base64!"},
        {**GOOD, "data": "!" + GOOD["data"]},
        {**GOOD, "data": "é"},
        {key: value for key, value in GOOD.items() if key != "data"},
    ],
)
def test_corrupt_encodings_are_refused_in_one_line(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"^error matrix must be as encode wrote it, got .* instead$") as caught:
        decode(bad)
    assert "\n" not in str(caught.value)


@untimed
@given(st.data())
def test_a_changed_character_never_passes_as_another_matrix(data: st.DataObject) -> None:
    text = GOOD["data"]
    i = data.draw(st.integers(0, len(text) - 1))
    broken = text[:i] + data.draw(st.sampled_from("AZaz09+/=\n ")) + text[i + 1 :]
    try:
        decoded = decode({**GOOD, "data": broken})
    except ValueError:
        return
    assert np.array_equal(decoded, np.ones((2, 3)))
