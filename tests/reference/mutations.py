"""Damage to files, as hypothesis draws it: what breaks on the way, and what somebody does to them on purpose."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

#: Sizes and counts that programs stumble over, in the byte orders that formats use.
NUMBERS = [
    number.to_bytes(width, order, signed=number < 0)
    for width in (2, 4, 8)
    for order in ("little", "big")
    for number in (0, 1, 14, 15, -1, 2 ** (8 * width - 1) - 1, -(2 ** (8 * width - 1)), 2 ** (4 * width), 10**4)
]
Damage = Callable[[bytes], bytes]


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """One to six changes, each at a place that is a share of the whole, so that they fit a file of any length."""
    changes = draw(st.lists(_changes(), min_size=1, max_size=6))

    def damage(content: bytes) -> bytes:
        for place, change in changes:
            at = int(place * len(content))
            content = change(content, at)
        return content

    return damage


@st.composite
def _changes(draw: st.DrawFn) -> tuple[float, Callable[[bytes, int], bytes]]:
    place = draw(st.floats(0, 1, exclude_max=True))
    kind = draw(st.sampled_from(["flip", "flip", "byte", "number", "number", "cut", "drop", "double", "zero"]))
    if kind == "flip":
        bit = 1 << draw(st.integers(0, 7))
        return (
            place,
            lambda content, at: content[:at] + bytes(b ^ bit for b in content[at : at + 1]) + content[at + 1 :],
        )
    if kind in ("byte", "number"):
        new = draw(st.binary(min_size=1, max_size=1)) if kind == "byte" else draw(st.sampled_from(NUMBERS))
        aligned = 1 if kind == "byte" else draw(st.sampled_from([1, 4, 8]))
        return place, lambda content, at: _put(content, at // aligned * aligned, new)
    if kind == "cut":
        return place, lambda content, at: content[:at]
    length = draw(st.integers(1, 64))
    if kind == "drop":
        return place, lambda content, at: content[:at] + content[at + length :]
    if kind == "double":
        return place, lambda content, at: content[: at + length] + content[at:]
    return place, lambda content, at: _put(content, at, bytes(length))


def _put(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new[: len(content) - at] + content[at + len(new) :]
