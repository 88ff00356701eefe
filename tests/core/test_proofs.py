from hashlib import sha256

import pytest
from tests.core import vectors

from openrouter_audit.core import merkle, proofs
from openrouter_audit.core.checkpoints import decode_policy
from openrouter_audit.core.proofs import ProofFile
from openrouter_audit.errors import ProofFileError, RootMismatch, VerificationError

PROOF = ProofFile(
    leaf_index=123,
    inclusion_path=tuple(vectors.unbase64(vectors.V9_PATH)),
    checkpoint=(vectors.V5_CHECKPOINTS[300] + vectors.V7_LINE + "\n").encode(),
)
FILE = proofs.encode_proof(PROOF)
POLICY = decode_policy(f"log {vectors.V5_LOG_VKEY}\nwitness w1 {vectors.V7_WITNESS_VKEY}\nquorum w1\n".encode())
LEAF = merkle.leaf_hash(b"record-123")


def test_proof_file_is_the_published_one_and_verifies():
    assert (764, vectors.V9_FILE_SHA256) == (len(FILE), sha256(FILE).hexdigest())
    assert vectors.V9_LEAF_HASH == LEAF.hex()
    assert PROOF == proofs.decode_proof(FILE)
    opened = proofs.verify_proof(proofs.decode_proof(FILE), leaf_hash=LEAF, policy=POLICY)
    assert 300 == opened.checkpoint.tree_size


def test_no_change_and_no_truncation_of_a_proof_file_is_accepted():
    for changed in vectors.all_changes(FILE):
        with pytest.raises(VerificationError):
            proofs.verify_proof(proofs.decode_proof(changed), leaf_hash=LEAF, policy=POLICY)


def test_proof_of_one_entry_proves_no_other():
    with pytest.raises(RootMismatch):
        proofs.verify_proof(PROOF, leaf_hash=merkle.leaf_hash(b"record-124"), policy=POLICY)


def test_extra_is_kept_and_proves_nothing():
    proof = ProofFile(
        leaf_index=PROOF.leaf_index,
        inclusion_path=PROOF.inclusion_path,
        checkpoint=PROOF.checkpoint,
        extra=b"anything\0",
    )
    assert proof == proofs.decode_proof(proofs.encode_proof(proof))
    proofs.verify_proof(proof, leaf_hash=LEAF, policy=POLICY)


HEADER, INDEX, REST = FILE.split(b"\n", 2)
MALFORMED = {
    "another version": FILE.replace(b"@v1", b"@v2"),
    "no header": INDEX + b"\n" + REST,
    "no index": HEADER + b"\n" + REST,
    "index with zero": FILE.replace(b"index 123", b"index 0123"),
    "index with sign": FILE.replace(b"index 123", b"index +123"),
    "two spaces": FILE.replace(b"index 123", b"index  123"),
    "extra after index": HEADER + b"\n" + INDEX + b"\nextra QQ==\n" + REST,
    "extra twice": HEADER + b"\nextra QQ==\nextra QQ==\n" + INDEX + b"\n" + REST,
    "extra with spare bits": HEADER + b"\nextra QR==\n" + INDEX + b"\n" + REST,
    "hash of 31 bytes": HEADER + b"\n" + INDEX + b"\n" + b"A" * 40 + b"AA==\n" + REST,
    "64 hashes": HEADER + b"\n" + INDEX + b"\n" + (b"A" * 43 + b"=\n") * 55 + REST,
    "two empty lines": FILE.replace(b"\n\naudit", b"\n\n\naudit"),
    "no checkpoint": FILE.split(b"\n\n")[0] + b"\n\n",
    "no empty line": FILE.replace(b"\n\naudit", b"\naudit"),
    "carriage returns": FILE.replace(b"\n", b"\r\n"),
    "byte order mark": b"\xef\xbb\xbf" + FILE,
    "not ASCII": FILE.replace(b"index", "\u0131ndex".encode()),
    "too long": FILE + b"x" * 1_000_000,
    "empty": b"",
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_proof_file_is_refused(fault):
    with pytest.raises(ProofFileError):
        proofs.decode_proof(MALFORMED[fault])


def test_impossible_proof_is_not_written():
    for index, path in [(-1, ()), (1, (b"short",)), (1, (bytes(32),) * 64)]:
        with pytest.raises(ProofFileError):
            proofs.encode_proof(ProofFile(leaf_index=index, inclusion_path=path, checkpoint=PROOF.checkpoint))


def test_a_proof_that_would_be_read_as_another_is_not_written():
    with pytest.raises(ProofFileError, match="survive"):
        proofs.encode_proof(ProofFile(leaf_index=1, inclusion_path=[bytes(32)], checkpoint=PROOF.checkpoint))


def test_a_path_of_a_hundred_thousand_hashes_is_refused_by_its_length():
    """No hash of it is decoded before that."""
    hashes = b"not base64 at all\n" * 50_000
    with pytest.raises(ProofFileError, match="at most 63 hashes, this one 50000"):
        proofs.decode_proof(b"c2sp.org/tlog-proof@v1\nindex 0\n" + hashes + b"\n" + PROOF.checkpoint)
