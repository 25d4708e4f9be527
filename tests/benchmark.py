"""Measure the script beside a bare paramiko loop and ssh, and as the number of servers grows.

No test, and pytest does not collect it. Run it by hand, on Linux or macOS; it takes 3 minutes:

    .venv/bin/python tests/benchmark.py

It prints, measured against simulated servers in a process of their own:

    24 servers: the script's time, and how many times that is the time of a bare loop over
    paramiko's SSHClient: at most 1.05. Beside them the same loop with TCP_NODELAY, which the script
    sets as well and paramiko does not, and ssh, where it is installed.
    6 servers with 100 ms of round trip: the same.
    1 to 400 servers: time, and peak memory in MB of a million bytes. Time should be a straight
    line (the same seconds per server throughout), and memory flat, at most 60 MB.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import random
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import paramiko

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import webbridge_restart
from demo_mmp import PASSWORD, SUCCESS, DemoMMP
from webbridge_restart import MMP_USERNAME, RESTART_COMMAND, SCRIPT

SERVERS, ROUNDS = 24, 21  # many, as paramiko waits 40 ms for an acknowledgement, or not
FAR_SERVERS, FAR_ROUNDS = 6, 5
SECONDS_ONE_WAY = 0.05
HOST = "127.0.0.1"

# Its arguments are the servers' addresses in one, and the script's options. It imports nothing
# that the script does not. On Linux ru_maxrss would begin at the peak of the parent process.
MEASURE = """
import re, resource, sys, time, webbridge_restart
webbridge_restart.WEBBRIDGES = dict(enumerate(sys.argv[1].split(), 1))
began = time.perf_counter()
status = webbridge_restart.main(sys.argv[2:])
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if sys.platform == "linux":
    peak = 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
print(seconds, peak / 1e6)
raise SystemExit(status)
"""


# ---- The servers ---------------------------------------------------------------------------------


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what is read, each piece after the time that it takes one way."""
    loop = asyncio.get_running_loop()
    while True:
        piece = await reader.read(1 << 16)
        loop.call_later(SECONDS_ONE_WAY, writer.write if piece else end, piece or writer)
        if not piece:
            return


def end(writer: asyncio.StreamWriter) -> None:
    if writer.can_write_eof():
        writer.write_eof()


async def be_far(servers: Sequence[DemoMMP]) -> None:
    """Stand in front of the servers as a long way would, and print where, for ever."""

    async def start(server: DemoMMP) -> None:
        async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection(*server.address.split(":"))
            await asyncio.gather(carry(reader, back), carry(there, writer))

        proxy = await asyncio.start_server(meet, HOST, 0)
        tell(server, proxy.sockets[0].getsockname()[1])
        await proxy.serve_forever()

    await asyncio.gather(*(start(server) for server in servers))


def tell(server: DemoMMP, port: object) -> None:
    """Print the server's line of a known-hosts file."""
    print(f"[{HOST}]:{port} {server.key.get_name()} {server.key.get_base64()}", flush=True)


def serve(count: int, far: bool) -> None:
    """Print the known-hosts lines of so many servers, and run them until stdin ends."""
    logging.disable()  # of connections that break off
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed < 2048:  # macOS allows 256 open files until it is asked for more
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, most))
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(DemoMMP()) for _ in range(count)]
        for server in servers:
            # As sshd does; else its packets wait up to 40 ms for the client to acknowledge others
            server.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not far:
                tell(server, server.address.rpartition(":")[2])
        if far:
            threading.Thread(target=asyncio.run, args=(be_far(servers),), daemon=True).start()
        sys.stdin.read()


@contextlib.contextmanager
def simulated_servers(count: int, far: bool = False) -> Iterator[Path]:
    """Run so many servers, which end with this process; yield a folder with their known_hosts."""
    command = [sys.executable, __file__, "far" if far else "near", str(count)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        subprocess.Popen(command, text=True, **pipes) as serving,
        tempfile.TemporaryDirectory() as name,
    ):
        lines = [serving.stdout.readline() for _ in range(count)]
        Path(name, "known_hosts").write_text("".join(lines), encoding="ascii")
        yield Path(name)


def read_ports(folder: Path) -> list[str]:
    """Return the servers' ports, from lines that begin [127.0.0.1]:PORT."""
    lines = (folder / "known_hosts").read_text(encoding="ascii").splitlines()
    return [line.split()[0].rpartition(":")[2] for line in lines]


# ---- Three ways to restart them all --------------------------------------------------------------


def script_options(folder: Path) -> list[str]:
    files = ["--known-hosts", str(folder / "known_hosts"), "--log-file", str(folder / "log.txt")]
    return [*files, "-q"]


def run_script(folder: Path) -> None:
    addresses = [f"{HOST}:{port}" for port in read_ports(folder)]
    webbridge_restart.WEBBRIDGES = dict(enumerate(addresses, 1))
    status = webbridge_restart.main(script_options(folder))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which main() has replaced
    if status:
        raise SystemExit(f"The script failed: exit status {status}.")


def run_bare(folder: Path, no_delay: bool = False) -> None:
    known = paramiko.HostKeys(str(folder / "known_hosts"))  # to load them each time takes longer
    for port in read_ports(folder):
        with paramiko.SSHClient() as client:
            client.get_host_keys()[f"[{HOST}]:{port}"] = known[f"[{HOST}]:{port}"]
            login: dict[str, Any] = {"allow_agent": False, "look_for_keys": False}
            if no_delay:
                login["sock"] = socket.create_connection((HOST, int(port)))
                login["sock"].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.connect(HOST, int(port), MMP_USERNAME, PASSWORD, **login)
            # stdin stays named: if nothing held it, it would end at once.
            _stdin, stdout, _ = client.exec_command(RESTART_COMMAND)
            if stdout.read() != SUCCESS or stdout.channel.recv_exit_status() != 0:
                raise SystemExit("The bare loop failed.")


def run_ssh(folder: Path) -> None:
    askpass = folder / "askpass"
    askpass.write_text("#!/bin/sh\nprintf '%s\\n' \"$MMP_PASSWORD\"\n", encoding="ascii")
    askpass.chmod(0o700)
    asking = {"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}
    command = ["ssh", "-F", "none", "-o", f"UserKnownHostsFile={folder / 'known_hosts'}"]
    command += ["-o", "StrictHostKeyChecking=yes", "-o", "PreferredAuthentications=password"]
    for port in read_ports(folder):
        subprocess.run(
            [*command, "-p", port, f"{MMP_USERNAME}@{HOST}", RESTART_COMMAND],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **asking},
            start_new_session=True,  # ssh before 8.4 asks so only where it has no terminal
            check=True,
        )


# ---- The measurements ----------------------------------------------------------------------------


def show_comparison(count: int, rounds: int, far: bool = False) -> None:
    ways: dict[str, Callable[[Path], None]] = {
        "script": run_script,
        "bare paramiko": run_bare,
        "bare paramiko with TCP_NODELAY": functools.partial(run_bare, no_delay=True),
    }
    if shutil.which("ssh"):
        ways["ssh"] = run_ssh
    measured: dict[str, list[float]] = {name: [] for name in ways}
    with simulated_servers(count, far) as folder:
        for _ in range(rounds + 1):
            for name in random.sample(list(ways), len(ways)):  # none always follows the same one
                began = time.perf_counter()
                ways[name](folder)
                measured[name].append(time.perf_counter() - began)
    seconds = {name: statistics.median(times[1:]) for name, times in measured.items()}  # warm
    trip = f", {2000 * SECONDS_ONE_WAY:.0f} ms of round trip" if far else ""
    print(f"\n{count} servers{trip}, the median of {rounds} rounds")
    for name, median in seconds.items():
        print(
            f"{median:6.2f} s  {name}: the script takes {seconds['script'] / median:.2f} times that"
        )


def show_growth() -> None:
    print("\nservers  seconds  per server  peak MB")
    for count in (1, 8, 24, 100, 400):
        with simulated_servers(count) as folder:
            addresses = " ".join(f"{HOST}:{port}" for port in read_ports(folder))
            command = [sys.executable, "-c", MEASURE, addresses, *script_options(folder)]
            seconds, peak = map(float, subprocess.check_output(command, cwd=SCRIPT.parent).split())
        print(f"{count:7}  {seconds:7.2f}  {seconds / count:10.3f}  {peak:7.1f}", flush=True)


def main(argv: Sequence[str]) -> int:
    if argv:
        serve(int(argv[1]), far=argv[0] == "far")
        return 0
    os.environ["MMP_PASSWORD"] = PASSWORD
    print("Python", sys.version.split()[0], "paramiko", paramiko.__version__)
    show_comparison(SERVERS, ROUNDS)
    show_comparison(FAR_SERVERS, FAR_ROUNDS, far=True)
    show_growth()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
