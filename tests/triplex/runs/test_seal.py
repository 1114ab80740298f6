import hashlib
import json

import pytest

from triplex.runs.seal import sealed, unsealed

VALUES = {"files": {"a": {"size": 3}}, "name": "é", "numbers": [1, 0.1, 1e-300]}


def test_what_was_sealed_comes_back() -> None:
    assert unsealed(sealed(VALUES).encode()) == VALUES


def test_the_seal_is_the_hash_of_the_rest_as_json() -> None:
    rest = json.dumps(VALUES, indent=2, ensure_ascii=False) + "\n"
    assert json.loads(sealed(VALUES))["sha256"] == hashlib.sha256(rest.encode()).hexdigest()


def test_no_bit_changes_unseen() -> None:
    text = sealed(VALUES).encode()
    for place in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[place // 8] ^= 1 << place % 8
        assert unsealed(bytes(flipped)) is None, place


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"null", b"{}", b'{"sha256": 1}', b"\xff", b"[" * 100_000, b'{"a": NaN}'],
    ids=["empty", "a list", "null", "no seal", "a number for a seal", "not UTF-8", "deep", "NaN"],
)
def test_what_is_not_sealed_is_nothing(text: bytes) -> None:
    assert unsealed(text) is None


@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t + b"\n", lambda t: t.replace(b"  ", b" ")])
def test_other_white_space_is_another_text(change) -> None:  # type: ignore[no-untyped-def]
    assert unsealed(change(sealed(VALUES).encode())) is None
