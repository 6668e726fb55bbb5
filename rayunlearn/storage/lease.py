"""One scheduler per storage location: a lease with a fencing token.

Layout below the store's root::

    claims/<token, 12 digits>.json             created under a name that must not exist yet, so of several who
                                               want a token one gets it: who holds the location, since when
    claims/<token, 12 digits>.heartbeat.json   replaced by the holder every few seconds; says at the end that
                                               the location is free

The highest token is the lease in force; a new one is the next higher, and clears away the lower ones.
Whoever finds a lease in force watches its heartbeat. One that changes is of a live holder. One that stays as
it is for the lease's time to live, counted by the watcher since it first saw that very heartbeat, is of a
dead one, and so is one by a process of this machine that is no more. Clocks of two machines are never
compared.

A holder finds out that it has lost the location from a token that is higher than its own: at its next
renewal, and in `Lease.check`, which asks again where the last renewal is longer ago than the time to live
(the process was stopped, the machine asleep, the storage out of reach).

The lease keeps schedulers from getting into each other's way. It does not keep the ledger whole: between a
check and the write after it a lease may still be lost. The ledger's own numbers, each created once, do that.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rayunlearn.errors import BadInput, StorageHeld
from rayunlearn.storage.store import AlreadyExists, NotStored, Store, StoreFailed

_SHOWN = 100
"""Characters that are shown of what a lease says, which anybody may have written."""
_NAME = re.compile(r"claims/(\d{12,15})(?:\.heartbeat)?\.json")


def _clock() -> float:
    """Seconds that grow also while the machine sleeps, where the system counts these."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long a lease lives, how often it is renewed and looked at, and how time passes.

    Attributes:
        live_s: a lease that was not renewed for so long may be taken over. Holder and watchers of a location
            go by the same.
        renew_s: between two renewals.
        look_s: between two looks at another's lease.
        clock: of the holder; gives seconds.
        sleep: of who waits; takes seconds. A watcher counts its sleeps and looks at no clock, so that a
            machine that was asleep does not take the others for dead.
    """

    live_s: float = 30.0
    renew_s: float = 5.0
    look_s: float = 1.0
    clock: Callable[[], float] = _clock
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that holds a location.

    Attributes:
        host: name of its machine.
        pid: its process id there.
        since: when it took the lease, UTC by its own clock; for people.
        system: the start of the operating system, and what numbers the processes in it; None where that
            cannot be told.
        began: when the process began, in the kernel's own count; None where that cannot be told.
    """

    host: str
    pid: int
    since: str
    system: str | None
    began: str | None

    def __str__(self) -> str:
        host, since = (
            text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…" for text in (self.host, self.since)
        )
        return f"process {self.pid} on {host}, since {since}"

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        pid = os.getpid()
        return cls(host=socket.gethostname(), pid=pid, since=since, system=_system(), began=_began(pid))

    @classmethod
    def of(cls, data: bytes) -> Holder | None:
        """The holder that a lease names; None where it cannot be read (a power failure, an edit)."""
        try:
            holder = cls(**json.loads(data))
        except (ValueError, TypeError, RecursionError):
            return None
        texts = (holder.host, holder.since, holder.system or "", holder.began or "")
        sound = all(isinstance(text, str) for text in texts) and type(holder.pid) is int
        return holder if sound and 0 < holder.pid < 2**31 else None

    def is_gone(self) -> bool:
        """Whether this was a process of this machine, since its last start, and is no more.

        False where that cannot be told: on another machine, in another container, without Linux's /proc.
        """
        here = self.host == socket.gethostname() and self.system is not None and self.system == _system()
        if not here or self.began is None:
            return False
        try:
            os.kill(self.pid, 0)  # asks, and sends nothing
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # another user's, whose times may be hidden
        now = _began(self.pid)
        return now is not None and now != self.began


@dataclass(frozen=True, kw_only=True)
class Holding:
    """Who holds a location, for people who look.

    Attributes:
        who: the process, as a sentence says it.
        host: name of its machine; None where the lease cannot be read.
        pid: its process id there.
        since: when it took the lease, by its own clock.
        alive: whether it is a process of this machine that is there, or is no more; None where one look
            cannot tell.
    """

    who: str
    host: str | None
    pid: int | None
    since: str | None
    alive: bool | None


@dataclass(frozen=True)
class _Look:
    """What there is to see of the lease in force; token 0 where there is none."""

    token: int
    holder: Holder | None = None
    heartbeat: bytes = b""

    @property
    def is_free(self) -> bool:
        """Whether the location may be taken without waiting."""
        released = self.heartbeat == _heartbeat(None)
        return self.token == 0 or released or (self.holder is not None and self.holder.is_gone())

    def __str__(self) -> str:
        return str(self.holder or "a process that its lease does not name")


class Lease:
    """The right to be the one scheduler of a storage location; `take` gets it, `held` keeps it, too.

    Attributes:
        token: higher than that of every holder before.
        holder: this process.
    """

    def __init__(self, store: Store, token: int, holder: Holder, pace: Pace) -> None:
        self.token = token
        self.holder = holder
        self._store = store
        self._pace = pace
        self._lock = threading.Lock()
        self._renewals = 0
        self._renewed_at = pace.clock()
        self._over: str | None = None

    @classmethod
    def take(
        cls,
        store: Store,
        *,
        wait_s: float = 0.0,
        tell: Callable[[str], None] = lambda text: None,
        pace: Pace | None = None,
        holder: Holder | None = None,
    ) -> Lease:
        """Take the location: at once where it is free, else when its holder lets go of it or is dead.

        Args:
            store: the storage location.
            wait_s: to wait for a live holder; 0 waits only until it is known to be alive.
            tell: is told at once for whom is waited and how long.
            pace: of the leases of this location.
            holder: who takes it; by default this process.

        Raises:
            BadInput: a time to wait that is none.
            StorageHeld: the holder is alive, and the time to wait is over.
        """
        if not 0 <= wait_s < float("inf"):
            raise BadInput("--wait", wait_s, "a finite number of seconds, 0 or more")
        pace = pace or Pace()
        before: _Look | None = None
        quiet_s = waited_s = 0.0
        while True:
            look = _look(store)
            if look != before:
                quiet_s = 0.0
            if look.is_free or quiet_s >= pace.live_s:
                lease = cls(store, look.token + 1, holder or Holder.here(), pace)
                if lease._is_created():
                    return lease
                # somebody was quicker
            elif look != before:
                if before is not None and waited_s >= wait_s:  # a sign of life
                    raise StorageHeld(
                        f"{store.where} is held by another scheduler, which is at work: {look}. Start again "
                        "when it has ended, have this one wait for that (--wait SECONDS), or take another "
                        "--storage"
                    )
                if before is None or before.token != look.token:
                    tell(_waiting(store, look, pace.live_s, wait_s))
                before = look
            pace.sleep(pace.look_s)
            quiet_s += pace.look_s
            waited_s += pace.look_s

    def check(self) -> None:
        """Make sure that the location is still held; costs nothing while the lease is being renewed.

        Raises:
            StorageHeld: another scheduler has it, or it has not been possible to renew the lease for longer
                than it lives.
        """
        silent_s = self._pace.clock() - self._renewed_at
        if self._over is None and silent_s >= self._pace.live_s:
            try:
                self.renew()
            except StoreFailed as error:
                raise StorageHeld(
                    f"the lease of this scheduler ({self.holder}) to {self._store.where} could not be "
                    f"renewed for {silent_s:.0f} s ({error}), and another one may have taken over; nothing "
                    "was published. The same command goes on from the last checkpoint"
                ) from error
        if self._over is not None:
            raise StorageHeld(self._over)

    def renew(self) -> None:
        """Show that the holder is alive, or find that another one has taken over.

        Raises:
            StoreFailed: the storage cannot be reached; `check` goes by how long that lasts.
        """
        with self._lock:
            if self._over is not None:
                return
            began = self._pace.clock()  # before the write, which a watcher may see at any time after
            if self._is_in_force():
                self._store.put(_heartbeat_name(self.token), _heartbeat(self._renewals))
                self._renewals += 1
                self._renewed_at = began

    def release(self) -> None:
        """Let go of the location at once; nothing happens where it is lost already."""
        with self._lock:
            try:
                if self._over is None and self._is_in_force():
                    self._store.put(_heartbeat_name(self.token), _heartbeat(None))
            except StoreFailed:
                pass  # the lease runs out by itself; a job that has done its work does not fail for that
            self._over = self._over or f"{self._store.where} was let go of by this scheduler"

    def _is_created(self) -> bool:
        """Create the lease, clear lower ones away; False where another one has this token or a higher one."""
        try:
            self._store.create(_lease_name(self.token), json.dumps(asdict(self.holder)).encode())
        except AlreadyExists:
            return False
        names = _names(self._store)
        if max(names) > self.token:
            # this token was had and cleared away by those that came after the look
            self._store.delete(_lease_name(self.token))
            return False
        for token in names:
            if token < self.token:
                for name in names[token]:
                    self._store.delete(name)
        return True

    def _is_in_force(self) -> bool:
        """Whether the lease is the highest one; if not, it is over."""
        highest = max(_names(self._store), default=0)
        if highest != self.token:
            became = f"was taken over by another one: {_look(self._store)}" if highest else "was deleted"
            self._over = (
                f"the lease of this scheduler ({self.holder}) to {self._store.where} {became}; nothing was "
                "published. The same command goes on from the last checkpoint, once that one has ended"
            )
        return self._over is None


@contextmanager
def held(
    store: Store,
    *,
    wait_s: float = 0.0,
    tell: Callable[[str], None] = lambda text: None,
    pace: Pace | None = None,
    holder: Holder | None = None,
) -> Iterator[Lease]:
    """Hold a location from beginning to end, renewing the lease in a thread; arguments as of `Lease.take`."""
    pace = pace or Pace()
    lease = Lease.take(store, wait_s=wait_s, tell=tell, pace=pace, holder=holder)
    done = threading.Event()

    def keep() -> None:
        while True:
            try:
                lease.renew()
            except StoreFailed:
                pass  # tried again soon; `check` goes by when it last succeeded
            if done.wait(pace.renew_s):
                return

    threading.Thread(target=keep, name="lease", daemon=True).start()
    try:
        yield lease
    finally:
        done.set()
        lease.release()


def holding(store: Store) -> Holding | None:
    """Who holds a location, at one look; None where nobody does. Nothing is written."""
    look = _look(store)
    if look.token == 0 or look.heartbeat == _heartbeat(None):
        return None
    if look.holder is None:
        return Holding(who=str(look), host=None, pid=None, since=None, alive=None)
    holder = look.holder
    here = holder.host == socket.gethostname() and holder.system is not None and holder.system == _system()
    alive = not holder.is_gone() if here and holder.began is not None else None
    return Holding(who=str(holder), host=holder.host, pid=holder.pid, since=holder.since, alive=alive)


def last_token(store: Store) -> int:
    """The token of the last lease to a location: so many were made from its beginning."""
    return max(_names(store), default=0)


def _look(store: Store) -> _Look:
    """The lease in force, as far as it is there; what goes away meanwhile has been followed by another."""
    token = last_token(store)
    if not token:
        return _Look(0)
    data, heartbeat = (_read(store, name) for name in (_lease_name(token), _heartbeat_name(token)))
    return _Look(token, Holder.of(data), heartbeat)


def _read(store: Store, name: str) -> bytes:
    try:
        return store.get(name)
    except NotStored:
        return b""


def _names(store: Store) -> dict[int, list[str]]:
    """Token -> the files of its lease."""
    found: dict[int, list[str]] = {}
    for name in store.list("claims"):
        match = _NAME.fullmatch(name)
        if match:
            found.setdefault(int(match[1]), []).append(name)
    return found


def _waiting(store: Store, look: _Look, live_s: float, wait_s: float) -> str:
    """What is said to who waits."""
    said = f"{store.where} is held by {look}. Looking whether that is alive: at most {live_s:.0f} s"
    return said + (f", and if it is, waiting {wait_s:.0f} s for its end" if wait_s else "")


def _heartbeat(renewals: int | None) -> bytes:
    return json.dumps({"renewals": renewals, "released": renewals is None}).encode()


def _lease_name(token: int) -> str:
    return f"claims/{token:012d}.json"


def _heartbeat_name(token: int) -> str:
    return f"claims/{token:012d}.heartbeat.json"


def _system() -> str | None:
    """What makes a process id of this machine comparable: its last start, and the container's numbering."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _began(pid: int) -> str | None:
    """When a process began, in ticks since the system's start; "ended" if only its entry is left."""
    try:
        _, _, after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return None
    fields = after_name.split()
    return "ended" if fields[0] in "ZX" else fields[19]
