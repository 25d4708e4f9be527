"""The example log, the demo and the README, delivered beside the script, show what it really is.

The code writes each night of the example here, and the lines must be the same. Whether the script
is right to write them is for the other tests.
"""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import pytest
from paramiko import Channel

import demo
import webbridge_restart
from conftest import Run, unstamped
from simulated_mmp import SimulatedMMP, answer, refusing_address

EXAMPLE = webbridge_restart.SCRIPT.with_name("webbridge_restart_logs.txt.example")
PATIENCE = 120.0  # seconds for the demo, on a busy computer


class Deployment:
    """Three servers, and what they are called in the example."""

    shown = ("10.48.79.194", "cms2.example.com", "10.48.79.195:2222")

    def __init__(self, run: Run, servers: list[SimulatedMMP], folder: Path) -> None:
        self.run = run
        self.servers = servers
        self.folder = folder
        self.addresses = [server.address for server in servers]

    def night(self, *options: str) -> list[str]:
        """Run the script, and return its log lines with the addresses of the example."""
        text = "\n".join(self.run(self.addresses, *options).log)
        text = text.replace(f"{self.folder}{os.sep}", "/opt/webbridge/")
        for address, shown in zip(self.addresses, self.shown):
            port = address.rpartition(":")[2]
            shown_host, _, shown_port = shown.partition(":")
            text = text.replace(f"port {port} on 127.0.0.1", f"port {shown_port} on {shown_host}")
            text = text.replace(address, shown)
        return text.splitlines()


@pytest.fixture
def deployment(run: Run, known_hosts: Path, tmp_path: Path) -> Iterator[Deployment]:
    with SimulatedMMP() as first, SimulatedMMP() as second, SimulatedMMP() as third:
        servers = [first, second, third]
        known_hosts.write_text("".join(f"{server.known_hosts_line}\n" for server in servers))
        yield Deployment(run, servers, tmp_path)


def all_restarted(deployment: Deployment) -> list[str]:
    return deployment.night()


def nobody_restarted(deployment: Deployment) -> list[str]:
    logs = [demo.log_of(149, "14/17"), demo.log_of(31, "12/34"), demo.log_of(0, "2/2")]
    for server, log in zip(deployment.servers, logs):
        server.log = log
    return deployment.night("--if-leaked", "20", "--max-active", "0")


def one_refuses(deployment: Deployment) -> list[str]:
    deployment.servers[1].restart = answer(demo.FAILURE)
    return deployment.night()


def one_is_off(deployment: Deployment) -> list[str]:
    with refusing_address() as deployment.addresses[2]:
        return deployment.night()


def no_password_file(deployment: Deployment) -> list[str]:
    return deployment.night("--password-file", str(deployment.folder / "password"))


def ended_by_a_signal(deployment: Deployment) -> list[str]:
    server = deployment.servers[1]

    def end_the_run(_channel: Channel) -> None:
        signal.raise_signal(signal.SIGTERM)
        server.stopped.wait()

    server.restart = end_the_run
    return deployment.night()


NIGHTS = (
    all_restarted,
    nobody_restarted,
    one_refuses,
    one_is_off,
    no_password_file,
    ended_by_a_signal,
)


def nights_of_the_example() -> list[list[str]]:
    """Return the lines of each date, without their stamps."""
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    dates = groupby(lines, key=lambda line: line[: len("2026-11-21")])
    return [unstamped("\n".join(night)) for _, night in dates]


@pytest.mark.parametrize(("number", "night"), list(enumerate(NIGHTS)))
def test_the_code_writes_the_night_of_the_example(
    number: int, night: Callable[[Deployment], list[str]], deployment: Deployment
) -> None:
    assert night(deployment) == nights_of_the_example()[number]


def test_the_example_has_no_other_night() -> None:
    assert len(nights_of_the_example()) == len(NIGHTS)


def test_the_stamps_of_the_example_are_in_order_and_two_lines_of_a_failure_share_one() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    stamps = [line[: line.index("+00:00 ")] for line in lines]
    assert stamps == sorted(stamps)
    labels = [number for number, line in enumerate(lines) if line.endswith(". Error:")]
    same = [number for number, stamp in enumerate(stamps[:-1]) if stamp == stamps[number + 1]]
    assert labels == same


def test_the_demo_edits_the_inventory(tmp_path: Path) -> None:
    script = demo.script_for(["10.48.79.194", "cms2.example.com"], tmp_path, pause=0.25)
    edited = runpy.run_path(str(script))
    assert edited["WEBBRIDGES"] == {1: "10.48.79.194", 2: "cms2.example.com"}
    assert edited["SECONDS_BETWEEN_TRIES"] == 0.25


def test_the_demo_tells_its_story_and_ends_well() -> None:
    """Five steps, each with the command that it shows, what that command ends with, and why."""
    ran = subprocess.run(
        [sys.executable, demo.__file__],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
    )
    said = ran.stdout.decode().replace("\r\n", "\n")
    assert (ran.returncode, ran.stderr) == (0, b"")
    told = (demo.START, demo.CHECK, demo.NIGHT, demo.LOG, demo.SESSIONS, demo.CONDITIONS, demo.NEXT)
    places = [said.index(text) for text in told]
    assert places == sorted(places)
    assert all(len(line) <= 80 for text in told for line in text.splitlines())
    ends = re.findall(
        r"(?m)^\$ python webbridge_restart\.py(.*)$|^(.*)\n\(exit status (\d)\)$", said
    )
    assert [command.strip() or (last, status) for command, last, status in ends] == [
        "--check --accept-new-host-keys",
        ("3 of 4 servers ready.", "1"),
        "--verbose",
        ("Restarted 2 of 4 servers.", "1"),
        "--sessions",
        ("In a cluster, only the sum of all servers means something.", "0"),
        "--if-leaked 20 --max-active 0",
        ("Not restarted: 44 active sessions, more than --max-active 0; 136 leaked sessions.", "0"),
    ]
    assert said.count("Leaked: 136 sessions (180 Web Bridge, 44 active CMA).") == 2


def test_functions_that_the_readme_names_are_there() -> None:
    readme = webbridge_restart.SCRIPT.with_name("README.md").read_text(encoding="utf-8")
    section = readme.partition("## Read it before you trust it\n")[2].partition("\n## ")[0]
    names = re.findall(r"`([A-Za-z_.]+)`", section)
    assert len(names) > 5
    assert all(callable(attrgetter(name)(webbridge_restart)) for name in names)
