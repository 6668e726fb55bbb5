"""A front door in a process of its own: what it accepts, and each refusal with its status and sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from rayunlearn.scheduling.requests import Request
from rayunlearn.storage.inbox import Inbox
from rayunlearn.storage.store import Store
from tests.http.conftest import Running

if TYPE_CHECKING:
    import httpx

JSON = {"Content-Type": "application/json"}


def asks(name: str, *target: int, **more: Any) -> dict[str, Any]:
    """A request as JSON has it, to forget 3 or these."""
    return {"request_id": name, "target": list(target or (3,)), **more}


def waiting(served: Running, name: str) -> Request | None:
    """What waits in the inbox under an id."""
    found = Inbox(Store.open(served.storage, create=False)).find(name)
    assert found is None or isinstance(found.entry, Request)
    return None if found is None else found.entry


def is_refused(answer: httpx.Response, status: int, reason: str, *said: str) -> bool:
    """Whether an answer is a problem of this status, reason and sentence."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: Mapping[str, Any] = answer.json()
    assert body["status"] == answer.status_code and body["type"] == "about:blank" and body["title"]
    told = answer.status_code, body["reason"]
    return told == (status, reason) and all(part in body["detail"] for part in said)


def test_a_request_is_on_disk_once_it_is_acknowledged(served: Running) -> None:
    """With every field, under its id; no scheduler has ever run here."""
    more = {"lineage": "cats", "priority": 5, "data_access": ["weights", "retain"], "method": "fisher"}
    body = asks("kept", 4, 3, deadline="2031-01-31T12:00:00Z", **more)
    with served.client("platform") as platform:
        answer = platform.post("/v1/requests", json=body)
    assert answer.status_code == 201 and answer.headers["location"] == "/v1/requests/kept"
    assert answer.json()["status"] == "waiting"
    entry = waiting(served, "kept")
    assert entry is not None and entry.target == (3, 4) and entry.method == "fisher"
    assert (entry.lineage, entry.priority, entry.data_access) == ("cats", 5, ("retain", "weights"))
    assert waiting(served, "never") is None


def test_the_same_request_again_is_the_same(served: Running) -> None:
    """It is acknowledged again and stands once; another body under its id is refused, and changes nothing."""
    with served.client("platform") as platform:
        first = platform.post("/v1/requests", json=asks("twice", regulation="gdpr"))
        again = platform.post("/v1/requests", json=asks("twice", regulation="gdpr"))
        other = platform.post("/v1/requests", json=asks("twice", 4, regulation="gdpr"))
    assert first.status_code == again.status_code == 201 and first.json() == again.json()
    assert is_refused(other, 409, "id_taken", "request_id is 'twice'", "target [3] rather than [4]")
    entry = waiting(served, "twice")
    assert entry is not None and entry.target == (3,) and entry.deadline is not None


def test_requests_are_read_listed_and_cancelled(served: Running) -> None:
    """One by one, by status, page by page without a gap; a cancelled request's id is not used again."""
    with served.client("boss") as boss:
        for number in range(5):
            boss.post("/v1/requests", json=asks(f"listed-{number}", lineage="listed"))
        assert boss.get("/v1/requests/listed-2").json()["target"] == [3]
        pages, after = [], None
        while True:
            where = {"lineage": "listed", "limit": 2, **({"after": after} if after else {})}
            page = boss.get("/v1/requests", params=where).json()
            pages.append([one["request_id"] for one in page["requests"]])
            after = page["next"]
            if after is None:
                break
        assert pages == [["listed-0", "listed-1"], ["listed-2", "listed-3"], ["listed-4"]]
        assert boss.get("/v1/requests", params={"status": "served"}).json() == {"requests": [], "next": None}
        cancelled = boss.delete("/v1/requests/listed-2")
        assert cancelled.status_code == 202 and "leaves it out" in cancelled.json()["said"]
        assert boss.get("/v1/requests/listed-2").json()["cancelling"] is True
        assert boss.get("/v1/requests/listed-3").json()["cancelling"] is False
        again = boss.post("/v1/requests", json=asks("listed-2", lineage="listed"))
        assert is_refused(again, 409, "id_taken", "the request of this one is being cancelled")
        unknown = boss.delete("/v1/requests/listed-9")
        assert is_refused(unknown, 404, "not_found", "request is 'listed-9'", "listed-")


def test_health_and_the_document_want_no_token(served: Running) -> None:
    """Everybody may ask for these two; the document names every route, and the page of it is nowhere."""
    with served.client() as nobody:
        assert nobody.get("/health").json() == {"status": "ok"}
        document = nobody.get("/openapi.json").json()
        assert is_refused(nobody.get("/docs"), 404, "not_found", "path is '/docs'")
    assert document["openapi"].startswith("3.1")
    assert {"/v1/requests", "/v1/requests/{request_id}/certificate", "/metrics"} <= document["paths"].keys()
    answers = document["paths"]["/v1/requests"]["post"]["responses"]
    assert "application/problem+json" in json.dumps(answers["409"])


ROUTES = [
    ("POST", "/v1/requests", "submit"),
    ("GET", "/v1/requests", "read"),
    ("GET", "/v1/requests/x", "read"),
    ("GET", "/v1/requests/x/certificate", "read"),
    ("DELETE", "/v1/requests/x", "admin"),
    ("GET", "/v1/versions", "read"),
    ("GET", "/v1/status", "read"),
    ("GET", "/metrics", "read"),
]


@pytest.mark.parametrize(("method", "path", "role"), ROUTES)
def test_every_route_wants_its_role(served: Running, method: str, path: str, role: str) -> None:
    """No token, a wrong one, and one of another role are refused; the role and an admin get past that."""
    for name, has in (("platform", "submit"), ("reader", "read"), ("boss", "admin")):
        with served.client(name) as caller:
            answer = caller.request(method, path)
        if has in (role, "admin"):
            assert answer.status_code not in (401, 403)
        else:
            said = f"role of the token is '{has}'; allowed: '{role}' or 'admin'"
            assert is_refused(answer, 403, "role", said)
    with served.client() as nobody:
        assert is_refused(nobody.request(method, path), 401, "no_token", "allowed: 'Bearer TOKEN'")
        wrong = nobody.request(method, path, headers={"Authorization": "Bearer secret-of-nobody"})
        assert is_refused(wrong, 401, "wrong_token", "the token is not known")
        assert wrong.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "malformed JSON"),
        (b"[]", "one JSON object"),
        (b'{"request_id": "a", "request_id": "b"}', "each field once"),
        (b"\xff", "body is b'\\xff'; allowed: UTF-8 text (byte 0 is not)"),
        (b"[" * 100_000, "malformed JSON"),
        (asks("bad", targets=[0]), "field is 'targets'; allowed: 'target'"),
        ({"target": [0]}, "request_id is missing; allowed: 1 to 128 characters"),
        ({"request_id": "bad"}, "target is missing"),
        (asks("../../etc/passwd"), "request_id is '../../etc/passwd'; allowed: 1 to 128 characters"),
        (asks("<script>alert(1)</script>"), "allowed: 1 to 128 characters"),
        (asks("bad", lineage="a/b"), "lineage is 'a/b'"),
        (asks("bad", kind="everything"), "kind is 'everything'; allowed: "),
        (asks("bad", deadline="tomorrow"), "deadline is 'tomorrow'; allowed: an ISO 8601 time"),
        (asks("bad", priority=2000), "priority is 2000; allowed: a whole number from -1000 to 1000"),
        (asks("bad", data_access=["network"]), "data_access is 'network'"),
        (asks("bad", method="gtk"), "method is 'gtk'; allowed: 'gkt'"),
        (asks("bad", method="fisher"), "what 'fisher' needs besides: retain"),
        (asks("bad", kind="samples", method="gkt"), "kind is 'samples'"),
        (asks("bad", method="os.system"), "method is 'os.system'; allowed: "),
        (asks("bad", regulation="gdpa"), "regulation is 'gdpa'; allowed: 'gdpr'"),
        (asks("bad", regulation="gdpr", deadline="2031-01-31T12:00:00Z"), "none beside a deadline"),
        (asks("bad", kind="examples", examples="/etc"), "examples is '/etc'; allowed: none in the JSON"),
        (asks("bad", kind="examples"), "allowed: examples that are uploaded beside the JSON"),
        (asks("bad", received_at="2031-02-01T00:00Z", deadline="2031-01-31T12:00Z"), "not before"),
    ],
)
def test_what_cannot_be_served_is_refused(served: Running, body: Any, said: str) -> None:
    """By the sentence that the command says, before anything is kept; control: a right one passes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with served.client("platform") as platform:
        answer = platform.post("/v1/requests", content=content, headers=JSON)
        assert is_refused(answer, 400, "bad_input", said)
        assert waiting(served, "bad") is None
        assert platform.post("/v1/requests", json=asks("good")).status_code == 201


@pytest.mark.parametrize(
    ("path", "status", "reason", "said"),
    [
        ("/v1/requests?limit=0", 400, "bad_input", "limit is '0'"),
        ("/v1/requests?limit=many", 400, "bad_input", "limit is 'many'"),
        ("/v1/requests?status=lost", 400, "bad_input", "status is 'lost'"),
        ("/v1/requests?after=nothing", 400, "bad_input", "after is 'nothing'; allowed: the `next`"),
        ("/v1/requests?after=WzFd", 400, "bad_input", "after is 'WzFd'"),
        ("/v1/versions?lineage=../x", 400, "bad_input", "lineage is '../x'"),
        ("/v1/requests/nobody", 404, "not_found", "request is 'nobody'"),
        ("/v1/requests/nobody/certificate", 404, "not_found", "request is 'nobody'"),
        ("/v1/requests/..%2f..%2frayunlearn.json", 404, "not_found", "path is "),
        ("/v1/requests/%3Cscript%3E", 404, "not_found", "request_id is '<script>'; allowed: 1 to 128"),
        ("/v1/requests/%00", 404, "not_found", "request_id is '\\x00'"),
        ("/v1/nothing", 404, "not_found", "path is '/v1/nothing'; allowed: an address of /openapi.json"),
    ],
)
def test_what_is_not_there_is_said(served: Running, path: str, status: int, reason: str, said: str) -> None:
    """What a caller wrote comes back as text of a JSON document, never as markup."""
    with served.client("boss") as boss:
        answer = boss.get(path)
    assert is_refused(answer, status, reason, said)
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_other_methods_and_kinds_of_body_are_refused(served: Running) -> None:
    """A method that the address does not know, and a body that is neither JSON nor a form."""
    with served.client("boss") as boss:
        answer = boss.put("/v1/requests", json=asks("put"))
        assert is_refused(answer, 405, "method", "method is 'PUT'") and "allow" in answer.headers
        text = boss.post("/v1/requests", content=b"{}", headers={"Content-Type": "text/plain"})
        said = "Content-Type is 'text/plain'; allowed: 'application/json'"
        assert is_refused(text, 415, "media_type", said)


def test_every_answer_has_the_headers_of_security(served: Running) -> None:
    """Those that were refused as well; nothing names the server's software."""
    with served.client() as nobody:
        for path in ("/health", "/v1/requests", "/nowhere"):
            headers = nobody.get(path).headers
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")
            assert "server" not in headers
