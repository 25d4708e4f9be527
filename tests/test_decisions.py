"""Every decision of a run, through main([...]) on a mocked paramiko: again or not, once or never.

Only here can something happen at exactly one step, and a clock stand still. How real servers behave
is in test_faults.py and test_ends.py; how an answer is judged, in rows, in test_judging.py.
"""

from __future__ import annotations

import datetime
import errno
import inspect
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import paramiko
from paramiko import AuthenticationException, BadAuthenticationType, SSHException
from paramiko.ssh_exception import IncompatiblePeer
from pytest import MonkeyPatch, mark

import webbridge_restart
from conftest import CISCO, DOUBT, error_of, failed, restarted, unstamped, with_advice
from remote import ECDSA_KEY, KEY, OTHER_KEY, WHOLE, Remote

A, B, C = "10.48.79.194", "10.48.79.195", "10.48.79.196"
# What a server receives
KEYS = "connect, handshake"
LOOK = f"{KEYS}, hang up"
LOGIN = f"{KEYS}, password"
SENT = f"{LOGIN}, hang up"
NOT_ANSWERED, ANSWERED = f"{SENT}, {LOOK}", f"{SENT}, {KEYS}, answer, hang up"
LOGGED_IN = f"{LOGIN}, session, hang up"
RESTARTED = f"{LOGIN}, session, webbridge restart, hang up"
OUR_ENDED = f"{LOGIN}, session, webbridge restart, our end, hang up"
BY_ANSWER = f"{KEYS}, answer, session, webbridge restart, hang up"
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
ODD = ZeroDivisionError("odd\x1b")
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
NO_KEX = f"The server and paramiko {paramiko.__version__} have no algorithm in common: a."
if not paramiko.__version__.startswith("4."):
    NO_KEX += " If the server offers nothing newer than SHA-1, run:..."
CHANGED = "The host key has CHANGED..."
OTHER_TYPE = "The server has no host key of a known type..."
ONCE = "Login refused. The password was sent once..."
TWICE = "Login refused. The password was sent twice..."
NOT_ALONE = "The server did not let this script in with the password alone..."
NO_SESSION = "The server refused to open a session (code 4)..."
BROKE_OFF = "The connection broke off while opening a session."
OVER = "Cut off after 60 s while {}. A slow server needs a higher --timeout."
NO_END = OVER.format("waiting for the answer")
NO_END_OF_A = f"{NO_END} It had answered: SUCCESS: a. {DOUBT}"
BROKEN = "The connection broke off before the end of the answer..."
SILENT = "The answer does not confirm the restart: nothing (exit status 0)..."
NO_STATUS = "The answer does not confirm the restart: SUCCESS: a (no exit status)..."
FAILURE, FAILURE_1 = (f"The server answered: FAILURE: b{end}" for end in ("", " (exit status 1)"))
NO_UTF_8 = UnicodeDecodeError("utf-8", b"\xfc", 0, 1, "invalid start byte")
UNFORESEEN = rf"ZeroDivisionError: odd\x1b. {DOUBT}"


def row(reason: str, received: str, *options: str, **state: Any) -> tuple[Any, ...]:
    """Return why a server in this state is not restarted ("": it is), and what it receives."""
    return state, reason, received, options


DIALS, LOOKS = "connect, connect, connect", f"{LOOK}, {LOOK}, {LOOK}"
ROWS = {
    # What can pass is tried three times, while there is time for a whole try.
    "refused": row(UNABLE, DIALS, connect=[REFUSED] * 3),
    "no route": row(UNABLE, DIALS, connect=[OSError(errno.EHOSTUNREACH, "a")] * 3),
    "no network": row("Cannot connect...", DIALS, connect=[OSError(errno.ENETUNREACH, "a")] * 3),
    "silent": row(NO_TIME, DIALS, connect=[socket.timeout()] * 3),
    "no name": row(f"Cannot resolve {A}...", DIALS, connect=[socket.gaierror(-3, "?")] * 3),
    "reset": row(NO_SSH, LOOKS, handshake=[RESET] * 3),
    "ended": row(NO_SSH, LOOKS, handshake=[ENDED] * 3),
    "no banner": row(NO_SSH, LOOKS, handshake=[SSHException("no")] * 3),
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
    "changed before an answer": row(CHANGED, NOT_ANSWERED, login=[ASKS], keys=[[KEY], [OTHER_KEY]]),
    "second known key of its type": row("", RESTARTED, known=[OTHER_KEY, KEY]),
    "not paramiko's favourite": row("", RESTARTED, known=[ECDSA_KEY], keys=[[KEY, ECDSA_KEY]]),
    # The password goes out once, and nothing is tried again.
    "drop before it": row("The connection broke off before...", LOOK, handshake=["drops"]),
    "login refused": row(ONCE, SENT, login=[NO]),
    "login reset": row(ONCE, SENT, login=[RESET]),
    "login ended": row(ONCE, SENT, login=[ENDED]),
    "keys only": row("The server accepts no password, only publickey...", SENT, login=[ONLY_KEYS]),
    "one factor of two": row(NOT_ALONE, SENT, login=[["publickey"]]),
    "expired": row(NOT_ALONE, SENT, login=[SSHException("Illegal info request")]),
    "no session": row(NO_SESSION, LOGGED_IN, session=[paramiko.ChannelException(4, "a")]),
    "session breaks": row(BROKE_OFF, LOGGED_IN, session=[SSHException("No existing session")]),
    "session ends": row(BROKE_OFF, LOGGED_IN, session=[ENDED]),
    # Words that are no UTF-8, as in a goodbye
    "odd words in the handshake": row(NO_SSH, LOOKS, handshake=[NO_UTF_8] * 3),
    "odd words in the login": row(ONCE, SENT, login=[NO_UTF_8]),
    "odd words in the session": row(BROKE_OFF, LOGGED_IN, session=[NO_UTF_8]),
    # As an answer, it goes out once more, on a connection of its own, which has its tries, too.
    "question": row("", f"{SENT}, connect, {BY_ANSWER}", login=[ASKS], connect=[None, REFUSED]),
    "answer refused": row(TWICE, ANSWERED, login=[ASKS], question=[NO]),
    "answer and more": row(NOT_ALONE, ANSWERED, login=[ASKS], question=[["publickey"]]),
    "asked twice": row(NOT_ALONE, ANSWERED, login=[ASKS], asks=[[QUESTION], [QUESTION]]),
    "two questions": row(NOT_ALONE, NOT_ANSWERED, login=[ASKS], asks=[[QUESTION, QUESTION]]),
    "in clear text": row(NOT_ALONE, NOT_ANSWERED, login=[ASKS], asks=[[IN_CLEAR_TEXT]]),
    # The command goes out once, and our end of file once, after silence.
    "silence": row("", RESTARTED, answer=[0, "end", "close"]),
    "failure": row(FAILURE_1, RESTARTED, answer=[A_LINE, B_LINE, 1, "end"]),
    "no status": row("", RESTARTED, answer=[b"> \rSUCCESS: Webbridge enabled", "end", "close"]),
    "loss": row(BROKEN, RESTARTED, answer=[TEXT, "lost"]),
    "loss that shows late": row(BROKEN, RESTARTED, answer=[TEXT, 0, "breaks", 3.0, "lost"]),
    "status in time": row("", RESTARTED, answer=[A_LINE, "end", 9.0, 0]),
    "status too late": row(NO_STATUS, RESTARTED, answer=[A_LINE, "end", 1.0, 10.0, 0]),
    "end in time": row(FAILURE, RESTARTED, answer=[0, 1.0, B_LINE, "end"]),
    "failure behind the end": row(FAILURE, RESTARTED, answer=[TEXT, 0, "end", B_LINE]),
    # The computer was asleep when the status came. So the 2 s for what may follow begin later.
    "status in its sleep": row(FAILURE, RESTARTED, answer=[TEXT, (5.0, 0), 1.0, B_LINE]),
    "end too late": row("", RESTARTED, answer=[0, 1.0, 2.0, 1.0, B_LINE, "end"]),
    "endless": row("The answer is longer...", RESTARTED, answer=[b"x" * (1 << 20), b"x"]),
    "not run": row("The server refused to run...", RESTARTED, answer=["close"], exec=CLOSED),
    "not run, but a status": row(SILENT, RESTARTED, answer=[0, "end", "close"], exec=CLOSED),
    "no reply, but text": row("", RESTARTED, answer=[TEXT, 0, "end"], exec=["waits"]),
    "no reply, and silence": row(SILENT, RESTARTED, answer=[1.0, 0, "end"], exec=["waits"]),
    "waits for our end": row("", OUR_ENDED, answer=[TEXT, "our end", 0, "end", "close"]),
    "closes at the last moment": row("", OUR_ENDED, answer=[TEXT, 60.0, "close"]),
    "breaks at our end": row(BROKEN, OUR_ENDED, answer=[TEXT, "our end", "lost"]),
    "fails after our end": row(FAILURE, OUR_ENDED, answer=[TEXT, "our end", B_LINE]),
    "never ends": row(NO_END_OF_A, OUR_ENDED, answer=[A_LINE, "our end"]),
    "10 s are no silence": row("", RESTARTED, answer=[5.0, TEXT, 9.9, 0, "end"]),
    "half a line": row(NO_END_OF_A, RESTARTED, answer=[b"SUCCESS: a"]),
    "failure at the last moment": row(FAILURE, RESTARTED, answer=[60.0, B_LINE]),
    "text at the last moment": row(NO_END_OF_A, RESTARTED, answer=[60.0, A_LINE]),
    # Nothing is sent after the time is over, and what returns late has no effect.
    "connect hangs": row(OVER.format("connecting"), "connect", connect=["hangs"]),
    "login hangs": row(OVER.format("logging in"), SENT, login=["hangs"]),
    "command hangs": row(f"{NO_END} {DOUBT}", RESTARTED, exec=["hangs"], answer=[]),
    "all time for the key": row(OVER.format("logging in"), LOOK, handshake=[60.0]),
    "all time for the session": row(OVER.format("opening a session"), LOGGED_IN, session=[60.0]),
    # What nobody foresaw leaves the restart in doubt.
    "odd in the handshake": row(UNFORESEEN, LOOK, handshake=[ODD]),
    "odd in the answer": row(UNFORESEEN, RESTARTED, answer=[A_LINE, ODD]),
}


@mark.parametrize(("state", "reason", "received", "options"), ROWS.values(), ids=ROWS)
def test_one_server(
    remote: Remote, state: dict[str, Any], reason: str, received: str, options: tuple[str, ...]
) -> None:
    """The server after it is restarted, whatever happens."""
    mmp, following = remote.at(A, **state), remote.at(B)
    known = remote.known_hosts.read_text()
    ran = remote.run(*options)
    remote.go_on()
    if reason.endswith("..."):
        assert ran.log[1].startswith(reason[:-3])
        reason = ran.log[1]
    told = failed(mmp, reason) if reason else [restarted(mmp)]
    assert ran.log == [*told, restarted(following)]
    line = f"Server 1 ({A}) FAILED after {ran.seconds:.1f} s: {with_advice(reason)}\n"
    assert (ran.status, ran.err) == ((1, line) if reason else (0, ""))
    assert (mmp.received, following.received) == (received, RESTARTED)
    assert remote.known_hosts.read_text() == known


def test_new_key_is_stored_and_then_required(remote: Remote) -> None:
    """On a line of its own. Somebody else may answer the next connection."""
    remote.known_hosts.write_text("# mine")
    mmp = remote.at(A, known=[])
    other = remote.at(B, known=[], keys=[[KEY], [OTHER_KEY]], login=[ASKS])
    ran = remote.run(ACCEPT)
    assert ran.log[2].startswith(CHANGED[:-3])
    assert ran.log == [restarted(mmp), *failed(other, ran.log[2])]
    shown = f"new host key stored: ssh-ed25519 {KEY.fingerprint}"
    assert ran.out == (
        f"Server 1 ({A}): {shown}\nServer 1 ({A}) restarted in 0.0 s\nServer 2 ({B}): {shown}\n"
        "Restarted 1 of 2 servers.\n"
    )
    assert (mmp.received, other.received) == (RESTARTED, NOT_ANSWERED)
    lines = [f"{each} ssh-ed25519 {KEY.get_base64()}" for each in (A, B)]
    assert remote.known_hosts.read_text().splitlines() == ["# mine", *lines]


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
    remote.go_on()
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
        remote.sleep(seconds)
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
        remote.at(each, connect=[lambda: times.append(remote.now)] * 2, answer=FAILS)
    ran = remote.run("--pause", "90")
    remote.run("--pause", "90", "--check")
    assert [round(at - times[0]) for at in times] == [0, 90, 180, 180, 180, 180]
    assert ran.err.count(f"FAILED after 0.0 s: {FAILURE_1}\n") == 3


@mark.parametrize("tries", [[], [REFUSED]], ids=["pause", "wait for the next try"])
def test_signal_ends_the_wait(remote: Remote, monkeypatch: MonkeyPatch, tries: list[Any]) -> None:
    mmp, never = remote.at(A, connect=tries), remote.at(B)

    def sleep(seconds: float) -> None:
        remote.sleep(seconds)
        if mmp.received in ("connect", RESTARTED):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(time, "sleep", sleep)
    ran = remote.run("--pause", "600")
    cut_off = failed(mmp, "Cut off by SIGTERM while connecting.")
    told = cut_off if tries else [restarted(mmp)]
    assert ran.log == [*told, f"Ended by SIGTERM. Not attempted: {B}"]
    assert [mmp.received, never.received] == ["connect" if tries else RESTARTED, ""]


# ---- Choosing, checking and telling --------------------------------------------------------------


def test_chosen_servers(remote: Remote) -> None:
    """Each gets one turn, in the order of the inventory, and is told with its number there."""
    first, second = remote.at(A), remote.at(B)
    for choice in ("3", "0", "10.48.79.19"):
        message = f"No server {choice}. WEBBRIDGES has 1 ({A}), 2 ({B})."
        assert remote.run("1", choice)[:4] == (2, "", f"{message}\n", [message])
        assert remote.run("1", choice, "--check").log == []
    assert first.received == ""
    for choice in (["2"], [B], ["2", B]):
        ran = remote.run(*choice)
        assert ran.log == [restarted(second)]
        assert ran.out == f"Server 2 ({B}) restarted in 0.0 s\nRestarted 1 of 1 server.\n"
    assert remote.run("2", "1").log == [restarted(first), restarted(second)]
    assert first.received == RESTARTED


def test_check_asks_and_logs_nothing(remote: Remote, log_file: Path) -> None:
    """It restarts nothing, so nothing is in doubt."""
    servers = [
        remote.at(A, answer=SETTINGS),
        remote.at(B, answer=[b"Enabled : false", 0, "end"]),
        remote.at(C, answer=[ODD]),
    ]
    ran = remote.run("--check", "--verbose")
    assert ran.out == (
        f"Server 1 ({A}) OK (Web Bridge enabled) in 0.0 s\n"
        "  answered: Enabled                 : true | Interface whitelist     : a:443\n"
        "1 of 3 servers ready.\n"
    )
    reason = "The server does not say that its Web Bridge is enabled, but: Enabled : false"
    assert ran.err == (
        f"Server 2 ({B}) FAILED after 0.0 s: {reason}\n"
        f"Server 3 ({C}) FAILED after 0.0 s: ZeroDivisionError: odd\\x1b.\n"
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


def test_stamp_has_microseconds_even_if_they_are_zero(
    remote: Remote, monkeypatch: MonkeyPatch, log_file: Path
) -> None:
    clock, mmp = Mock(wraps=datetime), remote.at(A)
    clock.datetime.now.return_value = datetime.datetime(2020, 6, 8, tzinfo=datetime.timezone.utc)
    monkeypatch.setattr(webbridge_restart, "datetime", clock)
    remote.run()
    stamped = f"2020-06-08 00:00:00.000000+00:00 {restarted(mmp)}{os.linesep}"
    assert log_file.read_bytes().decode() == stamped


# ---- Conditions ----------------------------------------------------------------------------------

TIME = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M:%S}"
NIGHT = "--if-leaked=20", "--max-active=10"
BUSY, CLEAN = ", more than --max-active 9", ", fewer than --if-leaked 21"
FULL = (
    "FULL: server {0} ({1}). At 149 sessions a Web Bridge accepts no more, so nobody else can join "
    "there. To restart it now, which ends its meetings: webbridge_restart.py {0}"
)


def log(sessions: int, users: int) -> bytes:
    """Return a server's log with its two counters."""
    line = f"{TIME} user.info cms1"
    web = f"{line} webbridge: INFO : [DEBUGGING] Stats {sessions}, c:3477, d:3170\n"
    return f'{web}{line} host:server: INFO : STATS: {{"CMA": "{users}/99"}}\n'.encode()


FEW, MANY, ONE_FULL = (log(30, 3), log(0, 7)), (log(0, 0), log(149, 140)), (log(0, 9), log(149, 0))
BOTH = f"140 active sessions{BUSY}; 9 leaked sessions{CLEAN}."
NEEDED = "9 active sessions; 140 leaked sessions."
NIGHTS = {  # options, logs, what is logged, who is restarted, and whether server 2 stays full
    "yes": (NIGHT, FEW, "10 active sessions; 20 leaked sessions.", [A, B], False),
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
        told += f" {FULL.format(2, B)}"
    assert ran.log == [told, *map(restarted, chosen)]
    assert (ran.status, ran.err) == ((1, f"{told}\n") if is_full else (0, ""))
    is_quiet = "--quiet" in options
    assert (ran.out == "") == is_quiet
    assert (f"{told}\n" in ran.out) == (not is_quiet and not is_full)
    for server in servers:
        restart = f", {RESTARTED}" if server.address in chosen else ""
        assert server.received == f"{READ}{restart}"


def test_what_is_counted_and_only_told(remote: Remote, log_file: Path) -> None:
    mmp = remote.at(A, answer=SETTINGS, text=log(149, 99))
    table = (
        "Server            Web Bridge  Age    CMA    Age    Log ends\n"
        f"1 (10.48.79.194)  149 FULL    0 min  99/99  0 min  {TIME}\n"
    )
    told = f"{FULL.format(1, A)}\nLeaked: 50 sessions (149 Web Bridge, 99 active CMA).\n"
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


PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "connect": ({"connect": [REFUSED] * 3}, with_advice(UNABLE)),
    "odd": ({"log": [ZeroDivisionError("odd")]}, "ZeroDivisionError: odd."),
    "no time": ({"text": b"a"}, "No line in the last 16 MiB of the log begins with a time."),
    "slow": ({"log": [60.0]}, OVER.format("reading the server's log")),
}


@mark.parametrize(("state", "problem"), PROBLEMS.values(), ids=PROBLEMS)
def test_figure_that_is_missing(remote: Remote, state: dict[str, Any], problem: str) -> None:
    """Nothing is restarted. The terminal has the reasons in the table, too."""
    remote.at(A, **state)
    mmp = remote.at(B, text=log(149, 0))
    ran = remote.run(*NIGHT, "--quiet")
    told = (
        f"Nothing was restarted. Cannot count: 1 ({A}): {problem} Until each server can be "
        "counted, take those that cannot out of the script's lists, or restart servers by their "
        f"numbers, without conditions. {FULL.format(2, B)}"
    )
    assert ran[:4] == (1, "", ran.err, [told])
    assert f"  Not counted: {problem}\n" in ran.err
    assert ran.err.endswith(f"\nCannot count: 1 of 2 servers, see above.\n{told}\n")
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
    unread = (
        f"2 ({B})  -           -    -    -    -         Not counted: The run ended before its turn."
    )
    assert (ran.status, ran.out, never.received) == (143, "", "")
    assert unread in ran.err.splitlines()


def test_call_bridges_of_their_own(remote: Remote, monkeypatch: MonkeyPatch) -> None:
    """They are counted, not restarted. A server in both inventories is read once."""
    both, call_bridge = remote.at(A, text=log(30, 4)), remote.at(C, text=log(100, 5))
    bridge = remote.at(B, text=log(1, 50), answer=FAILS)
    monkeypatch.setattr(webbridge_restart, "CALLBRIDGES", {7: A, 8: C})
    ran = remote.run_on([both, bridge], *NIGHT)
    figures = "Restarting: 9 active sessions; 22 leaked sessions."
    assert ran.log == [figures, restarted(both), *failed(bridge, FAILURE_1)]
    assert ran.status == 1
    assert both.received == bridge.received == f"{READ}, {RESTARTED}"
    assert call_bridge.received == READ


# ---- What a new release of paramiko may change ---------------------------------------------------


def test_names_of_paramiko_that_the_script_leans_on() -> None:
    """They are not in paramiko's documents: where one is gone, this fails first."""
    with socket.socket() as sock:
        transport = paramiko.Transport(sock)
    for name in ["banner_timeout", "handshake_timeout", "auth_timeout", "channel_timeout"]:
        assert hasattr(transport, name), name
    assert transport.host_key_type is None and transport.get_security_options().key_types
    channel = paramiko.Channel(1)
    assert not (channel.eof_received or channel.eof_sent or channel.closed)
    assert channel.exit_status == -1
    assert "max_concurrent_requests" in inspect.signature(paramiko.SFTPFile.prefetch).parameters
    assert ASKS.allowed_types == ["publickey", "keyboard-interactive"]
    assert KEY.fingerprint.startswith("SHA256:")
    entry = paramiko.hostkeys.HostKeyEntry.from_line(f"{A} ssh-ed25519 {KEY.get_base64()}")
    assert entry is not None and entry.key == KEY
