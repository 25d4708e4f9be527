"""The example log and the demo, delivered beside the script, show what it really is.

The code writes each night of the example here, on a mocked paramiko, and the lines must be the
same. Whether the script is right to write them is for the other tests.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import pytest

import demo
import webbridge_restart
from conftest import STAMP, unstamped
from demo import log_of
from remote import Remote

# ---- The example log -----------------------------------------------------------------------------

FILE = webbridge_restart.SCRIPT.with_name("webbridge_restart_logs.txt.example")
EXAMPLE = FILE.read_text(encoding="utf-8").splitlines()
NIGHTS = [
    unstamped("\n".join(lines))
    for _, lines in groupby(EXAMPLE, key=lambda line: line[: len("2026-11-21")])
]
SERVERS = ("10.48.79.194", "cms2.example.com", "10.48.79.195:2222")
IF = ("--if-leaked", "20", "--max-active", "0")
FAILS = {"answer": [b"FAILURE: Webbridge configuration not complete\n", 0, "end", "close"]}
IS_OFF = {"connect": 3 * [ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")]}
SAYS_NOTHING: dict[str, Any] = {"answer": []}
SIGNALLED = {"answer": [lambda: signal.raise_signal(signal.SIGTERM)]}
NO_COUNTER = log_of(0, "2/2").replace(b"Stats", b"No stats")


def logs(*texts: bytes) -> list[dict[str, Any]]:
    return [{"text": text} for text in texts]


CAUSES: list[tuple[list[dict[str, Any]], tuple[str, ...]]] = [  # the servers' states, the options
    ([], ()),
    (logs(log_of(121, "0/17"), log_of(31, "0/34"), log_of(0, "0/2")), IF),
    (logs(log_of(121, "14/17"), log_of(31, "12/34"), log_of(2, "2/2")), IF),
    (logs(log_of(149, "14/17"), log_of(31, "12/34"), log_of(0, "2/2")), IF),
    ([{}, FAILS], ()),
    ([{}, {}, IS_OFF], ()),
    (logs(log_of(9, "0/3"), log_of(31, "0/34"), NO_COUNTER), IF),
    ([], ("--password-file", "password")),
    ([SAYS_NOTHING], ()),
    ([{}, SIGNALLED], ()),
]


@pytest.mark.parametrize(("night", "cause"), [*zip_longest(NIGHTS, CAUSES)])
def test_night_of_the_example(
    remote: Remote, night: list[str], cause: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, options = cause
    monkeypatch.chdir(tmp_path)
    for address, state in zip_longest(SERVERS, states, fillvalue={}):
        remote.at(address, **state)
    log = remote.run(*options).log
    assert [line.replace(f"{tmp_path}{os.sep}", "/opt/webbridge/") for line in log] == night


def test_stamps_of_the_example() -> None:
    """They go up, and the two lines of a failure are written at once."""
    stamps = [line[: line.index("+00:00 ")] for line in EXAMPLE]
    assert stamps == sorted(stamps)
    labels = [number for number, line in enumerate(EXAMPLE) if line.endswith(". Error:")]
    same = [number for number, stamp in enumerate(stamps[:-1]) if stamp == stamps[number + 1]]
    assert labels == same


# ---- The demo ------------------------------------------------------------------------------------

BUSY = "44 active sessions, more than --max-active 0; 136 leaked sessions."
STEPS = [  # the commands, and the last line and the exit status of each
    ("--check --accept-new-host-keys", "3 of 4 servers ready.", "1"),
    ("--verbose", "Restarted 2 of 4 servers.", "1"),
    ("--sessions", "Leaked: 136 sessions (180 Web Bridge, 44 active CMA).", "0"),
    ("--if-leaked 20 --max-active 0", f"Not restarted: {BUSY}", "1"),
    ("--if-leaked 20 --max-active 0", "Restarted 2 of 2 servers.", "0"),
]


def test_the_demo_tells_its_story_and_ends_well() -> None:
    """Each step has the command that it shows, what that command ends with, and why."""
    how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "check": True}
    ran = subprocess.run([sys.executable, demo.__file__], timeout=120, **how)
    assert ran.stderr == b""
    said = ran.stdout.decode().replace("\r\n", "\n")
    places = [said.index(chapter) for chapter in demo.STORY.split("\n\n")]
    assert places == sorted(places)
    assert max(map(len, demo.STORY.splitlines())) <= 80
    step = r"(?ms)^\$ python \S+ ([^\n]*)$.*?^([^\n]*?)(?: FULL:[^\n]*)?\n\(exit status (\d)\)$"
    assert re.findall(step, said) == STEPS
    logged = [line for line in said.splitlines() if STAMP.match(line)]
    assert len(logged) == 6 + 4  # two failures; then a line about each night, and two successes
