"""Every decision of a run, through main([...]) on a mocked paramiko: again or not, once or never.

Only here can something happen at exactly one step, and a clock stand still. How real servers behave
is in test_ends.py and test_real_servers.py; how an answer is judged, in rows, in test_judging.py.
"""

from __future__ import annotations

import datetime
import errno
import inspect
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest
from paramiko import AuthenticationException, BadAuthenticationType, PKey, SSHException
from paramiko.ssh_exception import IncompatiblePeer
from pytest import MonkeyPatch, mark

import webbridge_restart
from conftest import CISCO, DOUBT, Run, error_of, failed, restarted, unstamped, with_advice
from remote import (
    CLOSE,
    DROPS,
    ECDSA_KEY,
    END,
    KEY,
    LOST,
    OTHER_KEY,
    OUR_END,
    SECOND,
    STALLS,
    WHOLE,
    Place,
    Remote,
    mocked,
)

A, B, C = "10.48.79.194", "10.48.79.195", "10.48.79.196"
KEYS = "connect, handshake"
LOGIN = f"{KEYS}, password"
SESSION = f"{LOGIN}, session"
RESTARTED = f"{SESSION}, webbridge restart, hang up"
CHECKED = f"{SESSION}, webbridge, hang up"
READ = f"{SESSION}, sftp, log, hang up"
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
UNABLE = f"[Errno None] Unable to connect to port 22 on {A}"
ASKS = BadAuthenticationType("no", ["publickey", "keyboard-interactive"])
BY_HAND = f"ssh -p 22 admin@{A}"
SAID = CISCO.strip().replace("\n", " | ")
SETTINGS = [b"Enabled                 : true\nInterface whitelist     : a:443\n", 0, END, CLOSE]
SLOW = "A slow server needs a higher --timeout."
SIGNALS = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.fixture
def remote(monkeypatch: MonkeyPatch, known_hosts: Path) -> Iterator[Remote]:
    with mocked(monkeypatch, known_hosts) as remote:
        yield remote


def shown(key: PKey) -> str:
    return f"{key.get_name()} {key.fingerprint}"


# ---- Connecting: what is tried again -------------------------------------------------------------

PLACE, MMP = f"{A} port 22", "Is it an MMP? Is the server overloaded?"
NO_ANSWER = f"No usable SSH answer from {PLACE}:"
NO_NAME = f"Cannot resolve {A}. Check how it is written, and DNS."
NO_TIME = f"Timed out after 18 s while connecting to {PLACE}."
STALL = f"Timed out after 18.0 s in the SSH handshake with {PLACE}. {MMP}"
UNREACHABLE = OSError(errno.ENETUNREACH, "Network is unreachable")
RESET = ConnectionResetError(104, "Connection reset by peer")
BANNER = SSHException("Error reading SSH protocol banner")
PASSING = {  # a step, what it meets, and what is logged if it meets this three times
    "refused": ("connect", REFUSED, UNABLE),
    "no route": ("connect", OSError(errno.EHOSTUNREACH, "No route to host"), UNABLE),
    "no network": ("connect", UNREACHABLE, f"Cannot connect to {PLACE}: Network is unreachable."),
    "silent": ("connect", socket.timeout(), NO_TIME),
    "no name": ("connect", socket.gaierror(-3, "?"), NO_NAME),
    "reset": ("handshake", RESET, f"{NO_ANSWER} [Errno 104] Connection reset by peer. {MMP}"),
    "ended": ("handshake", EOFError(), f"{NO_ANSWER} nothing. {MMP}"),
    "no banner": ("handshake", BANNER, f"{NO_ANSWER} {BANNER}. {MMP}"),
    "stall": ("handshake", STALLS, STALL),
}


@mark.parametrize(("step", "event", "reason"), PASSING.values(), ids=PASSING)
def test_what_can_pass_is_tried_three_times(
    remote: Remote, run: Run, step: str, event: Any, reason: str
) -> None:
    one_try = "connect" if step == "connect" else f"{KEYS}, hang up"
    first, second = remote.at(A, **{step: [event] * 3}), remote.at(B, **{step: [event] * 2})
    ran = run([first, second])
    assert ran.log == [*failed(first, reason), restarted(second)]
    assert first.received == ", ".join([one_try] * 3)
    assert second.received == f"{one_try}, {one_try}, {RESTARTED}"
    took = "58.0" if event == STALLS else "4.0"  # with 2 s between two tries
    assert ran.err == f"Server 1 ({A}) FAILED after {took} s: {with_advice(reason)}\n"
    assert ran.status == 1


@mark.parametrize(("seconds", "tries"), [(40, 2), (41, 1)], ids=str)
def test_no_try_is_begun_without_time_for_it(
    remote: Remote, run: Run, seconds: float, tries: int
) -> None:
    """The reason is then in the log, instead of a cut-off a moment later."""
    mmp = remote.at(A, connect=[lambda: remote.sleep(seconds)], handshake=[EOFError()] * 2)
    assert run([mmp]).log == failed(mmp, f"{NO_ANSWER} nothing. {MMP}")
    assert mmp.received == ", ".join([f"{KEYS}, hang up"] * tries)


@mark.parametrize(("known", "tries"), [([KEY], 2), ([], 1)], ids=["known", "unknown"])
def test_nothing_in_common(remote: Remote, run: Run, known: list[PKey], tries: int) -> None:
    """If a key of the server is known, one more look shows which key it has instead."""
    mmp = remote.at(A, known, handshake=[IncompatiblePeer("no acceptable kex") for _ in range(4)])
    version, log = paramiko.__version__, run([mmp]).log
    words = f"The server and paramiko {version} have no algorithm in common: no acceptable kex."
    assert log[1].startswith(words)
    assert ('-m pip install "paramiko<5"' in log[1]) == (not version.startswith("4."))
    assert mmp.received == ", ".join([f"{KEYS}, hang up"] * tries)


@mark.parametrize(("version", "is_old"), [("1.5", True), ("1.99", False)], ids=str)
def test_ssh_1(remote: Remote, run: Run, version: str, is_old: bool) -> None:
    mmp = remote.at(A, [], version=f"SSH-{version}-x", handshake=[IncompatiblePeer("a")])
    reason = "The server speaks only SSH 1. It is no MMP of CMS 2.x."
    assert (run([mmp]).log == failed(mmp, reason)) == is_old


def test_names_ports_and_ipv6(remote: Remote, run: Run) -> None:
    servers = remote.at("CMS2.example.com"), remote.at("[2001:db8::3]:2222"), remote.at(f"{A}:2222")
    assert run(servers).log == [restarted(server) for server in servers]
    assert [server.received for server in servers] == [RESTARTED] * 3


# ---- The host key, before anything is sent -------------------------------------------------------

NOT_SENT = "The password was not sent to it."


def changed(mmp: Place, known: PKey, key: PKey, file: Path) -> list[str]:
    """Return the log lines of a host key that is not the known one."""
    what = f"The host key has CHANGED. Known: {shown(known)}."
    if known.get_name() != key.get_name():
        what = f"The server has no host key of a known type: {known.get_name()}."
    return failed(
        mmp,
        f"{what} Shown: {shown(key)}. {NOT_SENT} This may be an attack. Only if you know that the "
        f'server has a new key, delete the old one (ssh-keygen -R "{mmp.address}" -f "{file}"), '
        "then store the new one with --check --accept-new-host-keys.",
    )


def test_new_key_gets_nothing(remote: Remote, run: Run, known_hosts: Path) -> None:
    mmp = remote.at(A, known=[])
    reason = (
        f"New host key, not trusted yet: {shown(KEY)}. It is not in {known_hosts}. {NOT_SENT} "
        "Compare the fingerprint with the server's own, then store the key with "
        "--check --accept-new-host-keys."
    )
    assert run([mmp]).log == failed(mmp, reason)
    assert mmp.received == f"{KEYS}, hang up"


@mark.parametrize("option", ["--verbose", "--accept-new-host-keys"])
@mark.parametrize(
    ("key", "drops", "looks"), [(OTHER_KEY, 0, 1), (ECDSA_KEY, 0, 2), (ECDSA_KEY, 2, 4)]
)
def test_changed_key_gets_nothing(
    remote: Remote, run: Run, known_hosts: Path, key: PKey, drops: int, looks: int, option: str
) -> None:
    """Nor is it stored. Only a second look shows a key of a type that was not asked for.

    It is told even after two dropped connections: an attack must not read as an old server.
    """
    mmp = remote.at(A, known=[KEY], keys=[[key]], handshake=[EOFError()] * drops)
    assert run([mmp], option).log == changed(mmp, KEY, key, known_hosts)
    assert mmp.received == ", ".join([f"{KEYS}, hang up"] * looks)
    assert len(known_hosts.read_text().splitlines()) == 1


@mark.parametrize(
    ("known", "has"),
    [([OTHER_KEY, KEY], KEY), ([KEY, OTHER_KEY], KEY), ([ECDSA_KEY], ECDSA_KEY)],
    ids=["first of its type", "second of its type", "not paramiko's favourite"],
)
def test_any_known_key_is_right(remote: Remote, run: Run, known: list[PKey], has: PKey) -> None:
    mmp = remote.at(A, known, keys=[[has] if has == KEY else [KEY, has]])
    assert run([mmp]).log == [restarted(mmp)]
    assert mmp.received == RESTARTED


def test_new_key_is_stored_and_then_required(remote: Remote, run: Run, known_hosts: Path) -> None:
    """On a line of its own. Somebody else may answer the next connection."""
    known_hosts.write_text("# mine")
    mmp = remote.at(A, known=[])
    other = remote.at(B, known=[], keys=[[KEY], [OTHER_KEY]], login=[ASKS])
    ran = run([mmp, other], "--accept-new-host-keys")
    assert ran.log == [restarted(mmp), *changed(other, KEY, OTHER_KEY, known_hosts)]
    assert ran.out == (
        f"Server 1 ({A}): new host key stored: {shown(KEY)}\n"
        f"Server 1 ({A}) restarted in 0.0 s\n"
        f"Server 2 ({B}): new host key stored: {shown(KEY)}\n"
        "Restarted 1 of 2 servers.\n"
    )
    assert mmp.received == RESTARTED
    assert other.received == f"{ASKED}, hang up"
    lines = [f"{each} ssh-ed25519 {KEY.get_base64()}" for each in (A, B)]
    assert known_hosts.read_text().splitlines() == ["# mine", *lines]


@mark.parametrize("option", ["--check", "--sessions"])
def test_new_key_is_told_whatever_follows(remote: Remote, run: Run, option: str) -> None:
    mmp = remote.at(A, known=[], login=[AuthenticationException()])
    told = f"Server 1 ({A}): new host key stored: {shown(KEY)}\n"
    assert run([mmp], option, "--accept-new-host-keys").out.startswith(told)
    assert mmp.received == f"{LOGIN}, hang up"


def test_new_key_that_cannot_be_stored_gets_no_password(
    remote: Remote, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "nowhere" / "known_hosts"
    mmp = remote.at(A)
    reason = f"Cannot write to {file}: {os.strerror(errno.ENOENT)}. No password was sent."
    options = ["--known-hosts", str(file), "--accept-new-host-keys"]
    assert run([mmp], *options).log == failed(mmp, reason)
    assert mmp.received == f"{KEYS}, hang up"


# ---- The login: the password goes out once, and nothing is tried again ---------------------------

PASSWORD_QUESTION, TOKEN = ("Password: ", False), ("Token: ", False)
ASKED = f"{LOGIN}, hang up, {KEYS}"
ANSWERED = f"{ASKED}, answer"
NOT_ALONE = (
    "The server did not let this script in with the password alone. The password may have expired, "
    f"or the server asks for more. Log in once by hand: {BY_HAND}"
)


def login_refused(sent: str) -> str:
    return (
        f"Login refused. The password was sent {sent} and is not sent again. Check it (from "
        f"MMP_PASSWORD in the environment), then try once by hand ({BY_HAND}). Other causes: a "
        "locked account, an MMP 'user host' or 'user duty' rule, or the server hung up."
    )


ONCE, TWICE = login_refused("once"), login_refused("twice, the second time as an answer,")
PUBLIC_KEY = (
    "The server accepts no password, only publickey. Use an account that logs in with a password."
)
NO_SESSION = "The server refused to open a session (code 4). Too many sessions may be open."
BROKE_OFF_BEFORE = "The connection broke off before the login."
BROKE_OFF = "The connection broke off while opening a session."
REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {  # at which step, the reason, what was sent
    "hang-up before it": ({"handshake": [DROPS]}, BROKE_OFF_BEFORE, KEYS),
    "refused": ({"login": [AuthenticationException("no")]}, ONCE, LOGIN),
    "keys only": ({"login": [BadAuthenticationType("no", ["publickey"])]}, PUBLIC_KEY, LOGIN),
    "one factor of two": ({"login": [["publickey"]]}, NOT_ALONE, LOGIN),
    "expired": ({"login": [SSHException("Illegal info request")]}, NOT_ALONE, LOGIN),
    "reset": ({"login": [RESET]}, ONCE, LOGIN),
    "ended": ({"login": [EOFError()]}, ONCE, LOGIN),
    "answer refused": ({"question": [AuthenticationException("no")]}, TWICE, ANSWERED),
    "answer and more": ({"question": [["publickey"]]}, NOT_ALONE, ANSWERED),
    "asked twice": ({"asks": [[PASSWORD_QUESTION], [PASSWORD_QUESTION]]}, NOT_ALONE, ANSWERED),
    "asked two things": ({"asks": [[PASSWORD_QUESTION, TOKEN]]}, NOT_ALONE, ASKED),
    "shows what is typed": ({"asks": [[("User: ", True)]]}, NOT_ALONE, ASKED),
    "no session": ({"session": [paramiko.ChannelException(4, "a")]}, NO_SESSION, SESSION),
    "session breaks": ({"session": [SSHException("No existing session")]}, BROKE_OFF, SESSION),
    "session ends": ({"session": [EOFError()]}, BROKE_OFF, SESSION),
}


@mark.parametrize(("state", "reason", "sent"), REFUSALS.values(), ids=REFUSALS)
def test_refusal_ends_it(
    remote: Remote, run: Run, state: dict[str, Any], reason: str, sent: str
) -> None:
    login = [] if "session" in state else [ASKS]
    mmp, following = remote.at(A, **{"login": login, **state}), remote.at(B)
    assert run([mmp, following]).log == [*failed(mmp, reason), restarted(following)]
    assert mmp.received == f"{sent}, hang up"


def test_question_is_answered_on_a_connection_of_its_own(remote: Remote, run: Run) -> None:
    """Which has its tries, too."""
    mmp = remote.at(A, login=[ASKS], connect=[None, REFUSED, REFUSED])
    assert run([mmp]).log == [restarted(mmp)]
    answered = f"{KEYS}, answer, session, webbridge restart, hang up"
    assert mmp.received == f"{LOGIN}, hang up, connect, connect, {answered}"


def test_question_on_a_connection_with_another_key_gets_nothing(
    remote: Remote, run: Run, known_hosts: Path
) -> None:
    mmp = remote.at(A, login=[ASKS], keys=[[KEY], [OTHER_KEY]])
    assert run([mmp]).log == changed(mmp, KEY, OTHER_KEY, known_hosts)
    assert mmp.received == f"{ASKED}, hang up"


# ---- The command: it goes out once ---------------------------------------------------------------

TEXT = CISCO.encode()
HEARD = f"It had answered: {SAID}. {DOUBT}"
BROKEN = f"The connection broke off before the end of the answer. {HEARD}"
CUT_OFF = f"Cut off after 60 s while waiting for the answer. {SLOW}"
TOO_LONG = (
    "The answer is longer than any command's, so the rest was not heard. "
    f"It had answered: {'x' * 300}.... {DOUBT}"
)
UNCONFIRMED = "The answer does not confirm the restart:"
NOTHING = f"{UNCONFIRMED} nothing (exit status 0). {DOUBT}"
NO_STATUS = f"{UNCONFIRMED} SUCCESS: a (no exit status). {DOUBT}"
FAILURE, FAILURE_1 = (f"The server answered: FAILURE: b{end}" for end in ("", " (exit status 1)"))
CLOSED = {"exec": [SSHException("Channel closed.")]}  # of a request without a reply
ANSWERS: dict[str, tuple[list[Any], dict[str, Any], str]] = {  # the reason: "" for a success
    "silence": ([0, END, CLOSE], {}, ""),
    "failure": ([b"SUCCESS: a\r> FAILURE: b\r", 1, END], {}, FAILURE_1),
    "no status": ([TEXT, END, CLOSE], {}, ""),
    "loss": ([TEXT, LOST], {}, BROKEN),
    "status in time": ([b"SUCCESS: a", END, *[SECOND] * 9, 0], {}, ""),
    "status too late": ([b"SUCCESS: a", END, *[SECOND] * 11, 0], {}, NO_STATUS),
    "end in time": ([0, SECOND, b"FAILURE: b", END], {}, FAILURE),
    "end too late": ([0, *[SECOND] * 4, b"FAILURE: b", END], {}, ""),
    "endless": ([b"x" * (1 << 20), b"x" * 9], {}, TOO_LONG),
    "refused": ([CLOSE], CLOSED, "The server refused to run the command."),
    "refused, but a status": ([0, END, CLOSE], CLOSED, NOTHING),
    "before the reply": ([TEXT, 0, END, CLOSE], CLOSED, ""),
    "no reply, but text": ([TEXT, 0, END], {"exec": [STALLS]}, ""),
    "no reply, and silence": ([SECOND, 0, END], {"exec": [STALLS]}, NOTHING),
    "waits for our end": ([TEXT, OUR_END, 0, END, CLOSE], {}, ""),
    "closes at our end": ([TEXT, OUR_END, CLOSE], {}, ""),
    "breaks at our end": ([TEXT, OUR_END, LOST], {}, BROKEN),
    "fails after our end": ([TEXT, OUR_END, b"FAILURE: b\n"], {}, FAILURE),
    "never ends": ([TEXT, OUR_END], {}, f"{CUT_OFF} {HEARD}"),
    "10 s are no silence": ([TEXT, *[SECOND] * 10, 0, END], {}, ""),
    "half a line": ([b"SUCCESS: a"], {}, f"{CUT_OFF} It had answered: SUCCESS: a. {DOUBT}"),
    "no text": ([], {}, f"{CUT_OFF} {DOUBT}"),
}


@mark.parametrize(("answer", "state", "reason"), ANSWERS.values(), ids=ANSWERS)
def test_answer(remote: Remote, run: Run, answer: Any, state: dict[str, Any], reason: str) -> None:
    """Our end of file goes out once, after silence. The next server gets its turn."""
    mmp, following = remote.at(A, answer=answer, **state), remote.at(B)
    ran = run([mmp, following])
    told = failed(mmp, reason) if reason else [restarted(mmp)]
    assert ran.log == [*told, restarted(following)]
    our_end = ", our end" if OUR_END in answer else ""
    assert mmp.received == f"{SESSION}, webbridge restart{our_end}, hang up"
    assert ran.status == (1 if reason else 0)


# ---- What nobody foresaw -------------------------------------------------------------------------


@mark.parametrize("step", ["connect", "handshake", "login", "session", "answer"])
def test_unforeseen_trouble_is_of_one_server(remote: Remote, run: Run, step: str) -> None:
    """A restart may have happened; a check restarts nothing."""
    odd = [b"SUCCESS: a", ZeroDivisionError("odd\x1b")][step != "answer" :]
    for options, doubt in ([], f" {DOUBT}"), (["--check"], ""):
        mmp, following = remote.at(A, **{step: odd}), remote.at(B)
        ran = run([mmp, following], *options)
        reason = rf"ZeroDivisionError: odd\x1b.{doubt}"
        assert ran.err.startswith(f"Server 1 ({A}) FAILED after 0.0 s: {reason}\n")
        assert ran.log == ([] if options else [*failed(mmp, reason), restarted(following)])
        assert following.received == (CHECKED if options else RESTARTED)
        assert mmp.received.count("password") <= 1


def test_system_without_more_threads(remote: Remote, run: Run, monkeypatch: MonkeyPatch) -> None:
    real, refusals = threading.Thread.start, [RuntimeError("can't start new thread")]

    def start(thread: threading.Thread) -> None:
        if refusals:
            raise refusals.pop()
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    mmp, following = remote.at(A), remote.at(B)
    reason = f"RuntimeError: can't start new thread. {DOUBT}"
    assert run([mmp, following]).log == [*failed(mmp, reason), restarted(following)]
    assert (mmp.received, following.received) == ("", RESTARTED)


# ---- Cut off: nothing is sent after it -----------------------------------------------------------

STEPS = {  # what was sent when it ended there, and what it was doing
    "connect": ("connect", "connecting"),
    "handshake": (f"{KEYS}, hang up", "connecting"),
    "login": (f"{LOGIN}, hang up", "logging in"),
    "question": (f"{ANSWERED}, hang up", "logging in"),
    "session": (f"{SESSION}, hang up", "opening a session"),
    "exec": (RESTARTED, "waiting for the answer"),
}


def cut_off_at(remote: Remote, step: str, how: Callable[[], object]) -> Place:
    """Return a server at which a step takes too long, and which says nothing."""
    login = [ASKS] if step == "question" else []
    return remote.at(A, **{"login": login, step: [how]}, answer=[])


@mark.parametrize("step", STEPS)
def test_cut_off_by_time(remote: Remote, run: Run, step: str) -> None:
    """What returns late has no effect; a connection that comes late is closed (see remote.py)."""
    mmp, following = cut_off_at(remote, step, remote.hang), remote.at(B)
    ran = run([mmp, following])
    remote.go_on()
    received, doing = STEPS[step]
    doubt = f" {DOUBT}" if step == "exec" else ""
    reason = f"Cut off after 60 s while {doing}. {SLOW}{doubt}"
    assert ran.log == [*failed(mmp, reason), restarted(following)]
    assert (mmp.received, following.received) == (received, RESTARTED)
    assert ran.status == 1


@mark.parametrize("name", SIGNALS)
@mark.parametrize("step", STEPS)
def test_cut_off_by_a_signal(remote: Remote, run: Run, step: str, name: str) -> None:
    number = getattr(signal, name)
    mmp, never = cut_off_at(remote, step, remote.interrupt(number)), remote.at(B)
    ran = run([mmp, never, C])
    remote.go_on()
    received, doing = STEPS[step]
    reason = f"Cut off by {name} while {doing}.{f' {DOUBT}' if step == 'exec' else ''}"
    ended = f"Ended by {name}. Not attempted: {B}, {C}"
    assert ran.log == [*failed(mmp, reason), ended]
    assert re.sub(r"after [012]\.0 s", "soon", ran.err) == (
        f"Server 1 ({A}) FAILED soon: {reason}\n{ended}\n"
    )
    assert ran.out == "Restarted 0 of 3 servers.\n"
    assert (mmp.received, never.received) == (received, "")
    assert ran.status == 128 + number


@mark.parametrize("step", ["handshake", "login", "session"])
def test_step_that_takes_all_the_time_is_the_last(remote: Remote, run: Run, step: str) -> None:
    doing = "logging in" if step == "handshake" else "opening a session"
    mmp = remote.at(A, **{step: [lambda: remote.sleep(60)]})
    assert run([mmp]).log == failed(mmp, f"Cut off after 60 s while {doing}. {SLOW}")
    assert mmp.received == STEPS[step][0]


@mark.parametrize("last", [b"FAILURE: b", b"a"], ids=ascii)
def test_last_moment_is_heard(remote: Remote, run: Run, last: bytes) -> None:
    mmp = remote.at(A, answer=[TEXT, lambda: remote.sleep(60), last])
    doubt = f"{CUT_OFF} It had answered: {SAID} | a. {DOUBT}"
    assert run([mmp]).log == failed(mmp, doubt if last == b"a" else FAILURE)


def test_signal_between_two_servers(remote: Remote, run: Run) -> None:
    mmp = remote.at(A, **{"hang up": [lambda: signal.raise_signal(signal.SIGTERM)]})
    never = remote.at(B)
    ran = run([mmp, never])
    assert ran.log == [restarted(mmp), f"Ended by SIGTERM. Not attempted: {B}"]
    assert (ran.status, ran.out.splitlines()[-1]) == (143, "Restarted 1 of 2 servers.")
    assert never.received == ""


@mark.parametrize(("seconds", "is_heeded"), [(0, False), (2, True)], ids=str)
def test_second_signal(
    remote: Remote, run: Run, monkeypatch: MonkeyPatch, seconds: float, is_heeded: bool
) -> None:
    """A pipe that nobody reads may hold the run. Some senders send each signal twice at once."""
    send, by_default = signal.raise_signal, list[int]()

    def send_twice() -> None:
        send(signal.SIGTERM)
        remote.sleep(seconds)
        send(signal.SIGTERM)

    monkeypatch.setattr(signal, "raise_signal", by_default.append)
    assert run([remote.at(A, answer=[send_twice])]).status == 143
    assert by_default == [signal.SIGTERM] * is_heeded
    assert (signal.getsignal(signal.SIGTERM) == signal.SIG_DFL) == is_heeded


def test_signal_that_is_ignored_or_unknown(
    remote: Remote, run: Run, monkeypatch: MonkeyPatch
) -> None:
    """As nohup ignores one, and shells with jobs in the background; as Windows lacks one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    mmp = remote.at(A, login=[lambda: signal.raise_signal(signal.SIGINT)])
    assert run([mmp]).log == [restarted(mmp)]


# ---- Pausing -------------------------------------------------------------------------------------


@mark.parametrize(
    ("options", "pause"), [("--pause 90", 90), ("--pause 90 --check", 0), ("", 0)], ids=str
)
def test_pause_is_between_two_servers_only(
    remote: Remote, run: Run, options: str, pause: float
) -> None:
    """Also after a failure. It takes no server's time, even if it is longer than that."""
    times: list[float] = []
    answer = [b"FAILURE: b", 1, END]
    begin = lambda: times.append(remote.now)  # noqa: E731
    servers = [remote.at(each, connect=[begin], answer=answer) for each in (A, B, C)]
    ran = run(servers, *options.split())
    assert [round(at - times[0]) for at in times] == [0, pause, 2 * pause]
    assert round(ran.seconds) == 2 * pause
    assert ran.err.count(f"FAILED after 0.0 s: {FAILURE_1}\n") == 3


@mark.parametrize("tries", [[], [REFUSED]], ids=["pause", "wait for the next try"])
def test_signal_ends_the_wait(
    remote: Remote, run: Run, monkeypatch: MonkeyPatch, tries: list[Any]
) -> None:
    def sleep(_: float) -> None:
        monkeypatch.setattr(time, "sleep", remote.sleep)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(time, "sleep", sleep)
    mmp, never = remote.at(A, connect=tries), remote.at(B)
    ran = run([mmp, never], "--pause", "600")
    cut_off = failed(mmp, "Cut off by SIGINT while connecting.")
    told = cut_off if tries else [restarted(mmp)]
    assert ran.log == [*told, f"Ended by SIGINT. Not attempted: {B}"]
    assert (ran.status, ran.seconds, never.received) == (130, 0, "")
    assert mmp.received == ("connect" if tries else RESTARTED)


def test_terminal_shows_what_is_waited_for(
    remote: Remote, run: Run, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    servers = [remote.at(A), remote.at(B)]
    shown = [f"Waiting for server 1 ({A}) ...", f"Server 1 ({A}) restarted in 0.0 s"]
    shown += [f"Pausing 5 s before server 2 ({B}) ...", f"Waiting for server 2 ({B}) ..."]
    shown += [f"Server 2 ({B}) restarted in 0.0 s", "Restarted 2 of 2 servers."]
    assert run(servers, "--pause", "5").out.splitlines() == shown
    assert "Waiting" not in run(servers, "--quiet").out


# ---- Choosing, checking and telling --------------------------------------------------------------


@mark.parametrize("choice", [["2"], [B], ["2", B], ["2", "1"]], ids=str)
def test_chosen_servers(remote: Remote, run: Run, choice: list[str]) -> None:
    """Each gets one turn, in the order of the inventory, and is told with its number there."""
    servers = [remote.at(A), remote.at(B)]
    ran = run(servers, *choice)
    chosen = servers if "1" in choice else servers[1:]
    assert ran.log == [restarted(server) for server in chosen]
    assert f"Server 2 ({B}) restarted in 0.0 s\n" in ran.out
    total = "2 of 2 servers" if "1" in choice else "1 of 1 server"
    assert ran.out.endswith(f"\nRestarted {total}.\n")
    assert [server.received for server in chosen] == [RESTARTED] * len(chosen)


@mark.parametrize("choice", ["3", "0", "10.48.79.19"])
def test_unknown_choice_lists_what_there_is(remote: Remote, run: Run, choice: str) -> None:
    servers = [remote.at(A), remote.at(B)]
    ran = run(servers, "1", choice)
    message = f"No server {choice}. WEBBRIDGES has 1 ({A}), 2 ({B})."
    assert (ran.status, ran.out, ran.err, ran.log) == (2, "", f"{message}\n", [message])
    assert [server.received for server in servers] == ["", ""]


def test_check_asks_and_logs_nothing(remote: Remote, run: Run, log_file: Path) -> None:
    ready, off = remote.at(A, answer=SETTINGS), remote.at(B, answer=[b"Enabled : false", 0, END])
    ran = run([ready, off], "--check", "--verbose")
    assert ran.out == (
        f"Server 1 ({A}) OK (Web Bridge enabled) in 0.0 s\n"
        "  answered: Enabled                 : true | Interface whitelist     : a:443\n"
        "1 of 2 servers ready.\n"
    )
    reason = "The server does not say that its Web Bridge is enabled, but: Enabled : false"
    assert ran.err == f"Server 2 ({B}) FAILED after 0.0 s: {reason}\n"
    assert (ran.status, log_file.exists()) == (1, False)
    assert (ready.received, off.received) == (CHECKED, CHECKED)


def test_verbose_and_quiet(remote: Remote, run: Run) -> None:
    good = remote.at(A, answer=[b"SUCCESS: \x1b[31ma", 0, END])
    bad = remote.at(B, session=[KeyError()])
    told = f"Server 1 ({A}) restarted in 0.0 s\n  answered: SUCCESS: \\x1b[31ma\n"
    assert run([good], "--verbose").out == f"{told}Restarted 1 of 1 server.\n"
    assert run([remote.at(C, answer=SETTINGS)], "--check", "--quiet")[:3] == (0, "", "")
    ran = run([good, bad], "--quiet")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == f"Server 2 ({B}) FAILED after 0.0 s: KeyError: nothing. {DOUBT}\n"


# ---- The log -------------------------------------------------------------------------------------


def test_what_is_not_logged_is_told(
    remote: Remote, run: Run, log_file: Path, tmp_path: Path
) -> None:
    """The log later takes lines again, and the exit status does not forget what is lost."""
    away = tmp_path / "away"
    take_away = [lambda: log_file.rename(away), log_file.mkdir]
    give_back = [log_file.rmdir, lambda: away.rename(log_file)]
    first, last = remote.at(A), remote.at(C, answer=[*give_back, *WHOLE])
    second = remote.at(B, answer=[*take_away, *WHOLE])
    ran = run([first, second, last])
    assert ran.log == [restarted(first), restarted(last)]
    reason, lost = ran.err.splitlines()
    why = error_of(lambda: tmp_path.open("ab"))
    assert reason == f"Cannot write to {log_file}: {why}. Not logged:"
    assert unstamped(lost) == [restarted(second)]
    assert (ran.status, ran.out.splitlines()[-1]) == (1, "Restarted 3 of 3 servers.")


def test_stamp_has_microseconds_even_if_they_are_zero(
    remote: Remote, run: Run, monkeypatch: MonkeyPatch, log_file: Path
) -> None:
    class Noon(datetime.datetime):
        @classmethod
        def now(cls, zone: Any = None) -> Noon:
            return cls(2020, 6, 8, 12, tzinfo=datetime.timezone.utc).astimezone(zone)

    mmp = remote.at(A)
    monkeypatch.setattr(datetime, "datetime", Noon)
    run([mmp])
    stamped = f"2020-06-08 12:00:00.000000+00:00 {restarted(mmp)}{os.linesep}"
    assert log_file.read_bytes().decode() == stamped


# ---- Conditions ----------------------------------------------------------------------------------

TIME = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M:%S}"
LINE = f"{TIME} user.info cms1 "
NIGHT = "--if-leaked", "20", "--max-active", "10"


def web(sessions: int) -> bytes:
    return f"{LINE}webbridge: INFO : [DEBUGGING] Stats {sessions}, c:3477, d:3170\n".encode()


def call(users: int) -> bytes:
    return f'{LINE}host:server: INFO : STATS: {{"CMA": "{users}/99"}}\n'.encode()


def full(server: Place, number: int) -> str:
    return (
        f"FULL: server {number} ({server.address}). At 149 sessions a Web Bridge accepts no more, "
        "so nobody else can join there. To restart it now, which ends its meetings: "
        f"webbridge_restart.py {number}"
    )


BUSY, CLEAN = ", more than --max-active 9", ", fewer than --if-leaked 21"


@mark.parametrize(
    ("options", "busy", "clean"),
    [(NIGHT, "", ""), (["--max-active", "9"], BUSY, ""), (["--if-leaked", "21"], "", CLEAN)],
    ids=str,
)
def test_conditions(remote: Remote, run: Run, options: Any, busy: str, clean: str) -> None:
    """The sums of two servers; the figures are logged either way."""
    servers = remote.at(A, text=web(30) + call(3)), remote.at(B, text=web(0) + call(7))
    ran = run(servers, *options)
    figures = f"10 active sessions{busy}; 20 leaked sessions{clean}."
    log = [f"Restarting: {figures}", *map(restarted, servers)]
    assert ran.log == ([f"Not restarted: {figures}"] if busy or clean else log)
    assert (ran.status, ran.err) == (0, "")
    assert f"{ran.log[0]}\n" in ran.out
    sent = READ if busy or clean else f"{READ}, {RESTARTED}"
    assert [server.received for server in servers] == [sent, sent]


def test_night_on_which_a_web_bridge_is_full(remote: Remote, run: Run) -> None:
    """It is told even where nothing else is."""
    servers = [remote.at(A, text=web(0) + call(0)), remote.at(B, text=web(149) + call(140))]
    ran = run(servers, "--if-leaked", "21", "--max-active", "9", "--quiet")
    words = f"140 active sessions{BUSY}; 9 leaked sessions{CLEAN}."
    message = f"Not restarted: {words} {full(servers[1], 2)}"
    assert (ran.status, ran.out, ran.err, ran.log) == (1, "", f"{message}\n", [message])
    assert servers[1].received == READ


@mark.parametrize("choice", [[], ["1"]], ids=str)
def test_full_web_bridge_while_others_are_restarted(
    remote: Remote, run: Run, choice: list[str]
) -> None:
    """All are counted, the chosen ones restarted. One that stays full is told before that."""
    mmp, is_full = remote.at(A, text=web(0) + call(9)), remote.at(B, text=web(149) + call(0))
    ran = run([mmp, is_full], *choice, *NIGHT, "--quiet")
    figures = "Restarting: 9 active sessions; 140 leaked sessions."
    if choice:
        told = f"{figures} {full(is_full, 2)}"
        assert (ran.status, ran.out, ran.err) == (1, "", f"{told}\n")
        assert ran.log == [told, restarted(mmp)]
        assert is_full.received == READ
    else:
        assert (ran.status, ran.out, ran.err) == (0, "", "")
        assert ran.log == [figures, restarted(mmp), restarted(is_full)]
    assert mmp.received == f"{READ}, {RESTARTED}"


TABLE = f"""\
Server            Web Bridge  Age    CMA    Age    Log ends
1 (10.48.79.194)  149 FULL    0 min  99/99  0 min  {TIME}
"""
SUM = "Leaked: 50 sessions (149 Web Bridge, 99 active CMA).\n"


def test_sessions(remote: Remote, run: Run, log_file: Path) -> None:
    mmp = remote.at(A, text=web(149) + call(99))
    ran = run([mmp], "--sessions", "--quiet")
    assert (ran.status, ran.out, ran.err) == (0, f"{TABLE}{full(mmp, 1)}\n{SUM}", "")
    told = f"{TABLE}{webbridge_restart.CAUTIONS}\n{full(mmp, 1)}\n{SUM}"
    assert run([mmp], "--sessions").out == told
    assert (mmp.received, log_file.exists()) == (f"{READ}, {READ}", False)


@mark.parametrize("limit", [50, 51], ids=str)
def test_rehearsal(remote: Remote, run: Run, log_file: Path, limit: int) -> None:
    what, why_not = "1 server", ""
    if limit == 51:
        what, why_not = "nothing", ", fewer than --if-leaked 51"
    mmp = remote.at(A, answer=SETTINGS, text=web(149) + call(99))
    ran = run([mmp], "--check", f"--if-leaked={limit}", "--quiet")
    would = f"A run now would restart {what}: 99 active sessions; 50 leaked sessions{why_not}.\n"
    told = f"{TABLE}{full(mmp, 1)}\n{SUM}{would}"
    assert (ran.status, ran.out, ran.err) == (0, told, "")
    assert (mmp.received, log_file.exists()) == (f"{CHECKED}, {READ}", False)


@mark.parametrize("answer", [[b"FAILURE: a", 1, END], SETTINGS], ids=["not ready", "not counted"])
def test_rehearsal_that_fails(remote: Remote, run: Run, answer: list[Any]) -> None:
    """It counts only where all servers are ready."""
    mmp = remote.at(A, answer=answer, text=web(9))
    ran = run([mmp], "--check", *NIGHT)
    told = ["Cannot count: 1 of 1 server, see above.", "A run now would restart nothing."]
    is_ready = answer == SETTINGS
    assert ran.status == 1
    assert (ran.err.splitlines()[-2:] == told) == is_ready
    assert mmp.received == (f"{CHECKED}, {READ}" if is_ready else CHECKED)


NO_LOG = "The server does not show its log over SFTP: no. Check what admin may do."
PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "login": ({"login": [AuthenticationException()]}, ONCE),
    "connect": ({"connect": [REFUSED] * 3}, with_advice(UNABLE)),
    "no log": ({"log": [OSError("no")]}, NO_LOG),
    "odd": ({"log": [ZeroDivisionError("odd")]}, "ZeroDivisionError: odd."),
    "no time": ({"text": b"a"}, "No line in the log begins with a time."),
}


@mark.parametrize(("state", "problem"), PROBLEMS.values(), ids=PROBLEMS)
def test_figure_that_is_missing(
    remote: Remote, run: Run, state: dict[str, Any], problem: str
) -> None:
    """Nothing is restarted. The log has the reasons; the terminal has them in the table."""
    server, mmp = remote.at(A, **state), remote.at(B, text=web(149) + call(0))
    ran = run([server, mmp], *NIGHT, "--quiet")
    todo = (
        "Until each server can be counted, take those that cannot out of the script's lists, or "
        f"restart servers by their numbers, without conditions. {full(mmp, 2)}"
    )
    reason = f"1 ({A}): {problem}"
    assert ran.log == [f"Nothing was restarted. Cannot count: {reason} {todo}"]
    _, row, _, see_above, end = ran.err.splitlines()
    assert row.startswith(f"1 ({A})") and row.endswith(f"Not counted: {problem}")
    assert see_above == "Cannot count: 1 of 2 servers, see above."
    assert end == f"Nothing was restarted. {todo}"
    assert (ran.status, ran.out, mmp.received) == (1, "", READ)


def test_cut_off_while_the_logs_are_read(remote: Remote, run: Run) -> None:
    """By time: the next server is still counted. By a signal: it is not."""
    slow, mmp = remote.at(A, log=[remote.hang]), remote.at(B, text=web(99) + call(0))
    reason = f"Cut off after 60 s while reading the server's log. {SLOW}"
    assert f"Cannot count: 1 ({A}): {reason} Until" in run([slow, mmp], *NIGHT).log[0]
    assert (slow.received, mmp.received) == (READ, READ)

    slow, mmp = remote.at(A, log=[remote.interrupt(signal.SIGTERM)]), remote.at(B)
    ran = run([slow, mmp], *NIGHT)
    assert ran.log == [f"Ended by SIGTERM. Not attempted: {B}", "Nothing was restarted."]
    assert (ran.status, slow.received, mmp.received) == (143, READ, "")


def test_signal_between_counting_and_restarting(remote: Remote, run: Run) -> None:
    end = {"hang up": [lambda: signal.raise_signal(signal.SIGTERM)]}
    mmp = remote.at(A, text=web(99) + call(0), **end)
    ran = run([mmp], *NIGHT)
    assert ran.log == ["Ended by SIGTERM. Not attempted: none", "Nothing was restarted."]
    assert (ran.status, mmp.received) == (143, READ)


def test_call_bridges_of_their_own(remote: Remote, run: Run, monkeypatch: MonkeyPatch) -> None:
    """They are counted, not restarted. A server in both inventories is read once."""
    monkeypatch.setattr(webbridge_restart, "CALLBRIDGES", {7: A, 8: C})
    both, bridge = remote.at(A, text=web(30) + call(4)), remote.at(B, text=web(1) + call(50))
    call_bridge = remote.at(C, text=call(5) + web(100))
    ran = run([both, bridge], *NIGHT)
    figures = "Restarting: 9 active sessions; 22 leaked sessions."
    assert ran.log == [figures, restarted(both), restarted(bridge)]
    assert both.received == bridge.received == f"{READ}, {RESTARTED}"
    assert call_bridge.received == READ


# ---- What a new release of paramiko may change ---------------------------------------------------


def test_names_of_paramiko_that_the_script_leans_on() -> None:
    """They are not in paramiko's documents: where one is gone, this fails first."""
    with socket.socket() as sock:
        transport = paramiko.Transport(sock)
    names = "banner_timeout handshake_timeout auth_timeout channel_timeout host_key_type"
    for name in f"{names} remote_version".split():
        assert hasattr(transport, name), name
    assert transport.get_security_options().key_types
    channel = paramiko.Channel(1)
    assert not (channel.eof_received or channel.eof_sent or channel.closed)
    assert channel.exit_status == -1 and not channel.status_event.is_set()
    assert "max_concurrent_requests" in inspect.signature(paramiko.SFTPFile.prefetch).parameters
    assert ASKS.allowed_types == ["publickey", "keyboard-interactive"]
    assert KEY.fingerprint.startswith("SHA256:")
    entry = paramiko.hostkeys.HostKeyEntry.from_line(f"{A} ssh-ed25519 {KEY.get_base64()}")
    assert entry is not None and entry.key == KEY
