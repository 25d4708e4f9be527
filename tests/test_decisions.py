"""Every decision of a run, through main([...]) on a mocked paramiko: again or not, once or never.

Only here can something happen at exactly one step, and a clock stand still. How real servers behave
is in test_faults.py and test_ends.py; how an answer is judged, in rows, in test_judging.py.
"""

from __future__ import annotations

import datetime
import errno
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import paramiko
from paramiko import AuthenticationException, BadAuthenticationType, SSHException
from paramiko.ssh_exception import IncompatiblePeer
from pytest import MonkeyPatch, mark

import webbridge_restart
from conftest import CISCO, DOUBT, NOW, error_of, failed, restarted, unstamped
from remote import ECDSA_KEY, KEY, OTHER_KEY, WHOLE, Asleep, Remote, Thread
from webbridge_restart import command_line

A, B, C = "10.48.79.194", "10.48.79.195", "10.48.79.196"
# What a server receives
KEYS = "connect, handshake"
LOOK = f"{KEYS}, hang up"
LOGIN = f"{KEYS}, password"
SENT, ANSWERED = f"{LOGIN}, hang up", f"{LOGIN}, answer, hang up"
LOGGED_IN = f"{LOGIN}, session, hang up"
RESTARTED = f"{LOGIN}, session, webbridge restart, hang up"
BY_ANSWER = f"{LOGIN}, answer, session, webbridge restart, hang up"
CHECKED = f"{LOGIN}, session, webbridge, hang up"
READ = f"{LOGIN}, session, sftp, log, hang up"
# What it does at a step
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
RESET = ConnectionResetError(104, "Connection reset by peer")
ENDED = EOFError()
ASKS = BadAuthenticationType("no", ["publickey", "keyboard-interactive"])
ONLY_KEYS = BadAuthenticationType("no", ["publickey"])
NO = AuthenticationException("no")
QUESTION, IN_CLEAR_TEXT = ("Password: ", False), ("User: ", True)
CLOSED = [SSHException("Channel closed.")]  # a request without a reply
ODD = IndexError("odd\x1b")
TEXT, A_LINE, B_LINE = CISCO.encode(), b"SUCCESS: a\n", b"FAILURE: b\n"
FAILS = [B_LINE, 1, "end", "close"]
SETTINGS = [b"Enabled                 : true\nInterface whitelist     : a:443\n", 0, "end", "close"]
ACCEPT = "--accept-new-host-keys"

# ---- One server, in rows -------------------------------------------------------------------------

# Where a reason ends with "...", test_faults.py and test_judging.py have the rest.
UNABLE = f"[Errno None] Unable to connect to port 22 on {A}"
NO_TIME = f"Timed out after 18 s while connecting to {A} port 22."
STALL = "Timed out after 18 s in..."
NO_SSH = "No usable SSH answer..."
NO_KEX = f"The server and paramiko {paramiko.__version__} have no algorithm in common: a..."
CHANGED = "The host key has CHANGED..."
OTHER_TYPE = "The server has no host key of a known type..."
NO_LOGIN = "Login refused. It is not tried again..."
NOT_ALONE = "The server did not let this script in with the password alone..."
NO_SESSION = "The server refused to open a session (code 4)..."
BROKE_OFF = "The connection broke off while opening a session."
OVER = "Cut off after 60 s while {}. A slow server needs a higher --timeout."
NO_END = OVER.format("waiting for the answer")
NO_END_OF_A = f"{NO_END} It had answered: SUCCESS: a. {DOUBT}"
BROKEN = "The connection broke off before the end of the answer..."
NO_REPLY = f"The server did not reply to the command. {DOUBT}"
SILENT = "The answer does not confirm the restart: nothing (exit status 0)..."
NO_STATUS = "The answer does not confirm the restart: SUCCESS: a (no exit status)..."
FAILURE, FAILURE_1 = (f"The server answered: FAILURE: b{end}" for end in ("", " (exit status 1)"))
NO_UTF_8 = UnicodeDecodeError("utf-8", b"\xfc", 0, 1, "invalid start byte")
NO_SESSION_IN_TIME = OVER.format("opening a session")
UNFORESEEN = r"IndexError: odd\x1b."
NOT_B = f"Not attempted: {B}"
# By the wall clock, a turn may take 60 s, and 60 s more.
JUST, MORE, HOURS = Asleep(119.9), Asleep(121.0), Asleep(7 * 3600 + 60.0)
ON_WINDOWS = Asleep(HOURS.wall, HOURS.wall)
LATE_FAILURE = [TEXT, 0, HOURS, 5.0, 5.0, B_LINE]


def slept(span: str) -> str:
    return f"The computer slept for {span}, or its clock was set, so the run ends."


def row(reason: str, received: str, *options: str, end: str = "", **state: Any) -> tuple[Any, ...]:
    """Return why a server in this state is not restarted ("": it is), and what it receives.

    The end is why the run ends then.
    """
    return state, reason, received, options, end


SHORT, LONG, BACK, PAUSE = slept("1 min"), slept("7 hours"), slept("60 min"), "--pause=9"
DIALS, LOOKS = "connect, connect, connect", f"{LOOK}, {LOOK}, {LOOK}"
ROWS = {
    # What can pass is tried three times, while there is time for a whole try.
    "no route": row(UNABLE, DIALS, connect=[OSError(errno.EHOSTUNREACH, "a")] * 3),
    "no network": row("Cannot connect...", DIALS, connect=[OSError(errno.ENETUNREACH, "a")] * 3),
    "silent": row(NO_TIME, DIALS, connect=[socket.timeout()] * 3),
    "no name": row(f"Cannot resolve {A}...", DIALS, connect=[socket.gaierror(-3, "?")] * 3),
    "reset, end, odd words": row(NO_SSH, LOOKS, handshake=[RESET, ENDED, NO_UTF_8]),
    "stall": row(STALL, LOOKS, handshake=["stalls"] * 3),
    "late stall": row(STALL, f"{LOOK}, {LOOK}", connect=[17.0] * 2, handshake=["stalls"] * 2),
    "only at first": row("", f"connect, {LOOK}, {RESTARTED}", connect=[REFUSED], handshake=[ENDED]),
    "just in time": row("", f"{LOOK}, {RESTARTED}", connect=[40.0], handshake=[ENDED]),
    "too late": row(NO_SSH, f"connect, {LOOK}", connect=[REFUSED, 38.5], handshake=[ENDED]),
    "no kex": row(NO_KEX, LOOK, handshake=[IncompatiblePeer("a")]),
    # A wrong host key gets nothing, and is not stored. An attack must not read as an old server.
    "new key": row("New host key, not trusted yet...", LOOK, known=[]),
    "changed key": row(CHANGED, LOOK, keys=[[OTHER_KEY]]),
    "changed key, and new ones are accepted": row(CHANGED, LOOK, ACCEPT, keys=[[OTHER_KEY]]),
    "another type": row(OTHER_TYPE, LOOK, ACCEPT, keys=[[ECDSA_KEY]]),
    "not paramiko's favourite": row("", RESTARTED, known=[ECDSA_KEY], keys=[[KEY, ECDSA_KEY]]),
    # The password goes out once, and nothing is tried again.
    "drop before it": row("The connection broke off before...", LOOK, handshake=["drops"]),
    "login refused": row(NO_LOGIN, SENT, login=[NO]),
    "login reset": row(NO_LOGIN, SENT, login=[RESET]),
    "login ended": row(NO_LOGIN, SENT, login=[ENDED]),
    "keys only": row("The server accepts no password, only publickey...", SENT, login=[ONLY_KEYS]),
    "one factor of two": row(NOT_ALONE, SENT, login=[["publickey"]]),
    "expired": row(NOT_ALONE, SENT, login=[SSHException("Illegal info request")]),
    "no session": row(NO_SESSION, LOGGED_IN, session=[paramiko.ChannelException(4, "a")]),
    "session breaks": row(BROKE_OFF, LOGGED_IN, session=[SSHException("No existing session")]),
    # Words that are no UTF-8, as in a goodbye
    "odd words in the login": row(NO_LOGIN, SENT, login=[NO_UTF_8]),
    "odd words in the session": row(BROKE_OFF, LOGGED_IN, session=[NO_UTF_8]),
    # Where the server takes no passwords as such, it is the answer to one hidden question, once.
    "question": row("", BY_ANSWER, login=[ASKS]),
    "answer refused": row(NO_LOGIN, ANSWERED, login=[ASKS], question=[NO]),
    "answer and named again": row(NO_LOGIN, ANSWERED, login=[ASKS], question=[ASKS]),
    "answer and more": row(NOT_ALONE, ANSWERED, login=[ASKS], question=[["publickey"]]),
    "asked twice": row(NOT_ALONE, ANSWERED, login=[ASKS], asks=[[QUESTION], [QUESTION]]),
    "two questions": row(NOT_ALONE, SENT, login=[ASKS], asks=[[QUESTION, QUESTION]]),
    "in clear text": row(NOT_ALONE, SENT, login=[ASKS], asks=[[IN_CLEAR_TEXT]]),
    # The command goes out once.
    "silence": row("", RESTARTED, answer=[0, "end", "close"]),
    "failure": row(FAILURE_1, RESTARTED, answer=[A_LINE, B_LINE, 1, "end"]),
    "no status": row("", RESTARTED, answer=[b"> \rSUCCESS: Webbridge enabled", "end", "close"]),
    "loss": row(BROKEN, RESTARTED, answer=[TEXT, "lost"]),
    "loss behind the end": row("", RESTARTED, answer=[TEXT, (0, "end", "lost")]),
    "loss that shows late": row(BROKEN, RESTARTED, answer=[TEXT, 0, "breaks", 3.0, "lost"]),
    "status in time": row("", RESTARTED, answer=[A_LINE, "end", 9.0, 0]),
    "status too late": row(NO_STATUS, RESTARTED, answer=[A_LINE, "end", 1.0, 10.0, 0]),
    "end in time": row(FAILURE, RESTARTED, answer=[0, 1.0, B_LINE, "end"]),
    "failure behind the end": row(FAILURE, RESTARTED, answer=[TEXT, 0, "end", B_LINE]),
    # The computer was asleep when the status came. So the 2 s for what may follow begin later.
    "status in its sleep": row(FAILURE, RESTARTED, answer=[TEXT, (5.0, 0), 1.0, B_LINE]),
    "suspended at the end": row(FAILURE, RESTARTED, answer=[TEXT, 0, "join", "join", B_LINE]),
    "end too late": row("", RESTARTED, answer=[0, 1.0, 2.0, 1.0, B_LINE, "end"]),
    "endless": row("The answer is longer...", RESTARTED, answer=[b"x" * (1 << 20), b"x"]),
    "not run": row("The server refused to run...", RESTARTED, answer=["close"], exec=CLOSED),
    "not run, but a status": row(SILENT, RESTARTED, answer=[0, "end", "close"], exec=CLOSED),
    "no reply, but text": row("", RESTARTED, answer=[TEXT, 0, "end"], exec=["hangs"]),
    "no reply, and silence": row(NO_REPLY, RESTARTED, answer=[1.0, 0, "end"], exec=["hangs"]),
    "no reply, and an end": row(NO_REPLY, RESTARTED, answer=["end", 11.0], exec=["hangs"]),
    "never ends": row(NO_END_OF_A, RESTARTED, answer=[A_LINE]),
    "closes at the last moment": row("", RESTARTED, answer=[TEXT, 60.0, "close"]),
    "failure at the last moment": row(FAILURE, RESTARTED, answer=[60.0, B_LINE]),
    "text at the last moment": row(NO_END_OF_A, RESTARTED, answer=[60.0, A_LINE]),
    # Nothing is sent after the time is over, and what returns late has no effect.
    "connect hangs": row(OVER.format("connecting"), "connect", connect=["hangs"]),
    "login hangs": row(OVER.format("logging in"), SENT, login=["hangs"]),
    "command hangs": row(f"{NO_END} {DOUBT}", RESTARTED, exec=["hangs"], answer=[]),
    "all time for the key": row(OVER.format("logging in"), LOOK, handshake=[60.0]),
    "nearly all time": row("", RESTARTED, session=[59.5]),
    "all time for the session": row(NO_SESSION_IN_TIME, LOGGED_IN, session=[60.0]),
    # What nobody foresaw leaves the restart in doubt only where the command may have been sent.
    "odd in the handshake": row(UNFORESEEN, LOOK, handshake=[ODD]),
    "odd in the login": row(UNFORESEEN, SENT, login=[ODD]),
    "odd in the session": row(UNFORESEEN, LOGGED_IN, session=[ODD]),
    "odd in the answer": row(f"{UNFORESEEN} {DOUBT}", RESTARTED, answer=[ODD]),
    "odd in the end": row("", RESTARTED, **{"hang up": [ODD]}),
    # A computer that slept ends the run, and no pause makes the run forget it.
    "asleep in connect": row(LONG, "connect, hang up", PAUSE, end=LONG, connect=[HOURS]),
    "asleep in handshake": row(LONG, LOOK, PAUSE, end=LONG, handshake=[HOURS]),
    "asleep in login": row(LONG, SENT, PAUSE, end=LONG, login=[HOURS]),
    "asleep in session": row(LONG, LOGGED_IN, PAUSE, end=LONG, session=[HOURS]),
    "too long": row(SHORT, LOGGED_IN, PAUSE, end=SHORT, session=[MORE]),
    "not too long": row("", RESTARTED, PAUSE, session=[JUST]),
    "both clocks": row(NO_SESSION_IN_TIME, LOGGED_IN, PAUSE, end=LONG, session=[ON_WINDOWS]),
    # An answer is heard to its end.
    "asleep in answer": row("", RESTARTED, PAUSE, end=LONG, answer=[HOURS, *WHOLE]),
    "answer, not too long": row("", RESTARTED, PAUSE, answer=[JUST, *WHOLE]),
    "asleep before it": row(
        f"{LONG} {DOUBT}", RESTARTED, PAUSE, end=LONG, exec=["hangs"], answer=[HOURS, 1.0, *WHOLE]
    ),
    "asleep in answer, no reply": row(
        "", RESTARTED, PAUSE, end=LONG, exec=["hangs"], answer=[A_LINE, HOURS, *WHOLE]
    ),
    "clock set back": row(BACK, LOGGED_IN, PAUSE, end=BACK, session=[Asleep(-3600.0)]),
    "clock set back a little": row("", RESTARTED, PAUSE, session=[Asleep(-59.9)]),
    "both in answer": row(NO_END_OF_A, RESTARTED, PAUSE, end=LONG, answer=[A_LINE, ON_WINDOWS]),
    "late failure": row(FAILURE, RESTARTED, PAUSE, end=LONG, answer=LATE_FAILURE),
    "asleep in end": row("", RESTARTED, PAUSE, end=LONG, **{"hang up": [HOURS]}),
}


@mark.parametrize(("state", "reason", "received", "options", "end"), ROWS.values(), ids=ROWS)
def test_one_server(
    remote: Remote, state: Any, reason: str, received: str, options: Any, end: str
) -> None:
    """The server after it is restarted, whatever happens, unless the run ends."""
    mmp, following = remote.at(A, **state), remote.at(B)
    known = remote.known_hosts.read_text()
    ran = remote.run(*options)
    if reason.endswith("..."):
        assert ran.log[1].startswith(reason[:-3])
        reason = ran.log[1]
    told = failed(mmp, reason) if reason else [restarted(mmp)]
    assert ran.log == [*told, f"{end} {NOT_B}" if end else restarted(following)]
    err = f"Server 1 ({A}) FAILED after {ran.seconds:.1f} s: {reason}\n" if reason else ""
    err += f"{end} {NOT_B}\n" if end else ""
    assert (ran.status, ran.err) == (1 if err else 0, err)
    assert (mmp.received, following.received) == (received, "" if end else RESTARTED)
    assert remote.known_hosts.read_text() == known


# The last step, and what the server receives
LAST = {"connect": "connect, hang up", "handshake": LOOK, "login": SENT, "session": LOGGED_IN}


@mark.parametrize("step", LAST)
def test_no_more_threads(remote: Remote, monkeypatch: MonkeyPatch, step: str) -> None:
    """After this step, nothing is sent, so nothing is in doubt."""
    no_more = Mock(side_effect=RuntimeError("can't start new thread"))
    mmp = remote.at(A, **{step: [lambda: monkeypatch.setattr(Thread, "start", no_more)]})
    assert remote.run().log == failed(mmp, "RuntimeError: can't start new thread.")
    assert mmp.received == LAST[step]


def test_new_key_is_stored_and_then_required(remote: Remote) -> None:
    """On a line of its own. Somebody else may answer the next connection of a run."""
    remote.known_hosts.write_text("# mine")
    mmp = remote.at(A, known=[], text=log(30, 3))
    other = remote.at(B, known=[], keys=[[KEY], [OTHER_KEY]], text=log(0, 7))
    ran = remote.run(ACCEPT, "--quiet", *NIGHT)
    words = f"new host key stored: ssh-ed25519 {KEY.fingerprint}"
    stored = [f"Server 1 ({A}): {words}", f"Server 2 ({B}): {words}"]
    assert ran.log[:2] == stored
    assert ran.log[3:] == [restarted(mmp), *failed(other, ran.log[5])]
    assert ran.log[5].startswith(CHANGED[:-3])
    assert ran.out == "".join(f"{line}\n" for line in stored)
    assert (mmp.received, other.received) == (f"{READ}, {RESTARTED}", f"{READ}, {LOOK}")
    lines = [f"{each} ssh-ed25519 {KEY.get_base64()}" for each in (A, B)]
    assert remote.known_hosts.read_text().splitlines() == ["# mine", *lines]


def test_new_key_is_not_stored_after_the_end(remote: Remote) -> None:
    mmp = remote.at(A, known=[], handshake=[HOURS])
    assert (remote.run(ACCEPT).log, mmp.received) == (failed(mmp, LONG), LOOK)
    assert remote.known_hosts.read_text() == ""


def test_new_key_that_cannot_be_stored_gets_no_password(remote: Remote, tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "known_hosts"
    mmp = remote.at(A)
    reason = f"Cannot write to {file}: {os.strerror(errno.ENOENT)}. No password was sent."
    assert remote.run("--known-hosts", str(file), ACCEPT).log == failed(mmp, reason)
    assert mmp.received == LOOK


# ---- Signals and pauses: nothing is sent after a signal ------------------------------------------

SIGNALS = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
MOMENTS = {  # what was sent, and what is told of it
    "connect": ("connect", "connecting."),
    "handshake": (LOOK, "connecting."),
    "login": (SENT, "logging in."),
    "question": (ANSWERED, "logging in."),
    "session": (LOGGED_IN, "opening a session."),
    "exec": (RESTARTED, f"waiting for the answer. {DOUBT}"),
    "hang up": (RESTARTED, ""),
}


@mark.parametrize("name", SIGNALS)
@mark.parametrize("step", MOMENTS)
def test_signal(remote: Remote, step: str, name: str) -> None:
    received, doing = MOMENTS[step]
    login = [ASKS] if step == "question" else []
    answer = WHOLE if step == "hang up" else []
    mmp = remote.at(A, **{"login": login, step: [name]}, answer=answer)
    never = [remote.at(B), remote.at(C)]
    ran = remote.run()
    told = failed(mmp, f"Cut off by {name} while {doing}") if doing else [restarted(mmp)]
    ended = f"Ended by {name}. Not attempted: {B}, {C}"
    assert ran.log == [*told, ended]
    assert ran.err.splitlines()[-1] == ended
    assert ran.status == 128 + getattr(signal, name)
    assert [mmp.received, *(each.received for each in never)] == [received, "", ""]


@mark.parametrize(("seconds", "is_heeded"), [(0.0, False), (2.0, True)], ids=str)
def test_second_signal(
    remote: Remote, monkeypatch: MonkeyPatch, seconds: float, is_heeded: bool
) -> None:
    """A pipe that nobody reads may hold the run. Some senders send each signal twice at once."""
    send, by_default = signal.raise_signal, list[int]()
    monkeypatch.setattr(signal, "raise_signal", by_default.append)

    def send_twice() -> None:
        send(signal.SIGTERM)
        remote.clock.sleep(seconds)
        send(signal.SIGTERM)

    remote.at(A, answer=[send_twice])
    assert remote.run().status == 143
    assert by_default == [signal.SIGTERM] * is_heeded
    assert (signal.getsignal(signal.SIGTERM) == signal.SIG_DFL) == is_heeded


def test_signal_that_is_ignored_or_unknown(remote: Remote, monkeypatch: MonkeyPatch) -> None:
    """As nohup ignores one, and shells with jobs in the background; as Windows lacks one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    mmp = remote.at(A, **{"hang up": ["SIGINT"]})
    assert remote.run().log == [restarted(mmp)]


def test_pause_is_between_two_servers_of_a_restart(remote: Remote) -> None:
    """Also after a failure. It takes no server's time, even if it is longer than that."""
    times: list[float] = []
    for each in (A, B, C):
        remote.at(each, connect=[lambda: times.append(remote.clock.monotonic())] * 2, answer=FAILS)
    ran = remote.run("--pause", "90")
    remote.run("--pause", "90", "--check")
    assert [round(at - times[0]) for at in times] == [0, 90, 180, 180, 180, 180]
    assert ran.err.count(f"FAILED after 0.0 s: {FAILURE_1}\n") == 3


# ---- Choosing, checking and telling --------------------------------------------------------------


def test_chosen_servers(remote: Remote) -> None:
    """Each gets one turn, in the order of the inventory, and is told with its number there."""
    first, second = remote.at(A), remote.at(B)
    for choice in ("3", "0", "10.48.79.19"):
        message = f"No server {choice}. WEBBRIDGES has 1 ({A}), 2 ({B})."
        assert remote.run("1", choice)[:4] == (2, "", f"{message}\n", [message])
        assert remote.run("1", choice, "--check").log == []
    assert remote.run("\x1b[31m").err.startswith("No server \\x1b[31m. ")
    assert first.received == ""
    for choice in (["2"], [B], ["2", B]):
        ran = remote.run(*choice)
        assert ran.log == [restarted(second)]
        assert ran.out == f"Server 2 ({B}) restarted in 0.0 s\nRestarted 1 of 1 server.\n"
    assert remote.run("2", "1").log == [restarted(first), restarted(second)]
    assert first.received == RESTARTED


def test_check_asks_and_logs_nothing(remote: Remote, log_file: Path) -> None:
    """It restarts nothing, so nothing is in doubt."""
    answers = {A: SETTINGS, B: [b"Enabled : false", 0, "end"], C: [ODD]}
    servers = [remote.at(each, answer=answer) for each, answer in answers.items()]
    ran = remote.run("--check", "--verbose")
    assert ran.out == (
        f"Server 1 ({A}) OK (Web Bridge enabled) in 0.0 s\n"
        "  answered: Enabled                 : true | Interface whitelist     : a:443\n"
        "1 of 3 servers ready.\n"
    )
    reason = "The server does not say that its Web Bridge is enabled, but: Enabled : false"
    assert ran.err == (
        f"Server 2 ({B}) FAILED after 0.0 s: {reason}\n"
        f"Server 3 ({C}) FAILED after 0.0 s: {UNFORESEEN} It had answered: nothing.\n"
    )
    assert (ran.status, log_file.exists()) == (1, False)
    assert [server.received for server in servers] == [CHECKED] * 3


def test_what_is_told_on_the_terminal(remote: Remote, monkeypatch: MonkeyPatch) -> None:
    """What is waited for, and more or less, as the options say."""
    remote.at(A, answer=[b"SUCCESS: \x1b[31ma", 0, "end"]), remote.at(B, session=[None, ENDED])
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert remote.run("--pause", "5", "--verbose").out.splitlines() == [
        f"Waiting for server 1 ({A}) ...",
        f"Server 1 ({A}) restarted in 0.0 s",
        "  answered: SUCCESS: \\x1b[31ma",
        f"Pausing 5 s before server 2 ({B}) ...",
        f"Waiting for server 2 ({B}) ...",
        f"Server 2 ({B}) restarted in 0.0 s",
        f"  answered: {CISCO.strip()}".replace("\n", " | "),
        "Restarted 2 of 2 servers.",
    ]
    line = f"Server 2 ({B}) FAILED after 0.0 s: {BROKE_OFF}\n"
    assert remote.run("--quiet")[:3] == (1, "", line)
    remote.at(A, answer=SETTINGS)
    assert remote.run("1", "--check", "--quiet")[:3] == (0, "", "")


def test_what_is_not_logged_is_told(remote: Remote, log_file: Path, tmp_path: Path) -> None:
    """The log later takes lines again, and the exit status does not forget what is lost."""
    away = tmp_path / "away"
    take_away = [lambda: log_file.rename(away), log_file.mkdir]
    give_back = [log_file.rmdir, lambda: away.rename(log_file)]
    first, second = remote.at(A), remote.at(B, answer=[*take_away, *WHOLE])
    last = remote.at(C, answer=[*give_back, *WHOLE])
    ran = remote.run()
    assert ran.log == [restarted(first), restarted(last)]
    reason, lost = ran.err.splitlines()
    why = error_of(lambda: tmp_path.open("ab"))
    assert reason == f"Cannot write to {log_file}: {why}. Not logged:"
    assert unstamped(lost) == [restarted(second)]
    assert (ran.status, ran.out.splitlines()[-1]) == (1, "Restarted 3 of 3 servers.")


@mark.skipif(sys.platform != "linux", reason="only Linux has it")
def test_log_that_is_a_device(remote: Remote) -> None:
    """Of which nothing is read: it has no end."""
    mmp = remote.at(A)
    status, out, err, log = remote.run("--log-file", "/dev/full")[:4]
    why = f"Cannot write to /dev/full: {os.strerror(errno.ENOSPC)}. Not logged:\n"
    assert (status, log) == (1, [])
    assert out.endswith("Restarted 1 of 1 server.\n")
    assert err.startswith(why) and unstamped(err[len(why) :]) == [restarted(mmp)]


def test_stamp_has_microseconds_even_if_they_are_zero(remote: Remote, log_file: Path) -> None:
    lines = failed(remote.at(A, session=[ENDED]), BROKE_OFF)
    remote.run()
    stamped = [f"2026-06-20 21:16:00.000000+00:00 {line}{os.linesep}" for line in lines]
    assert log_file.read_bytes().decode() == "".join(stamped)


# ---- Conditions ----------------------------------------------------------------------------------

NIGHT = "--if-leaked=20", "--max-active=10"
BUSY, CLEAN = ", more than --max-active 9", ", fewer than --if-leaked 21"


def log(sessions: int, users: int, minutes: int = 1) -> bytes:
    """Return a server's log with its two counters, so many minutes old."""
    line = f"{NOW - datetime.timedelta(minutes=minutes):%b %d %H:%M:%S} user.info cms1"
    web = f"{line} webbridge: INFO : [DEBUGGING] Stats {sessions}, c:3477, d:3170\n"
    return f'{web}{line} host:server: INFO : STATS: {{"CMA": "{users}/99"}}\n'.encode()


def full(remote: Remote, number: int, address: str, minutes: int = 1) -> str:
    """Return what is told of a full Web Bridge, with the command that restarts it."""
    log_file = remote.known_hosts.with_name("log.txt")
    options = "--ask-password", "--known-hosts", remote.known_hosts, "--log-file", log_file
    by_hand = command_line(sys.executable, webbridge_restart.SCRIPT, number, *options)
    return (
        f"FULL: server {number} ({address}) {minutes} min ago. At 149 sessions a Web Bridge "
        "accepts no more, so nobody else can join there. To restart it now, which ends its "
        f"WebRTC sessions: {by_hand}"
    )


FEW, MANY, ONE_FULL = (log(30, 3), log(0, 7)), (log(0, 0), log(149, 140)), (log(0, 9), log(149, 0))
BOTH = f"140 active sessions{BUSY}; 9 leaked sessions{CLEAN}."
FIGURES = "10 active sessions; 20 leaked sessions."
NEEDED = "9 active sessions; 140 leaked sessions."
NIGHTS = {  # options, logs, what is logged, who is restarted, and whether server 2 stays full
    "yes, with pauses": (["--pause=9", "--if-leaked=20"], FEW, FIGURES, [A, B], False),
    "yes, in quiet": (["--quiet", *NIGHT], ONE_FULL, NEEDED, [A, B], False),
    "busy": (["--max-active=9"], FEW, f"10 active sessions{BUSY}; 20 leaked sessions.", [], False),
    "few": (["--if-leaked=21"], FEW, f"10 active sessions; 20 leaked sessions{CLEAN}.", [], False),
    "both, and full": (["--if-leaked=21", "--max-active=9"], MANY, BOTH, [], True),
    "stays full": (["1", "--quiet", *NIGHT], ONE_FULL, NEEDED, [A], True),
}


@mark.parametrize(("options", "logs", "words", "chosen", "is_full"), NIGHTS.values(), ids=NIGHTS)
def test_night(
    remote: Remote, options: Any, logs: Any, words: str, chosen: Any, is_full: bool
) -> None:
    """All servers count. One that stays full is told even where nothing else is."""
    servers = [remote.at(address, text=text) for address, text in zip((A, B), logs)]
    ran = remote.run(*options)
    told = f"{'Restarting' if chosen else 'Not restarted'}: {words}"
    if is_full:
        told += f" {full(remote, 2, B)}"
    assert ran.log == [told, *map(restarted, chosen)]
    assert (ran.status, ran.err) == ((1, f"{told}\n") if is_full else (0, ""))
    is_quiet = "--quiet" in options
    assert (ran.out == "") == (is_quiet or (is_full and not chosen))
    assert (f"{told}\n" in ran.out) == (not is_quiet and not is_full)
    for server in servers:
        restart = f", {RESTARTED}" if server.address in chosen else ""
        assert server.received == f"{READ}{restart}"


def test_what_is_counted_and_only_told(remote: Remote, log_file: Path) -> None:
    mmp = remote.at(A, answer=SETTINGS, text=log(149, 99))
    table = (
        "Server            Web Bridge  Age    CMA    Age\n"
        "1 (10.48.79.194)  149 FULL    1 min  99/99  1 min\n"
    )
    told = f"{full(remote, 1, A)}\nLeaked: 50 sessions (149 Web Bridge, 99 active CMA).\n"
    out = f"{table}{webbridge_restart.CAUTIONS}\n{told}"
    assert remote.run("--sessions")[:3] == (0, out, "")
    assert remote.run("--sessions", "--quiet")[:3] == (0, f"{table}{told}", "")
    would = "A run now would restart {}: 99 active sessions; 50 leaked sessions{}.\n"
    for least, *words in ((50, "1 server", ""), (51, "nothing", ", fewer than --if-leaked 51")):
        out = f"{table}{told}{would.format(*words)}"
        assert remote.run("--check", f"--if-leaked={least}", "--quiet")[:3] == (0, out, "")
    assert mmp.received == f"{READ}, {READ}, {CHECKED}, {READ}, {CHECKED}, {READ}"
    assert not log_file.exists()


@mark.parametrize("is_ready", [True, False], ids=["not counted", "not ready"])
def test_rehearsal_that_fails(remote: Remote, is_ready: bool) -> None:
    """It counts only where all servers are ready."""
    mmp = remote.at(A, answer=SETTINGS if is_ready else FAILS)
    ran = remote.run("--check", *NIGHT)
    told = "Cannot count: 1 of 1 server, see above.\nA run now would restart nothing.\n"
    assert (ran.status, ran.err.endswith(told)) == (1, is_ready)
    assert mmp.received == (f"{CHECKED}, {READ}" if is_ready else CHECKED)


OLD = "The figures are too old now, so the run ends."
REST = f"{OLD} Not attempted: {C}"
AGING = {  # the condition, what server 2 does, and what is logged of it and of server 3
    "before a turn": ("--max-active=10", {"answer": [61.0, *WHOLE]}, [restarted(B), REST]),
    "before the command": ("--max-active=10", {"session": [None, 61.0]}, [*failed(B, OLD), REST]),
    "no matter": ("--if-leaked=20", {"session": [None, 61.0]}, [restarted(B), restarted(C)]),
}


@mark.parametrize(("condition", "state", "told"), AGING.values(), ids=AGING)
def test_figures_grow_old_while_servers_restart(
    remote: Remote, condition: str, state: dict[str, Any], told: list[str]
) -> None:
    """Who is in a meeting must be of now at each restart. The oldest figure counts."""
    remote.at(A, text=log(30, 3), session=[None, 9 * 60.0])
    servers = [remote.at(B, text=log(0, 7, minutes=5), **state), remote.at(C, text=log(0, 0))]
    ran = remote.run(condition, "--timeout=3600")
    assert (ran.status, ran.log[1:]) == (int(REST in told), [restarted(A), *told])
    sent = [server.received.count("webbridge restart") for server in servers]
    assert sent == [told.count(restarted(server)) for server in servers]


PROBLEMS: dict[str, tuple[dict[str, Any], str, int]] = {
    "connect": ({"connect": [REFUSED] * 3}, UNABLE, 1),
    "odd": ({"log": [ODD]}, UNFORESEEN, 1),
    "slow": ({"log": [60.0]}, OVER.format("reading the server's log"), 2),
}


@mark.parametrize(("state", "problem", "minutes"), PROBLEMS.values(), ids=PROBLEMS)
def test_figure_that_is_missing(
    remote: Remote, state: dict[str, Any], problem: str, minutes: int
) -> None:
    """Nothing is restarted, which takes one sentence, also on the terminal."""
    remote.at(A, **state)
    mmp = remote.at(B, text=log(149, 0))
    told = (
        f"Nothing was restarted. Cannot count: 1 ({A}): {problem} | A server that is down can "
        "come out of the lists at the top of webbridge_restart.py. One whose log is of no use: "
        f"restart it by its number, without conditions. | {full(remote, 2, B, minutes)}"
    )
    assert remote.run(*NIGHT)[:4] == (1, "", f"{told}\n", [told])
    assert mmp.received == READ


@mark.parametrize("step", ["log", "hang up"])
def test_signal_while_counting(remote: Remote, step: str) -> None:
    """Also after the last log was read, nothing is restarted."""
    mmp = remote.at(A, text=log(99, 0), **{step: ["SIGTERM"]})
    ran = remote.run(*NIGHT)
    assert ran.log == ["Ended by SIGTERM. Not attempted: none", "Nothing was restarted."]
    assert (ran.status, mmp.received) == (143, READ)


def test_signal_while_only_counting(remote: Remote) -> None:
    remote.at(A, text=log(99, 0), log=["SIGTERM"])
    never = remote.at(B)
    ran = remote.run("--sessions")
    unread = f"2 ({B})  -           -    -    -    Not counted: The run ended before its turn."
    assert (ran.status, ran.out, never.received) == (143, "", "")
    assert unread in ran.err.splitlines()


def test_call_bridges_of_their_own(remote: Remote, monkeypatch: MonkeyPatch) -> None:
    """They are counted, not restarted. A server in both inventories is read once."""
    both, call_bridge = remote.at(A, text=log(30, 4)), remote.at(C, text=log(100, 5))
    bridge = remote.at(B, text=log(1, 50), answer=FAILS)
    monkeypatch.setattr(webbridge_restart, "CALLBRIDGES", {7: A, 8: C})
    ran = remote.run(*NIGHT, places=[both, bridge])
    figures = "Restarting: 9 active sessions; 22 leaked sessions."
    assert ran.log == [figures, restarted(both), *failed(bridge, FAILURE_1)]
    assert ran.status == 1
    assert both.received == bridge.received == f"{READ}, {RESTARTED}"
    assert call_bridge.received == READ


# ---- A computer that slept: the run ends ---------------------------------------------------------

LESS, NOTHING = slept("6 hours"), "Nothing was restarted."
ENDS, BY_SIGNAL = f"{LONG} {NOT_B}", f"Ended by SIGTERM. {NOT_B}"
CUT_OFF = "Cut off by SIGTERM while connecting."
WAITS: dict[str, Any] = {  # tries to connect, what happens after the last one, what is logged
    "signal between tries": ([REFUSED], "SIGTERM", [*failed(A, CUT_OFF), BY_SIGNAL]),
    "signal": ([], "SIGTERM", [restarted(A), BY_SIGNAL]),
    "not too long": ([], Asleep(59.9), [restarted(A), restarted(B)]),
    "too long": ([], Asleep(61.0), [restarted(A), f"{SHORT} {NOT_B}"]),
    "hours": ([], HOURS, [restarted(A), ENDS]),
    "both clocks": ([], ON_WINDOWS, [restarted(A), f"{LESS} {NOT_B}"]),
}


@mark.parametrize(("tries", "event", "told"), WAITS.values(), ids=WAITS)
def test_wait(remote: Remote, monkeypatch: MonkeyPatch, tries: Any, event: Any, told: Any) -> None:
    """Between two tries to connect, or two servers."""
    mmp, following = remote.at(A, connect=tries, wait=[event]), remote.at(B)

    def sleep(seconds: float) -> None:
        remote.clock.sleep(seconds)
        if mmp.received in ("connect", RESTARTED):
            mmp.take("", "wait")

    monkeypatch.setattr(webbridge_restart.time, "sleep", sleep)
    ran = remote.run("--pause", "600")
    is_whole = restarted(B) in told
    assert (ran.log, ran.status) == (told, 143 if event == "SIGTERM" else 1 - is_whole)
    assert (ran.seconds < 1) == (event == "SIGTERM")
    assert mmp.received == ("connect" if tries else RESTARTED)
    assert following.received == (RESTARTED if is_whole else "")


HELD = {  # the line that is held, and what is logged afterwards
    "Restarting: ": [f"{LESS} Not attempted: {A}, {B}"],
    "Server 1 (": [restarted(A), ENDS],
    "Pausing 9 s": [restarted(A), ENDS],
    "Waiting for server 2": [restarted(A), *failed(B, LONG)],
}


@mark.parametrize(("line", "told"), HELD.items(), ids=HELD)
def test_sleep_while_a_line_is_held(
    remote: Remote, monkeypatch: MonkeyPatch, line: str, told: list[str]
) -> None:
    """As Ctrl-S on a terminal holds it, or a pipe that nobody reads."""
    remote.at(A, text=log(30, 3))
    never, counted = remote.at(B, text=log(0, 7)), []

    def write(text: str) -> None:
        counted.extend(["Restarting: "] * ("Restarting: " in text))
        if text.startswith(line) and counted:
            HOURS.take(remote.clock)

    terminal = Mock(encoding="ascii", write=write, isatty=lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    ran = remote.run("--if-leaked=20", "--pause=9")
    assert (ran.status, ran.log[1:]) == (1, told)
    assert "webbridge restart" not in never.received


YES = f"Restarting: {FIGURES}"
COUNTS = {  # what the servers do, and what is logged: the beginning of each line
    "in a log": ({"log": [HOURS]}, {}, [ENDS, f"{LESS} {NOTHING}"]),
    "after the logs": ({}, {"hang up": [HOURS]}, [f"{LESS} {NOTHING}"]),
    # Each log may take 120 s, but all of them only 180.
    "in both": ({"log": [JUST]}, {"log": [Asleep(61.0)]}, [f"{SHORT} {NOTHING}"]),
    "not too long": ({"log": [JUST]}, {"log": [Asleep(59.9)]}, [YES, restarted(A), restarted(B)]),
    "in a restart": ({"session": [None, HOURS]}, {}, [YES, *failed(A, LONG), ENDS]),
}


@mark.parametrize(("first", "second", "told"), COUNTS.values(), ids=COUNTS)
def test_sleep_in_a_night(remote: Remote, first: Any, second: Any, told: list[str]) -> None:
    servers = remote.at(A, text=log(30, 3), **first), remote.at(B, text=log(0, 7), **second)
    ran = remote.run(*NIGHT)
    assert [line[: len(begin)] for line, begin in zip(ran.log, told)] == told
    assert (ran.status, len(ran.log)) == (0 if restarted(B) in told else 1, len(told))
    sent = [server.received.count("webbridge restart") for server in servers]
    assert sent == [told.count(restarted(server)) for server in servers]


# ---- What a new release of paramiko may change ---------------------------------------------------


def test_names_of_paramiko_that_the_script_sets() -> None:
    """They are not in paramiko's documents. Where one is gone, nothing else would fail."""
    with socket.socket() as sock:
        transport = paramiko.Transport(sock)
    steps = ["banner", "handshake", "auth", "channel", "clear_to_send"]
    for name in [*(f"{step}_timeout" for step in steps), "logger"]:
        assert hasattr(transport, name), name
