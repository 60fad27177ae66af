"""A star of network namespaces on this machine, with shaped links: for measurements (Linux, root, iproute2)."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

SERVER_ADDRESS = "10.99.0.1"
INTERFACE = "eth0"
_BURST = "64kb"  # the largest packet of a virtual interface; more would let small payloads pass unshaped
_ETC = Path("/etc/netns")  # `ip netns exec` lays what is there over /etc


def can_shape() -> str | None:
    """None, or why links cannot be shaped here."""
    if os.name != "posix" or os.geteuid() != 0:
        return "not root"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    return f"{' and '.join(missing)} not found: install iproute2" if missing else None


@contextlib.contextmanager
def shaped_star(num_nodes: int, egress_mbit: float, name: str = "sasg") -> Iterator[list[list[str]]]:
    """Command prefixes that run something at each node; node 0 is the server.

    What every other node sends passes a token-bucket filter of `egress_mbit` Mbit/s; nothing else is shaped. All is
    removed at the end, whatever happens. One star of a `name` at a time.
    """
    nodes, switch = [f"{name}-{node}" for node in range(num_nodes)], f"{name}-switch"
    _remove([*nodes, switch])  # what a killed measurement may have left
    try:
        for node in nodes:
            (_ETC / node).mkdir(parents=True, exist_ok=True)
            (_ETC / node / "nsswitch.conf").write_text(
                "hosts: files\n"
            )  # nobody waits for a name server that is not there
        _run("ip netns add", switch)
        _run("ip -n", switch, "link add br0 type bridge")
        _run("ip -n", switch, "link set br0 up")
        for number, node in enumerate(nodes):
            port = f"port{number}"
            _run("ip netns add", node)
            _run(f"ip -n {switch} link add {port} type veth peer name {INTERFACE} netns", node)
            _run(f"ip -n {switch} link set {port} master br0 up")
            _run(f"ip -n {node} addr add {_address(number)}/24 dev {INTERFACE}")
            _run(f"ip -n {node} link set {INTERFACE} up")
            _run(f"ip -n {node} link set lo up")
            if number:
                bucket = f"tbf rate {egress_mbit}mbit burst {_BURST} latency 100ms"
                _run(f"tc -n {node} qdisc add dev {INTERFACE} root {bucket}")
        yield [["ip", "netns", "exec", node] for node in nodes]
    finally:
        _remove([*nodes, switch])


def _address(node: int) -> str:
    return f"10.99.0.{node + 1}"


def _remove(names: list[str]) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)  # with its interfaces
        shutil.rmtree(_ETC / name, ignore_errors=True)


def _run(*words: str) -> None:
    subprocess.run(" ".join(words).split(), check=True, stdout=subprocess.DEVNULL)
