"""The ledger as a log: leaves that no file format changes, and rewriting that a checkpoint finds."""

from __future__ import annotations

import pytest

from rayunlearn.errors import BadInput, IntegrityError
from rayunlearn.evidence.canonical import entry_bytes, row_digest, written_row
from rayunlearn.evidence.keys import SigningKey
from rayunlearn.evidence.notes import Checkpoint, Note
from rayunlearn.evidence.tree import leaf_hash, verify_inclusion
from rayunlearn.ledger import chain as chain_module
from rayunlearn.ledger.ledger import Ledger, verify
from rayunlearn.ledger.schemas import schema_written_under, table_from_rows
from rayunlearn.ledger.transparency import checkpoints, keep_checkpoint, log_of, require_grown
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import FIVE, TABLES, contents, in_memory, row_of
from tests.ledger.test_compaction import FOLDED_AT, append, compacted

ORIGIN = "log.example.org/ledger"
KEY = SigningKey.new(ORIGIN)


def checkpoint_of(store: Store) -> Note:
    """The signed checkpoint of a store's ledger as it is."""
    tree = log_of(store).tree
    return signed(tree.size, tree.root())


def signed(size: int, root: bytes) -> Note:
    """A checkpoint with its signature."""
    return Note(text=Checkpoint(origin=ORIGIN, size=size, root=root).text).signed(KEY)


def test_each_leaf_is_its_entry() -> None:
    """Leaves and root of five entries, worked out from their rows alone; each is shown to be in the tree."""
    log = log_of(in_memory(FIVE), keep=range(1, 6))
    for seq, table in enumerate(TABLES, start=1):
        row = written_row(row_of(table, lineage=f"entry {seq}"))
        assert log.kept[seq].rows == (row,) and log.kept[seq].table == table
        leaf = leaf_hash(entry_bytes(seq, table, [row_digest(row)]))
        assert verify_inclusion(log.tree.root(), 5, leaf, seq - 1, log.tree.inclusion(seq - 1))
        other = leaf_hash(entry_bytes(seq, table, [row_digest(row | {"lineage": "another"})]))
        assert not verify_inclusion(log.tree.root(), 5, other, seq - 1, log.tree.inclusion(seq - 1))


def test_compaction_changes_no_leaf() -> None:
    """Whatever of a ledger is compacted, and how often, an earlier tree is the beginning of a later one."""
    store, ledger_roots = in_memory(), {}
    for number in range(0, 60, 4):
        append(Ledger(store, compact_at=FOLDED_AT), 4, begin=number)
        tree = log_of(store).tree
        ledger_roots[tree.size] = tree.root()
    assert any("-" in name for name in contents(store)), "some entries are in segments"
    last = log_of(store).tree
    assert {size: last.root(size) for size in ledger_roots} == ledger_roots
    uncompacted = in_memory()
    append(Ledger(uncompacted, compact_at=1000), 60)
    assert log_of(uncompacted).tree.root(3) == last.root(3), "the same entries so far"
    assert log_of(uncompacted).tree.root(60) != last.root(60), "compaction itself is an entry"


def test_columns_that_come_later_change_no_leaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of schema version 1 has today the leaf that it had, before and after it is compacted."""
    store = in_memory()
    row = row_of("runs", sweep=None, code=None, traceback=None)
    with monkeypatch.context() as then:
        then.setattr(chain_module, "SCHEMA_VERSION", 1)
        old = table_from_rows("runs", [row]).select(schema_written_under("runs", 1).names)
        data = chain_module.entry_bytes("runs", old, chain_module.Tail())
        link = chain_module.link_to("runs", data, chain_module.Tail())
        store.create(link.entry, data)
        store.create(link.name, chain_module.to_json(link))
    expected = leaf_hash(entry_bytes(1, "runs", [row_digest(written_row(row))]))
    assert log_of(store).tree.root() == expected
    append(Ledger(store, compact_at=FOLDED_AT), 9)
    assert not store.exists(link.entry), "compacted by now"
    assert log_of(store).tree.root(1) == expected


def rewritten(entries: int, changed: int) -> Store:
    """A ledger written anew with one row changed: its chain is whole."""
    store = in_memory()
    ledger = Ledger(store)
    for number in range(entries):
        ledger.append("runs", [row_of("runs", lineage="forged" if number == changed else f"{number}")])
    verify(store)
    return store


@pytest.mark.parametrize("changed", range(6))
def test_a_ledger_written_anew_is_found_by_its_checkpoint(changed: int) -> None:
    """The chain of a forged ledger is whole, its root is another; negative control: it only grew."""
    before = checkpoint_of(rewritten(6, changed=-1))
    require_grown(log_of(rewritten(9, changed=-1)).tree, before)
    require_grown(log_of(rewritten(9, changed=7)).tree, before)
    with pytest.raises(IntegrityError, match="rewritten"):
        require_grown(log_of(rewritten(9, changed=changed)).tree, before)


def test_a_ledger_that_was_cut_off_is_found_by_its_checkpoint() -> None:
    """A shorter ledger with a whole chain lacks what the checkpoint counts."""
    with pytest.raises(IntegrityError, match="entry 4 was removed"):
        require_grown(log_of(rewritten(3, changed=-1)).tree, checkpoint_of(rewritten(6, changed=-1)))


def test_a_broken_chain_has_no_log() -> None:
    """An edited entry is refused before anything is hashed."""
    store = in_memory(FIVE)
    name = store.list("ledger/audits")[0]
    store.put(name, store.get(name)[:-1])
    with pytest.raises(IntegrityError, match=name):
        log_of(store)


def test_checkpoints_stay_on_record_and_the_ledger_does_not_mind() -> None:
    """One of each size, in order; another root under the same size is refused; the ledger verifies on."""
    store = compacted(10)
    first = checkpoint_of(store)
    name = keep_checkpoint(store, first)
    assert keep_checkpoint(store, first) == name, "the same again is the same"
    append(Ledger(store, compact_at=FOLDED_AT), 5, begin=10)
    keep_checkpoint(store, second := checkpoint_of(store))
    assert checkpoints(store) == [first, second] and verify(store)
    size = Checkpoint.of(second).size
    with pytest.raises(IntegrityError, match="otherwise"):
        keep_checkpoint(store, signed(size, bytes(32)))
    store.put(name, b"nothing")
    with pytest.raises(BadInput, match="note"):
        checkpoints(store)
