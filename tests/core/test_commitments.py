import hmac

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st
from tests.core import vectors

from openrouter_audit.core import commitments

KEY = bytes(range(0x20, 0x40))
keys = st.binary(min_size=32, max_size=32)


def test_commitment_is_the_published_one():
    assert 45 == len(vectors.V11_BODY)
    assert vectors.V11_COMMITMENT == commitments.commit(KEY, vectors.V11_BODY).hex()
    assert vectors.V11_COMMITMENT == commitments.Commitment(KEY).update(vectors.V11_BODY).hexdigest()


@given(keys)
def test_keys_are_those_of_hkdf(call_key):
    derived = commitments.derive_keys(call_key)
    for info, key in [
        (b"openrouter-audit/commit/request/v1", derived.request),
        (b"openrouter-audit/commit/response/v1", derived.response),
    ]:
        assert HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(call_key) == key
        assert HKDF(algorithm=SHA256(), length=32, salt=b"", info=info).derive(call_key) == key


@given(keys, st.lists(st.binary(max_size=200)))
def test_commitment_is_that_of_hmac_however_the_body_was_cut(key, pieces):
    body = b"".join(pieces)
    expected = hmac.digest(key, b"llm-audit/commit/v1\n" + body, "sha256")
    commitment = commitments.Commitment(key)
    for piece in pieces:
        commitment.update(piece)
        commitment.digest()  # asking in between changes nothing
    assert expected == commitment.digest() == bytes.fromhex(commitment.hexdigest())
    for form in (body, bytearray(body), memoryview(body)):
        assert expected == commitments.commit(key, form)
    assert commitments.matches(key, body, expected)
    assert not commitments.matches(key, body + b"\n", expected)


def test_keys_of_another_length_are_refused():
    for length in (0, 31, 33):
        with pytest.raises(ValueError):
            commitments.derive_keys(bytes(length))
        with pytest.raises(ValueError):
            commitments.commit(bytes(length), b"")
        with pytest.raises(ValueError):
            commitments.Commitment(bytes(length))


def test_printing_keys_shows_nothing():
    assert "CommitmentKeys()" == repr(commitments.derive_keys(KEY))
