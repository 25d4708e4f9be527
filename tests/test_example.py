"""The example log and the demo, delivered beside the script, show what it really is.

The code writes each night of the example here, and the lines must be the same. Whether the script
is right to write them is for the other tests.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

import demo
import webbridge_restart
from conftest import STAMP, Run, unstamped
from demo import log_of
from mmp import MMP
from steps import answer, in_turn, refusing_address

ROOT = webbridge_restart.SCRIPT.parent
EXAMPLE = (ROOT / "webbridge_restart_logs.txt.example").read_text(encoding="utf-8").splitlines()
PATIENCE = 120.0  # seconds for the demo, on a busy computer

# ---- The example log -----------------------------------------------------------------------------

SHOWN = ("10.48.79.194", "cms2.example.com", "10.48.79.195:2222")
IF = ("--if-leaked", "20", "--max-active", "0")
NO_COUNTER = log_of(0, "2/2").replace(b"Stats", b"No stats")


def logs(*texts: bytes) -> list[dict[str, Any]]:
    return [{"log": text} for text in texts]


NIGHTS: list[tuple[list[dict[str, Any]], tuple[str, ...]]] = [  # the servers' settings, the options
    ([], ()),
    (logs(log_of(121, "0/17"), log_of(31, "0/34"), log_of(0, "0/2")), IF),
    (logs(log_of(121, "14/17"), log_of(31, "12/34"), log_of(2, "2/2")), IF),
    (logs(log_of(149, "14/17"), log_of(31, "12/34"), log_of(0, "2/2")), IF),
    ([{}, {"restart": answer(b"FAILURE: Webbridge configuration not complete\n")}], ()),
    ([{}, {}, {"is_off": True}], ()),
    (logs(log_of(9, "0/3"), log_of(31, "0/34"), NO_COUNTER), IF),
    ([], ("--password-file", "password")),
    ([{"restart": in_turn()}], ("--timeout", "2")),
    ([{}, {"restart": in_turn(lambda _: signal.raise_signal(signal.SIGTERM))}], ()),
]


def nights_of_the_example() -> list[list[str]]:
    """Return the lines of each date, without their stamps."""
    dates = groupby(EXAMPLE, key=lambda line: line[: len("2026-11-21")])
    return [unstamped("\n".join(night)) for _, night in dates]


@pytest.mark.parametrize("number", range(len(NIGHTS)))
def test_night_of_the_example(
    number: int, run: Run, known_hosts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, options = NIGHTS[number]
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        servers = [stack.enter_context(MMP()) for _ in SHOWN]
        addresses = [server.address for server in servers]
        known_hosts.write_text("".join(f"{server.known_hosts_line}\n" for server in servers))
        for place, each in enumerate(settings):
            vars(servers[place]).update(each)
            if "is_off" in each:
                addresses[place] = stack.enter_context(refusing_address())
        text = "\n".join(run(addresses, *options).log)
    text = text.replace(f"{tmp_path}{os.sep}", "/opt/webbridge/").replace("after 2 s", "after 60 s")
    for address, shown in zip(addresses, SHOWN):
        (_, port), (host, _, shown_port) = address.split(":"), shown.partition(":")
        text = text.replace(f"port {port} on 127.0.0.1", f"port {shown_port} on {host}")
        text = text.replace(address, shown)
    assert text.splitlines() == nights_of_the_example()[number]


def test_stamps_of_the_example() -> None:
    assert len(nights_of_the_example()) == len(NIGHTS)
    stamps = [line[: line.index("+00:00 ")] for line in EXAMPLE]
    assert stamps == sorted(stamps)
    labels = [number for number, line in enumerate(EXAMPLE) if line.endswith(". Error:")]
    same = [number for number, stamp in enumerate(stamps[:-1]) if stamp == stamps[number + 1]]
    assert labels == same  # the two lines of a failure are written at once


# ---- The demo ------------------------------------------------------------------------------------


def test_the_demo_tells_its_story_and_ends_well() -> None:
    """Each step has the command that it shows, what that command ends with, and why."""
    ran = subprocess.run(
        [sys.executable, demo.__file__],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
    )
    said = ran.stdout.decode().replace("\r\n", "\n")
    assert (ran.returncode, ran.stderr) == (0, b"")
    told = [text for name, text in vars(demo).items() if name.isupper() and "\n" in str(text)]
    places = [said.index(text) for text in told]
    assert places == sorted(places)
    assert max(len(line) for text in told for line in text.splitlines()) <= 80
    busy = "44 active sessions, more than --max-active 0; 136 leaked sessions."
    found = re.findall(r"(?m)^\$ python \S+ (.*)|^(.*)\n\(exit status (\d)\)$", said)
    assert [
        command or (last.partition(" FULL:")[0], status) for command, last, status in found
    ] == [
        "--check --accept-new-host-keys",
        ("3 of 4 servers ready.", "1"),
        "--verbose",
        ("Restarted 2 of 4 servers.", "1"),
        "--sessions",
        ("Leaked: 136 sessions (180 Web Bridge, 44 active CMA).", "0"),
        "--if-leaked 20 --max-active 0",
        (f"Not restarted: {busy}", "1"),
        "--if-leaked 20 --max-active 0",
        ("Restarted 2 of 2 servers.", "0"),
    ]
    logged = [STAMP.sub("", line) for line in said.splitlines() if STAMP.match(line)]
    assert [line.partition(" FULL: server 1 ")[0] for line in logged[6:-2]] == [
        f"Not restarted: {busy}",
        "Restarting: 0 active sessions; 136 leaked sessions.",
    ]
