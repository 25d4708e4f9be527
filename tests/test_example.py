"""The example log, the README's quotes and the demo show what the script really is.

The code writes each night of the example and each quote here, on a mocked paramiko, and the lines
must be the same. Whether the script is right to write them is for the other tests.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import paramiko
import pytest

import demo
import webbridge_restart
from conftest import NOW, STAMP, unstamped
from demo import log_of
from remote import Remote

FOLDER = webbridge_restart.SCRIPT.parent
SERVERS = ("10.48.79.194", "cms2.example.com", "10.48.79.195:2222")
ACCESS = ("--password-file", "password")
IF = ("--if-leaked", "20", "--max-active", "0")
State = dict[str, Any]  # of a server, as remote.at() takes it
FAILS: State = {"answer": [b"FAILURE: Webbridge configuration not complete\n", 0, "end", "close"]}
IS_ENABLED: State = {"answer": [b"Enabled : true\n", 0, "end", "close"]}
IS_OFF: State = {"connect": 3 * [ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")]}
SAYS_NOTHING: State = {"answer": []}
REFUSES: State = {"login": [paramiko.AuthenticationException()]}
SIGNALLED: State = {"answer": [lambda: signal.raise_signal(signal.SIGTERM)]}
SLEEPS: State = {"hang up": [7.1 * 3600]}  # the whole computer, after this server's answer


def counted(web_bridge: int, cma: str) -> State:
    return {"text": log_of(web_bridge, cma, NOW)}


NO_COUNTER = {"text": log_of(0, "2/2", NOW).replace(b"Stats", b"No stats")}
Named = Callable[[str], str]


@pytest.fixture
def installed(tmp_path: Path, known_hosts: Path, log_file: Path, monkeypatch: Any) -> Named:
    """Install the script, with a password file; return what names its folder as the README does."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "password"
    file.write_text("correct horse\n")
    file.chmod(0o600)
    monkeypatch.setattr(sys, "executable", f"{tmp_path}{os.sep}.venv/bin/python")
    monkeypatch.setattr(webbridge_restart, "KNOWN_HOSTS_FILE", known_hosts)
    monkeypatch.setattr(webbridge_restart, "LOG_FILE", log_file)
    return lambda text: text.replace(f"{tmp_path}{os.sep}", "/opt/webbridge/")


# ---- The example log -----------------------------------------------------------------------------

FILE = FOLDER / "webbridge_restart_logs.txt.example"
EXAMPLE = FILE.read_text(encoding="utf-8").splitlines()
DAYS = groupby(EXAMPLE, key=lambda line: line[: len("2026-11-21")])
NIGHTS = [unstamped("\n".join(lines)) for _, lines in DAYS]
CAUSES: list[tuple[list[State], tuple[str, ...]]] = [  # the servers' states, the options
    ([], ()),
    ([counted(121, "0/17"), counted(31, "0/34"), counted(0, "0/2")], IF),
    ([counted(121, "14/17"), counted(31, "12/34"), counted(2, "2/2")], IF),
    ([counted(149, "14/17"), counted(31, "12/34"), counted(0, "2/2")], IF),
    ([{}, FAILS], ()),
    ([{}, {}, IS_OFF], ()),
    ([counted(9, "0/3"), counted(31, "0/34"), NO_COUNTER], IF),
    ([], ("--password-file", "password.txt")),
    ([SAYS_NOTHING], ()),
    ([{}, SIGNALLED], ()),
    ([SLEEPS], ()),
]


@pytest.mark.parametrize(("night", "cause"), [*zip_longest(NIGHTS, CAUSES)])
def test_night_of_the_example(remote: Remote, installed: Named, night: Any, cause: Any) -> None:
    states, options = cause
    for address, state in zip_longest(SERVERS, states, fillvalue={}):
        remote.at(address, **state)
    log = remote.run(*ACCESS, *options).log
    assert [installed(line) for line in log] == night


def test_stamps_of_the_example() -> None:
    """They go up, and the two lines of a failure are written at once."""
    stamps = [line[: line.index("+00:00 ")] for line in EXAMPLE]
    assert stamps == sorted(stamps)
    labels = [number for number, line in enumerate(EXAMPLE) if line.endswith(". Error:")]
    same = [number for number, stamp in enumerate(stamps[:-1]) if stamp == stamps[number + 1]]
    assert labels == same


# ---- What the README quotes ----------------------------------------------------------------------

README = (FOLDER / "README.md").read_text(encoding="utf-8")
PRINTED = r"20\d\d-|Server |Waiting |\d of |\d \(|Leaked: |FULL: "  # a line that begins so
QUOTES = re.findall(rf"(?m)^ {{4}}((?:{PRINTED}).*)", README)
QUOTES += [span for span in re.findall(r"`([A-Z][a-z]* [^`]+)`", README) if span != "Edit these"]
WALK: list[tuple[State, State, str]] = [  # the states of the two servers, the options
    ({}, {}, "--check"),
    (IS_ENABLED, IS_ENABLED, "--check --accept-new-host-keys"),
    ({}, {}, "1"),
    (IS_ENABLED | counted(2, "0/3"), IS_ENABLED | counted(1, "0/1"), "--check --if-leaked 20"),
    (counted(121, "0/17"), counted(31, "0/34"), "--if-leaked 20 --max-active 0"),
    (counted(148, "14/17"), counted(32, "14/34"), "--if-leaked 20 --max-active 0"),
    (counted(149, "14/17"), counted(31, "14/34"), "--if-leaked 20 --max-active 0"),
    (counted(9, "0/3"), IS_OFF, "--if-leaked 20 --max-active 0"),
    (counted(149, "14/17"), counted(31, "30/34"), "--sessions"),
    (REFUSES, FAILS, ""),
    (SAYS_NOTHING, IS_OFF, ""),
]


def alike(text: str) -> str:
    """Return the text without what differs from run to run."""
    text = re.sub(r"SHA256:[\w+/]+(\.\.\.)?", "SHA256:5pr0", STAMP.sub("", text))
    return re.sub(r"\b\d+\.\d s\b", "0.1 s", text).strip("… ")


def test_the_script_writes_what_the_readme_quotes(
    remote: Remote, installed: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ""
    for *states, options in WALK:
        for address, state in zip(SERVERS, states):
            remote.at(address, known=(), **state)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        ran = remote.run(*ACCESS, *options.split())
        said += alike(installed("\n".join([ran.out, ran.err, *ran.log, ""])))
    assert len(QUOTES) > 15
    assert [quote for quote in QUOTES if alike(quote) not in said] == []


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
