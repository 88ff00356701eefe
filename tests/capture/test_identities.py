"""Identities are made ahead, and still nobody has one twice."""

import ctypes
import os
import sys

import pytest

from openrouter_audit.capture.identities import BATCH, identity_from, new_identity
from openrouter_audit.core.commitments import commit, derive_keys


def test_no_identity_is_given_twice():
    seen = [new_identity() for _ in range(3 * BATCH)]
    assert len(seen) == len({one.call_id for one in seen} | {one.group for one in seen}) / 2
    assert len(seen) == len({one.call_key for one in seen})


@pytest.mark.parametrize(
    "fork",
    [
        pytest.param(os.fork, id="by Python"),
        pytest.param(
            ctypes.PyDLL(None).fork,
            id="without Python's handlers",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="not safe elsewhere"),
        ),
    ],
)
def test_a_forked_child_has_none_of_its_parents(fork):
    """
    Some are ready when the fork happens; a child that took one of them would give its call the name of another.
    """
    new_identity()
    read, write = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            os.write(write, b"".join(bytes.fromhex(new_identity().call_id) for _ in range(BATCH)))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    told = os.read(read, 16 * BATCH)
    os.close(read)
    os.close(write)
    theirs = {told[at : at + 16].hex() for at in range(0, len(told), 16)}
    assert BATCH == len(theirs)
    assert not theirs & {new_identity().call_id for _ in range(BATCH)}


def test_both_commitments_are_those_of_the_call_key():
    identity = identity_from(bytes(range(64)))
    keys = derive_keys(identity.call_key)
    assert commit(keys.request, b"asked").hex() == identity.request.update(b"asked").hexdigest()
    assert commit(keys.response, b"answered").hex() == identity.response.update(b"answered").hexdigest()
    assert (bytes(range(16)).hex(), bytes(range(16, 32)).hex()) == (identity.call_id, identity.group)
    assert identity.call_key.hex() not in repr(identity)
