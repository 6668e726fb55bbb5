"""A Ray cluster of several nodes on one machine, of which any can be killed and started anew.

Every node has ports of its own; all end by process id, also those that a kill left behind.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

QUICK = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""A node is taken for dead after 1.5 s without an answer; by default Ray takes 15 s and more."""


FAKE = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
"""For Ray's autoscaler on one machine, whose nodes are processes of the head's."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def environment(**more: str) -> dict[str, str]:
    """Of nodes and drivers: one thread, no token, no other cluster's address."""
    own = {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    return {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | own | QUICK | more


class Node:
    """A node: `ray start --block` and all that it has started."""

    def __init__(
        self, folder: Path, cpus: int, address: str | None, autoscaling: Callable[[str], Path] | None = None
    ) -> None:
        port, dashboard, client, agent, agent_grpc, runtime_env, metrics = free_ports(7)
        where = [f"--address={address}"] if address else ["--head", f"--port={port}", f"--temp-dir={folder}"]
        if not address:
            where += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
            where += ["--include-dashboard=false"]
        self.address = address or f"127.0.0.1:{port}"
        if autoscaling is not None:
            where += [f"--autoscaling-config={autoscaling(self.address)}"]
        self.log = Path(tempfile.mkstemp(prefix="node-", suffix=".log", dir=folder)[1])
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats", *where,
            "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}", "--object-store-memory=100000000",
            f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}",
            f"--runtime-env-agent-port={runtime_env}", f"--metrics-export-port={metrics}",
            "--min-worker-port=0", "--max-worker-port=0",
        ]  # fmt: skip
        with self.log.open("w") as out:
            self._process = subprocess.Popen(
                command, env=environment(**FAKE), stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=_end_with_parent,
            )  # fmt: skip
        self._root = psutil.Process(self._process.pid)
        self._seen: set[psutil.Process] = set()

    def processes(self) -> list[psutil.Process]:
        """All that it has started and that lives, itself first."""
        try:
            found = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            found = []
        self._seen.update(found)
        return found

    def is_up(self) -> bool:
        """Whether it has said that it is.

        Raises:
            RuntimeError: it has ended.
        """
        if self._process.poll() is not None:
            raise RuntimeError(f"a node ended by itself:\n{self.log.read_text()[-3000:]}")
        return "Ray runtime started" in self.log.read_text()

    def kill(self) -> int:
        """SIGKILL to all of it at once, the raylet among them; returns to how many processes."""
        found = self.processes()
        killed = sum(_kill(process) for process in found)
        # what outlived its parent is somebody else's child by now
        for process in self._seen.difference(found):
            _kill(process)
        self._process.wait()
        return killed


class LocalCluster:
    """A head and worker nodes; `with` begins and ends it.

    Args:
        head_cpus: logical CPUs of the head.
        worker_cpus: of each worker node.
        autoscaling: resources of each type of node that Ray's autoscaler may bring, two of each.

    Attributes:
        autoscaling: its configuration, a file.
    """

    def __init__(
        self,
        head_cpus: int,
        worker_cpus: list[int],
        autoscaling: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ru", dir="/tmp"))  # Ray's sockets need a short path
        self.worker_cpus = worker_cpus
        self.head_cpus = head_cpus
        self.nodes: list[Node] = []
        self._node_types = autoscaling
        self.autoscaling = self.folder / "autoscaling.yaml"

    def _configured(self, address: str) -> Path:
        """Write the autoscaler's configuration, for a head at this address."""
        head = {"resources": {"CPU": self.head_cpus}, "node_config": {}, "max_workers": 0}
        types: dict[str, Any] = {
            name: {"resources": dict(has), "node_config": {}, "min_workers": 0, "max_workers": 2}
            for name, has in (self._node_types or {}).items()
        }
        steps = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
        content = {
            "cluster_name": "fake", "max_workers": 2 * len(types), "upscaling_speed": 1.0,
            "idle_timeout_minutes": 5, "provider": {"type": "fake_multinode", "gcs_address": address},
            "available_node_types": {"ray.head.default": head, **types}, "head_node_type": "ray.head.default",
            "auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": [], "rsync_exclude": [],
            "rsync_filter": [], "file_mounts_sync_continuously": False,
            "initialization_commands": [], **{f"{name}_commands": [] for name in steps},
        }  # fmt: skip
        self.autoscaling.write_text(json.dumps(content))
        return self.autoscaling

    def __enter__(self) -> LocalCluster:
        """Start the head, then the workers; one by one, for two at once would take the same sockets."""
        try:
            configured = None if self._node_types is None else self._configured
            self.nodes.append(Node(self.folder, self.head_cpus, None, configured))
            self.wait()
            for cpus in self.worker_cpus:
                self.nodes.append(Node(self.folder, cpus, self.address))
                self.wait()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, whatever happened."""
        self.kill()

    @property
    def address(self) -> str:
        """Where drivers connect."""
        return self.nodes[0].address

    def wait(self, timeout_s: float = 600) -> None:
        """Wait until every node is up."""
        end = time.monotonic() + timeout_s
        while not all(node.is_up() for node in self.nodes):
            if time.monotonic() > end:
                raise RuntimeError(f"no cluster within {timeout_s:g} s; logs are in {self.folder}")
            time.sleep(0.2)

    def restart(self, index: int) -> None:
        """Start a worker node anew in the place of one that was killed; it comes up by and by."""
        self.nodes[index] = Node(self.folder, self.worker_cpus[index - 1], self.address)

    def processes(self) -> list[psutil.Process]:
        """Of all nodes."""
        return [process for node in self.nodes for process in node.processes()]

    def kill(self) -> None:
        """SIGKILL to every process of every node."""
        for node in reversed(self.nodes):
            node.processes()
            node.kill()
        self.nodes = []
        shutil.rmtree(self.folder, ignore_errors=True)


def titles(processes: list[psutil.Process]) -> Mapping[psutil.Process, str]:
    """What Ray's workers say that they are doing: `ray::SealedProcess.call`, `ray::IDLE`."""
    found = {}
    for process in processes:
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if title.startswith("ray::"):
            found[process] = title.split()[0]
    return found


def _kill(process: psutil.Process) -> bool:
    """Whether it was there to be killed; a later process of its id is left alone."""
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


def _end_with_parent() -> None:
    """Have Linux end this process when its parent ends, also by a signal that no `finally` sees."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
