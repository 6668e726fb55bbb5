"""The Merkle tree of a log: roots, proofs, and their verification (RFC 6962, section 2.1; RFC 9162, 2.1).

Hashes are SHA-256 with the prefix 0x00 for a leaf and 0x01 for a node, so that no node passes for a leaf.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from rayunlearn.errors import BadInput

HASH_BYTES = 32


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """The tree over some leaves; every earlier size of it can be asked about, too."""

    def __init__(self, leaves: Iterable[bytes]) -> None:
        """Hash all complete subtrees.

        Args:
            leaves: the `leaf_hash` of each, in order.
        """
        # level k has the roots of the complete subtrees of 2^k leaves
        self._levels: list[list[bytes]] = [list(leaves)]
        while len(below := self._levels[-1]) > 1:
            self._levels.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])

    @property
    def size(self) -> int:
        """The number of leaves."""
        return len(self._levels[0])

    def root(self, size: int | None = None) -> bytes:
        """MTH(D[size]), the hash of the first leaves (RFC 6962, section 2.1); of all by default."""
        size = self._checked("tree size", self.size if size is None else size, 0, self.size)
        return self._hash(0, size) if size else hashlib.sha256(b"").digest()

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """PATH(index, D[size]), which shows that a leaf is in the tree (RFC 6962, section 2.1.1).

        Args:
            index: of the leaf, from 0.
            size: of the tree; all of it by default.
        """
        size = self._checked("tree size", self.size if size is None else size, 1, self.size)
        start, end, proof = 0, size, []
        self._checked("index of a leaf", index, 0, size - 1)
        while end - start > 1:
            split = start + _split(end - start)
            if index < split:
                proof.append(self._hash(split, end))
                end = split
            else:
                proof.append(self._hash(start, split))
                start = split
        return proof[::-1]

    def consistency(self, first: int, second: int | None = None) -> list[bytes]:
        """PROOF(first, D[second]): the larger tree begins with the smaller (RFC 6962, section 2.1.2).

        Args:
            first: size of the smaller tree; an empty one needs no proof.
            second: size of the larger; all of the tree by default.
        """
        second = self._checked("tree size", self.size if second is None else second, 0, self.size)
        self._checked("size of the earlier tree", first, 0, second)
        start, end, proof, whole = 0, second, [], True
        if first in (0, second):
            return []
        while end != first:
            split = start + _split(end - start)
            if first <= split:
                proof.append(self._hash(split, end))
                end = split
            else:
                proof.append(self._hash(start, split))
                start, whole = split, False
        return ([] if whole else [self._hash(start, end)]) + proof[::-1]

    def _hash(self, start: int, end: int) -> bytes:
        size = end - start
        if size & (size - 1) == 0:  # complete: `start` is a multiple of its size by how trees are split
            order = size.bit_length() - 1
            return self._levels[order][start >> order]
        split = start + _split(size)
        return node_hash(self._hash(start, split), self._hash(split, end))

    @staticmethod
    def _checked(thing: str, value: int, least: int, most: int) -> int:
        if not least <= value <= most:
            raise BadInput(thing, value, f"{least} to {most}")
        return value


def _split(size: int) -> int:
    """The largest power of two below a size of at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def verify_inclusion(root: bytes, size: int, leaf: bytes, index: int, proof: Sequence[bytes]) -> bool:
    """Whether a proof shows that a leaf is in a tree (RFC 9162, section 2.1.3.2).

    Args:
        root: of the tree.
        size: of the tree.
        leaf: its `leaf_hash`.
        index: of the leaf, from 0.
        proof: as `Tree.inclusion` gives it.
    """
    if not 0 <= index < size or any(len(item) != HASH_BYTES for item in proof):
        return False
    at, last, found = index, size - 1, leaf
    for item in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(item, found)
            while not at & 1 and at:  # levels at which the right edge has no sibling
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, item)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(
    first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether a proof shows that a tree begins with an earlier one (RFC 9162, section 2.1.4.2).

    Args:
        first: size of the earlier tree.
        first_root: its root.
        second: size of the later tree.
        second_root: its root.
        proof: as `Tree.consistency` gives it.
    """
    if not 0 <= first <= second or any(len(item) != HASH_BYTES for item in proof):
        return False
    if first in (0, second):
        other = second_root if first else hashlib.sha256(b"").digest()
        return not proof and first_root == other
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    if not path:
        return False
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    earlier = later = path[0]
    for item in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            earlier, later = node_hash(item, earlier), node_hash(item, later)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            later = node_hash(later, item)
        at, last = at >> 1, last >> 1
    return last == 0 and earlier == first_root and later == second_root
