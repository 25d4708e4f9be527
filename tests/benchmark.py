"""Measure the script beside a bare loop over paramiko's SSHClient, for 1 to 400 servers.

No test, and pytest does not collect it. Run it by hand, on Linux or macOS; it takes some minutes:

    .venv/bin/python tests/benchmark.py

The servers are simulated in this process, and each measured run has a process of its own. The
seconds per server should be the same throughout, and at most 1.05 times those of the bare loop (in
truth far fewer, as the script sets TCP_NODELAY); the peak memory should not grow, and be at most
60 MB of a million bytes.
"""

from __future__ import annotations

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
from pathlib import Path

import paramiko

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import webbridge_restart
from demo_mmp import PASSWORD, SUCCESS, DemoMMP

COUNTS = (1, 8, 24, 100, 400)


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


def show(known_hosts: Path) -> None:
    logging.disable()  # of connections that break off
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed < 2048:  # macOS allows 256 open files until it is asked for more
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, most))
    servers = [DemoMMP() for _ in range(COUNTS[-1])]
    ports = [server.address.rpartition(":")[2] for server in servers]
    with known_hosts.open("w") as file:
        for server, port in zip(servers, ports):
            # As sshd does; else its packets wait up to 40 ms for the client to acknowledge others
            server.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            file.write(f"[127.0.0.1]:{port} {server.key.get_name()} {server.key.get_base64()}\n")
    os.environ["MMP_PASSWORD"] = PASSWORD
    print("Python", sys.version.split()[0], "paramiko", paramiko.__version__)
    print("servers  rounds  seconds  per server  of the bare loop  peak MB")
    for count in COUNTS:
        rounds = max(3, 240 // count)
        measured: dict[str, list[list[float]]] = {"script": [], "bare": []}
        for way in [*measured] * rounds:
            command = [sys.executable, __file__, way, str(known_hosts), *ports[:count]]
            measured[way].append([float(n) for n in subprocess.check_output(command).split()])
        script, bare = (statistics.median(s for s, _ in results) for results in measured.values())
        peak = max(peak for _, peak in measured["script"])
        shown = f"{count:7}  {rounds:6}  {script:7.2f}  {script / count:10.3f}"
        print(f"{shown}  {bare / count:16.3f}  {peak:7.1f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        measure(*sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as folder:
            show(Path(folder, "known_hosts"))
