"""Measure the script beside a bare loop over paramiko's SSHClient, for 1 to 400 servers.

No test, and pytest does not collect it. Run it by hand, on Linux or macOS; it takes some minutes:

    .venv/bin/python tests/benchmark.py

The servers are simulated, in a process of their own. The seconds per server should be the same
throughout, and at most 1.05 times those of the bare loop (in truth far fewer, as the script sets
TCP_NODELAY); the peak memory should not grow, and be at most 60 MB of a million bytes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import webbridge_restart
from demo_mmp import PASSWORD, SUCCESS, DemoMMP

HOST = "127.0.0.1"


def serve(count: int) -> None:
    """Print the known-hosts lines of so many servers, and run them until stdin ends."""
    logging.disable()  # of connections that break off
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed < 2048:  # macOS allows 256 open files until it is asked for more
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, most))
    for server in [DemoMMP() for _ in range(count)]:
        # As sshd does; else its packets wait up to 40 ms for the client to acknowledge others
        server.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = server.address.rpartition(":")[2]
        print(f"[{HOST}]:{port} {server.key.get_name()} {server.key.get_base64()}", flush=True)
    sys.stdin.read()


@contextlib.contextmanager
def simulated_servers(count: int) -> Iterator[Path]:
    """Run so many servers, which end with this process; yield a file with their host keys."""
    command = [sys.executable, __file__, "serve", str(count)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with contextlib.ExitStack() as stack:
        serving = stack.enter_context(subprocess.Popen(command, text=True, **pipes))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lines = [serving.stdout.readline() for _ in range(count)]
        (folder / "known_hosts").write_text("".join(lines), encoding="ascii")
        yield folder / "known_hosts"


def run_script(known_hosts: Path, ports: list[str]) -> None:
    addresses = [f"{HOST}:{port}" for port in ports]
    webbridge_restart.WEBBRIDGES = dict(enumerate(addresses, 1))
    log_file = known_hosts.with_name("log.txt")
    options = ["--quiet", "--known-hosts", str(known_hosts), "--log-file", str(log_file)]
    if webbridge_restart.main(options):
        raise SystemExit("The script failed.")


def run_bare(known_hosts: Path, ports: list[str]) -> None:
    client = paramiko.SSHClient()
    client.load_host_keys(str(known_hosts))
    username, command = webbridge_restart.MMP_USERNAME, webbridge_restart.RESTART_COMMAND
    for port in ports:
        no_keys = {"allow_agent": False, "look_for_keys": False}
        client.connect(HOST, int(port), username, PASSWORD, **no_keys)
        # stdin stays named: if nothing held it, it would end at once.
        _stdin, stdout, _ = client.exec_command(command)
        if stdout.read() != SUCCESS or stdout.channel.recv_exit_status() != 0:
            raise SystemExit("The bare loop failed.")
        client.close()


def measure(way: str, known_hosts: Path) -> None:
    """Print the seconds, and the peak memory in MB."""
    lines = known_hosts.read_text(encoding="ascii").splitlines()
    ports = [line.split()[0].rpartition(":")[2] for line in lines]
    began = time.perf_counter()
    {"script": run_script, "bare": run_bare}[way](known_hosts, ports)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(seconds, peak * (1 if sys.platform == "darwin" else 1024) / 1e6)


def show_all() -> None:
    os.environ["MMP_PASSWORD"] = PASSWORD
    print("Python", sys.version.split()[0], "paramiko", paramiko.__version__)
    print("servers  rounds  seconds  per server  of the bare loop  peak MB")
    for count in (1, 8, 24, 100, 400):
        rounds = max(3, 240 // count)
        measured: dict[str, list[list[float]]] = {"script": [], "bare": []}
        with simulated_servers(count) as known_hosts:
            for _ in range(rounds):
                for way, results in measured.items():
                    command = [sys.executable, __file__, way, str(known_hosts)]
                    results.append([float(n) for n in subprocess.check_output(command).split()])
        script, bare = (statistics.median(s for s, _ in measured[way]) for way in measured)
        peak = max(peak for _, peak in measured["script"])
        shown = f"{count:7}  {rounds:6}  {script:7.2f}  {script / count:10.3f}"
        print(f"{shown}  {bare / count:16.3f}  {peak:7.1f}", flush=True)


if __name__ == "__main__":
    task, *arguments = sys.argv[1:] or ["show"]
    if task == "serve":
        serve(int(arguments[0]))
    elif task == "show":
        show_all()
    else:
        measure(task, Path(arguments[0]))
