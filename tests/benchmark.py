"""Measure the script beside a bare loop over paramiko's SSHClient: 1 to 400 servers, near and far.

No test, and pytest does not collect it. Run it by hand, on Linux or macOS; it takes some minutes:

    .venv/bin/python tests/benchmark.py

The servers are simulated in this process, and each measured run has a process of its own. The
seconds per server should be the same throughout, and at most 1.05 times those of the bare loop,
also with 100 ms of round trip; the peak memory should not grow, and be at most 60 MB of a million
bytes. Near, the script is far quicker, as it sets TCP_NODELAY.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import paramiko

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import webbridge_restart
from demo_mmp import PASSWORD, SUCCESS, DemoMMP

COUNTS = (1, 8, 24, 100, 400)
FAR_COUNT = 6
SECONDS_ONE_WAY = 0.05


def run_script(known_hosts: str, ports: list[int]) -> None:
    webbridge_restart.WEBBRIDGES = {port: f"127.0.0.1:{port}" for port in ports}
    options = ["--quiet", "--known-hosts", known_hosts, "--log-file", f"{known_hosts}.log"]
    if webbridge_restart.main(options):
        raise SystemExit("The script failed.")


def run_bare(known_hosts: str, ports: list[int]) -> None:
    client = paramiko.SSHClient()
    client.load_host_keys(known_hosts)
    username, command = webbridge_restart.MMP_USERNAME, webbridge_restart.RESTART_COMMAND
    no_keys = {"allow_agent": False, "look_for_keys": False}
    for port in ports:
        client.connect("127.0.0.1", port, username, PASSWORD, **no_keys)
        # stdin stays named: if nothing held it, it would end at once.
        _stdin, stdout, _ = client.exec_command(command)
        if stdout.read() != SUCCESS or stdout.channel.recv_exit_status() != 0:
            raise SystemExit("The bare loop failed.")
        client.close()


def measure(way: str, known_hosts: str, *ports: str) -> None:
    """Print the seconds, and the peak memory in MB."""
    began = time.perf_counter()
    {"script": run_script, "bare": run_bare}[way](known_hosts, [int(port) for port in ports])
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "linux":  # where that would begin at the peak of the parent process
        peak = 1024 * int(re.findall(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[0])
    print(seconds, peak / 1e6)


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what is read, each piece after the time that it takes one way."""
    loop = asyncio.get_running_loop()
    while piece := await reader.read(1 << 16):
        loop.call_later(SECONDS_ONE_WAY, writer.write, piece)
    loop.call_later(SECONDS_ONE_WAY, writer.close)


async def be_far(port: int) -> int:
    """Return a port at which the server at this port is far away."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(carry(reader, back), carry(there, writer))

    proxy = await asyncio.start_server(meet, "127.0.0.1", 0)
    return int(proxy.sockets[0].getsockname()[1])


def compare(known_hosts: Path, ports: Sequence[int], rounds: int) -> None:
    """Print a line about the script and the bare loop on the servers at these ports."""
    measured: dict[str, list[list[float]]] = {"script": [], "bare": []}
    for way in [*measured] * rounds:
        command = [sys.executable, __file__, way, str(known_hosts), *map(str, ports)]
        measured[way].append([float(n) for n in subprocess.check_output(command).split()])
    script, bare = (statistics.median(s for s, _ in results) for results in measured.values())
    peak = max(peak for _, peak in measured["script"])
    count = len(ports)
    shown = f"{count:7}  {rounds:6}  {script:7.2f}  {script / count:10.3f}"
    print(f"{shown}  {bare / count:16.3f}  {peak:7.1f}", flush=True)


async def show(known_hosts: Path) -> None:
    logging.disable()  # of connections that break off
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed < 2048:  # macOS allows 256 open files until it is asked for more
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, most))
    servers = [DemoMMP() for _ in range(COUNTS[-1])]
    near = [int(server.address.rpartition(":")[2]) for server in servers]
    far = [await be_far(port) for port in near[:FAR_COUNT]]
    with known_hosts.open("w") as file:
        for port, server in zip(near + far, servers + servers):
            file.write(f"[127.0.0.1]:{port} {server.key.get_name()} {server.key.get_base64()}\n")
            # As sshd does; else its packets wait up to 40 ms for the client to acknowledge others
            server.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    os.environ["MMP_PASSWORD"] = PASSWORD
    print("Python", sys.version.split()[0], "paramiko", paramiko.__version__)
    print("servers  rounds  seconds  per server  of the bare loop  peak MB")
    for count in COUNTS:
        compare(known_hosts, near[:count], max(3, 240 // count))
    print("with 100 ms of round trip:")
    await asyncio.to_thread(compare, known_hosts, far, 5)


if __name__ == "__main__":
    if sys.argv[1:]:
        measure(*sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(show(Path(folder, "known_hosts")))
