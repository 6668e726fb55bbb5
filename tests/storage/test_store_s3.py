"""The store in a bucket: what begins a location, what a server may do wrong, and that secrets stay secret."""

from __future__ import annotations

import json
import os
import pickle
import traceback

import pytest

from rayunlearn.errors import BadInput, ExitCode
from rayunlearn.storage.store import FORMAT, MARKER, AlreadyExists, NotBegun, Store, StoreFailed
from tests.storage.s3_server import (
    BUCKET,
    SECRETS,
    S3Server,
    forgetting_conditions,
    losing_the_first_answer,
    refusing,
)


def key(address: str, name: str) -> str:
    """What a name of a location is called in the whole bucket."""
    return f"{address.removeprefix(f's3://{BUCKET}/')}/{name}"


def test_a_free_prefix_becomes_storage(address: str, s3_server: S3Server) -> None:
    """A prefix with nothing in it gets the marker; opened again, with or without `/`, it holds what it held.

    An empty file under the prefix itself, a console's "new folder", counts as nothing.
    """
    s3_server.request("PUT", f"/{BUCKET}/{key(address, '')}")
    store = Store.open(address)
    store.create("a/b/c", b"kept")
    again = Store.open(address + "/", create=False)
    assert again.where == store.where == address
    assert again.get("a/b/c") == b"kept" and again.list() == ["a/b/c"]
    assert json.loads(again.get(MARKER))["format"] == FORMAT


def test_two_prefixes_do_not_meet(address: str) -> None:
    """Locations whose addresses begin alike have files of their own."""
    first, second = Store.open(f"{address}/a"), Store.open(f"{address}/ab")
    first.create("x", b"1")
    second.create("x", b"2")
    second.delete("x")
    assert first.list() == ["x"] and first.get("x") == b"1" and second.list() == []


def test_opening_without_create_writes_nothing(address: str) -> None:
    """create=False refuses a prefix with nothing in it, and leaves it so."""
    for _ in range(2):
        with pytest.raises(NotBegun, match="empty"):
            Store.open(address, create=False)


def test_what_is_foreign_is_refused_untouched(address: str, s3_server: S3Server) -> None:
    """A prefix with something else in it is refused and named; so is a marker of a newer format."""
    s3_server.request("PUT", f"/{BUCKET}/{key(address, 'foreign/thesis.tex')}", b"mine")
    with pytest.raises(BadInput, match=r"empty prefix.*foreign/thesis\.tex") as caught:
        Store.open(address)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    s3_server.request("PUT", f"/{BUCKET}/{key(address, MARKER)}", b'{"format": 2}')
    with pytest.raises(BadInput, match="newer rayunlearn"):
        Store.open(address)
    with pytest.raises(NotBegun):  # negative control: of this prefix nothing was begun
        Store.open(f"{address}/foreign/deeper", create=False)


def test_a_bucket_that_is_not_there(address: str) -> None:
    """A missing bucket is named with the server's word for it, and not taken for an empty one."""
    with pytest.raises(BadInput, match=r"'s3://no-such/x'; allowed: a bucket that is there.*NoSuchBucket"):
        Store.open("s3://no-such/x")


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint where nobody listens is told soon, in one line that says where endpoints come from."""
    for name, value in {**SECRETS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=r"AWS_\* variables.*error sending request") as caught:
        Store.open("s3://bucket/x")
    assert "\n" not in str(caught.value)


def test_a_bucket_that_goes_away_is_no_empty_one(address: str, s3_server: S3Server) -> None:
    """Where the bucket of an open location has gone, requests fail: nothing passes for not stored."""
    s3_server.request("PUT", "/going")
    store = Store.open("s3://going")
    store.create("a", b"1")
    for name in (f"/going/{MARKER}", "/going/a", "/going"):
        s3_server.request("DELETE", name)
    for action in (lambda: store.get("a"), lambda: store.put("a", b"1"), lambda: store.list()):
        with pytest.raises(StoreFailed, match="404 Not Found, NoSuchBucket"):
            action()


def test_an_answer_that_is_lost_is_no_refusal(address: str, s3_server: S3Server) -> None:
    """A create that the server carried out and answered with a fault has succeeded, once.

    Sent again by itself it finds its own file. Another's file under the name is still another's.
    """
    store = Store.open(address)
    with s3_server.tampered(losing_the_first_answer):
        store.create("claims/1", b"mine")
    assert store.get("claims/1") == b"mine"
    with s3_server.tampered(losing_the_first_answer), pytest.raises(AlreadyExists):
        store.create("claims/1", b"mine")


def test_a_server_without_conditional_writes_is_refused(address: str, s3_server: S3Server) -> None:
    """A server that overwrites where it was asked to create cannot hold a ledger: refused at opening.

    Also where the location was begun before; reading it is no harm.
    """
    with s3_server.tampered(forgetting_conditions), pytest.raises(BadInput, match="If-None-Match"):
        Store.open(address)
    Store.open(address).create("a", b"1")
    with s3_server.tampered(forgetting_conditions):
        with pytest.raises(BadInput, match="overwrote it"):
            Store.open(address)
        assert Store.open(address, create=False).get("a") == b"1"


def test_nothing_secret_is_said(address: str, s3_server: S3Server) -> None:
    """What a refusing server repeats of the signed request is in no message, traceback or pickle of ours."""
    store = Store.open(address)
    told = [repr(pickle.dumps(store)), store.where, store.address("a"), repr(vars(store))]
    with s3_server.tampered(refusing):
        for action in (
            lambda: store.get("a"), lambda: store.list(), lambda: store.create("a", b"1"),
            lambda: store.put("a", b"1"), lambda: Store.open(address),
            lambda: Store.open(address, create=False),
        ):  # fmt: skip
            with pytest.raises((StoreFailed, BadInput), match="403 Forbidden, SignatureDoesNot") as caught:
                action()
            told += traceback.format_exception(caught.value)
    said = "\n".join(told)
    assert "hush" not in said.lower(), said
    with s3_server.tampered(refusing), pytest.raises(Exception, match="hush-token"):
        store._backend.get("a")  # negative control: the library's own message has it


def test_an_actor_takes_credentials_from_its_own_environment(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickled store is the same location, reached as the environment of whoever unpickles it says."""
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    store = Store.open(address)
    store.create("a", b"1")
    pickled = pickle.dumps(store)
    assert endpoint.encode() not in pickled
    assert pickle.loads(pickled).get("a") == b"1"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_ENDPOINT", endpoint)
    assert pickle.loads(pickled).get("a") == b"1"


@pytest.mark.parametrize("endpoint", ["no URL", "localhost:9000", "http://name:hush@host", "http://host/?x=hush"])
def test_an_endpoint_that_is_no_url(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint of another form is refused by the name of its variable, without its value."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(BadInput, match="^AWS_ENDPOINT_URL is .*http://HOST:PORT") as caught:
        Store.open("s3://bucket/prefix")
    assert "hush" not in str(caught.value)
