"""The Merkle tree: published vectors, a slow tree written from the RFC's definition, and what must fail."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayunlearn.errors import BadInput
from rayunlearn.evidence.tree import Tree, leaf_hash, node_hash, verify_consistency, verify_inclusion

# Leaves, roots and proofs of the reference tests of Certificate Transparency (certificate-transparency,
# merkletree/merkle_tree_test.cc; also transparency-dev/merkle, testonly).
DATA = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
                 "606162636465666768696a6b6c6d6e6f")
]  # fmt: skip
LEAVES = [leaf_hash(data) for data in DATA]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
INCLUSION = {
    (0, 1): [],
    (0, 8): [A, B, C],
    (5, 8): [D, E, ROOTS[4]],
    (2, 3): [ROOTS[2]],
    (1, 5): [ROOTS[1], B, D],
}
CONSISTENCY = {(1, 1): [], (1, 8): [A, B, C], (6, 8): [F, E, ROOTS[4]], (2, 5): [B, D]}
SIZES = st.integers(1, 70)


def hexes(proof: list[bytes]) -> list[str]:
    """A proof as published ones are."""
    return [item.hex() for item in proof]


def slow_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as it is defined there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = max(2**n for n in range(10) if 2**n < len(leaves))
    return hashlib.sha256(b"\x01" + slow_root(leaves[:k]) + slow_root(leaves[k:])).digest()


def tree_of(size: int) -> Tree:
    """A tree of so many different leaves."""
    return Tree(leaf_hash(b"%d" % number) for number in range(size))


def test_roots_are_those_of_the_reference() -> None:
    """The roots of 0 to 8 standard leaves; negative control: without prefixes they are others."""
    assert [Tree(LEAVES).root(size).hex() for size in range(9)] == ROOTS
    assert [Tree(LEAVES[:size]).root().hex() for size in range(9)] == ROOTS
    bare = [hashlib.sha256(data).digest() for data in DATA]
    assert Tree(bare).root().hex() != ROOTS[8]


def test_proofs_are_those_of_the_reference() -> None:
    """Published inclusion and consistency proofs, made and verified."""
    tree = Tree(LEAVES)
    for (index, size), proof in INCLUSION.items():
        assert hexes(tree.inclusion(index, size)) == proof
        published = [bytes.fromhex(item) for item in proof]
        assert verify_inclusion(bytes.fromhex(ROOTS[size]), size, LEAVES[index], index, published)
    for (first, second), proof in CONSISTENCY.items():
        assert hexes(tree.consistency(first, second)) == proof
        published = [bytes.fromhex(item) for item in proof]
        roots = [bytes.fromhex(ROOTS[size]) for size in (first, second)]
        assert verify_consistency(first, roots[0], second, roots[1], published)


@given(size=SIZES, data=st.data())
def test_inclusion_is_shown_of_what_is_there_alone(size: int, data: st.DataObject) -> None:
    """A proof holds for its leaf, place, size and root; changed anywhere, it does not."""
    index = data.draw(st.integers(0, size - 1))
    tree = tree_of(size)
    root, leaf, proof = tree.root(), leaf_hash(b"%d" % index), tree.inclusion(index)
    assert root == slow_root([leaf_hash(b"%d" % number) for number in range(size)])
    assert verify_inclusion(root, size, leaf, index, proof)
    assert not verify_inclusion(root, size, leaf_hash(b"other"), index, proof)
    assert not verify_inclusion(leaf_hash(b"other"), size, leaf, index, proof)
    assert not verify_inclusion(root, size, leaf, size, proof)
    assert not verify_inclusion(root, size, leaf, -1, proof)
    assert not verify_inclusion(root, size, leaf, index, [*proof, leaf])
    other = data.draw(st.integers(0, size - 1))
    assert verify_inclusion(root, size, leaf, other, proof) == (other == index)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        changed = [leaf_hash(b"x") if n == at else item for n, item in enumerate(proof)]
        assert not verify_inclusion(root, size, leaf, index, changed)
        assert not verify_inclusion(root, size, leaf, index, proof[:-1])
        assert not verify_inclusion(root, size, leaf, index, [*proof[:-1], proof[-1][:-1]])


@given(second=SIZES, data=st.data())
def test_consistency_is_shown_of_what_was_there_alone(second: int, data: st.DataObject) -> None:
    """A tree that only grew is consistent with every earlier one; one with a changed early leaf is not."""
    first = data.draw(st.integers(0, second))
    tree = tree_of(second)
    earlier, proof = tree.root(first), tree.consistency(first)
    assert verify_consistency(first, earlier, second, tree.root(), proof)
    if first:
        changed = data.draw(st.integers(0, first - 1))
        leaves = [leaf_hash(b"%d" % n if n != changed else b"rewritten") for n in range(second)]
        fork = Tree(leaves)
        assert not verify_consistency(first, earlier, second, fork.root(), fork.consistency(first))
        assert not verify_consistency(first, earlier, second, fork.root(), proof)
        assert not verify_consistency(first, earlier, second, tree.root(), [*proof, earlier])
    if proof:
        assert not verify_consistency(first, earlier, second, tree.root(), proof[:-1])
        assert not verify_consistency(first, earlier, second, tree.root(), [b"short", *proof[1:]])
    assert not verify_consistency(second + 1, earlier, second, tree.root(), proof)


def test_no_node_passes_for_a_leaf() -> None:
    """The second-preimage attack that prefixes are for: a node's two hashes given as a leaf's data."""
    left, right = LEAVES[:2]
    assert leaf_hash(left + right) != node_hash(left, right)
    root = Tree(LEAVES[:2]).root()
    assert root == node_hash(left, right)
    assert not verify_inclusion(root, 1, leaf_hash(left + right), 0, [])


@pytest.mark.parametrize(
    "ask",
    [
        lambda tree: tree.root(9),
        lambda tree: tree.inclusion(8),
        lambda tree: tree.inclusion(-1),
        lambda tree: tree.inclusion(4, 4),
        lambda tree: tree.consistency(5, 4),
        lambda tree: tree.consistency(-1),
    ],
)
def test_what_is_not_in_the_tree_is_refused(ask: Callable[[Tree], object]) -> None:
    """Sizes and places beyond the tree are named; negative control: the last ones are given."""
    tree = Tree(LEAVES)
    with pytest.raises(BadInput, match="allowed: "):
        ask(tree)
    assert tree.inclusion(7) and tree.root(8)
