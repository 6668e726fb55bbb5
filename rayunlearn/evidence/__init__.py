"""What a third party can check offline: the ledger as a Merkle tree, checkpoints, signed certificates."""
