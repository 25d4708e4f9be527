"""The fault matrix: one faulty server between two good ones, a row for each fault.

Below it stand the ways in which the block to edit can be wrong.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import functools
import hashlib
import re
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import paramiko
import pytest

import webbridge_restart
from conftest import Ran, Run, failed, restarted, unstamped
from simulated_mmp import (
    PASSWORD,
    SUCCESS,
    Action,
    SimulatedMMP,
    answer,
    ed25519_key,
    refusing_address,
    reset,
    rsa_key,
)

SECONDS_BETWEEN_TRIES = webbridge_restart.SECONDS_BETWEEN_TRIES  # before conftest shortens it
PARAMIKO = int(paramiko.__version__.partition(".")[0])
OTHER_KEY = ed25519_key()
RSA_KEY = rsa_key()

SECONDS_FOR_GOOD = 1.0  # both good servers together
SLACK = 2.5  # a computer may be so many times as slow
SECONDS_TO_HANG = 90  # then a test fails instead of waiting on

# ---- What faulty servers do ----------------------------------------------------------------------

LINES = b"One of very many lines that a server can send.\n" * 1330  # 62,510 bytes
FORGED = "2026-01-01 02:00:00.000000+00:00 Webbridge on server: 10.0.0.9 restarted successfully"
TO_A_TERMINAL = "\x1b[2J\x1b]0;owned\x07"  # clears it, and writes its title


def mmp(**settings: object) -> Callable[[], SimulatedMMP]:
    return functools.partial(SimulatedMMP, **settings)  # type: ignore[arg-type]


def answers(text: bytes, status: int | None = 0) -> Callable[[], SimulatedMMP]:
    return mmp(restart=answer(text, status))


def in_turn(
    *steps: bytes | float | Callable[[paramiko.Channel], object],
) -> Callable[[], SimulatedMMP]:
    """Return a server whose answer is text to send, seconds to wait, and calls with the channel."""

    def act(channel: paramiko.Channel) -> None:
        for step in steps:
            if isinstance(step, bytes):
                channel.sendall(step)
            elif isinstance(step, float):
                channel.status_event.wait(step)  # set when the client goes away
            else:
                step(channel)

    return mmp(restart=act)


def exit_status(status: int) -> Action:
    return lambda channel: channel.send_exit_status(status)


def exit_signal(channel: paramiko.Channel) -> None:
    message = paramiko.Message()
    message.add_byte(bytes([98]))  # SSH_MSG_CHANNEL_REQUEST
    message.add_int(channel.remote_chanid)
    message.add_string("exit-signal")
    message.add_boolean(False)
    message.add_string("KILL")
    message.add_boolean(False)
    message.add_string("")
    message.add_string("")
    channel.transport._send_user_message(message)


def end_of_file(channel: paramiko.Channel) -> None:
    channel.shutdown_write()


def close(channel: paramiko.Channel) -> None:
    channel.close()


def much_text(channel: paramiko.Channel) -> None:
    for _ in range(400):  # 25 MB
        channel.sendall(LINES)


def text_for_ever(channel: paramiko.Channel) -> None:
    while True:  # until the connection is closed, which raises OSError
        channel.sendall(LINES)


def dribble(channel: paramiko.Channel) -> None:
    while not channel.status_event.wait(0.2):
        channel.sendall(b".")


def hang_up(connection: paramiko.Transport | paramiko.Channel) -> int:
    """End the TCP connection; as what comes of a login, nothing but that."""
    transport = getattr(connection, "transport", connection)
    transport.sock.shutdown(socket.SHUT_RDWR)
    return paramiko.AUTH_FAILED


def ask_for_new_password(transport: paramiko.Transport) -> int:
    message = paramiko.Message()
    message.add_byte(bytes([60]))  # SSH_MSG_USERAUTH_PASSWD_CHANGEREQ
    message.add_string("Your password has expired. New password: ")
    message.add_string("en")
    transport._send_message(message)
    return paramiko.AUTH_FAILED


def refuse_and_hang_up(transport: paramiko.Transport) -> int:
    message = paramiko.Message()
    message.add_byte(bytes([51]))  # SSH_MSG_USERAUTH_FAILURE
    message.add_string("password")
    message.add_boolean(False)
    transport._send_message(message)
    return hang_up(transport)


def one_more_step(_: paramiko.Transport) -> int:
    return paramiko.AUTH_PARTIALLY_SUCCESSFUL


def says(*texts: bytes, then_ends: bool = False) -> Callable[[], SimulatedMMP]:
    """Return a TCP server that says this and falls silent, or ends."""

    def speak(connection: socket.socket) -> None:
        connection.sendall(b"".join(texts))
        if then_ends:
            connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    return mmp(raw=speak)


def dribble_a_banner(connection: socket.socket) -> None:
    connection.settimeout(0.05)
    while True:  # until the connection is closed, which raises OSError
        connection.sendall(b".")
        with contextlib.suppress(socket.timeout):
            connection.recv(65536)


def sha1_offer() -> bytes:
    """Return the SSH_MSG_KEXINIT packet of a server that knows SHA-1 only."""
    offer = paramiko.Message()
    offer.add_byte(bytes([20]))
    offer.add_bytes(bytes(16))
    for names in (
        *(["diffie-hellman-group14-sha1"], ["ssh-rsa"]),
        *(["aes128-ctr"], ["aes128-ctr"], ["hmac-sha1"], ["hmac-sha1"]),
        *(["none"], ["none"], [], []),
    ):
        offer.add_list(names)
    offer.add_boolean(False)
    offer.add_int(0)
    payload = offer.asbytes()
    padding = 12 - (len(payload) + 9) % 8
    return struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + bytes(padding)


def only_sha1(transport: paramiko.Transport) -> None:
    options = transport.get_security_options()
    options.kex = ("diffie-hellman-group14-sha1",)
    options.key_types = ("ssh-rsa",)


@contextlib.contextmanager
def full_backlog() -> Iterator[str]:
    """Yield the address of a listener that answers no further SYN, as behind a firewall."""
    if sys.platform != "linux":
        pytest.skip("other systems refuse the connection")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield "127.0.0.1:{1}".format(*listener.getsockname())


@contextlib.contextmanager
def known_by_name() -> Iterator[SimulatedMMP]:
    with SimulatedMMP() as server:
        server.host = "cms9.second.invalid"
        server.address = f"{server.host}:{server.port}"
        yield server


@pytest.fixture(autouse=True)
def _resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Below .invalid, names are found the second time, or never, or there is no answer at all."""
    real, over, times = socket.getaddrinfo, threading.Event(), collections.Counter[str]()

    def getaddrinfo(host: str, *others: object, **named: object) -> object:
        times[host] += 1
        if host.endswith(".stalls.invalid"):
            over.wait()
        if host.endswith(".second.invalid") and times[host] == 1:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if host.endswith(".second.invalid"):
            host = "127.0.0.1"
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *others, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield
    over.set()


@pytest.fixture(autouse=True)
def _hang_fails() -> Iterator[None]:
    """Fail a test that hangs, where the system has an alarm clock."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(*_: object) -> None:
        raise AssertionError(f"no end after {SECONDS_TO_HANG} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_HANG)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# ---- The matrix ----------------------------------------------------------------------------------


# Commands, passwords and connections that come to a faulty server.
EVERYTHING = 1, 1, 1
NO_COMMAND = 0, 1, 1
NO_LOGIN = 0, 0, 1
NO_ANSWER = 0, 0, 3
SECOND_TRY = 1, 1, 2


class Fault(NamedTuple):
    """A row: a server, and what is to be said of it and done to it."""

    name: str
    server: Callable[[], AbstractContextManager[SimulatedMMP | str]]
    reason: str = ""  # see filled_in(); there is none where the server is restarted
    came: tuple[int, int, int] = EVERYTHING
    timeout: float = 30.0
    within: float = 2.0  # seconds, where that is less than the timeout
    known: tuple[paramiko.PKey, ...] | None = None  # the server's own key
    limits: tuple[tuple[str, float], ...] = ()  # of the script, as this row needs them


SHORT = 1.5  # the --timeout of a server that stalls
MAYBE = " The restart may or may not have happened: look before you repeat it."
WAITING = "waiting for the answer to 'webbridge restart'." + MAYBE
CUT_OFF = f"Cut off after {SHORT:g} s while"
NO_END = "The answer has no end." + MAYBE
UNCLEAR = "The answer ended without exit status or SUCCESS, after: {}." + MAYBE
BROKE_OFF = "The connection broke off while"
BY_HAND = "Log in by hand: ssh -p {port} admin@127.0.0.1"
REFUSED = (
    "The login failed, and is not tried again: the password is wrong, or the account is locked or "
    "barred from this host or hour, or the server hung up. " + BY_HAND
)
ASKS_FOR_MORE = "The server asks for more than a password: expired? " + BY_HAND
NO_SSH = (
    "No usable SSH answer from 127.0.0.1 port {port}: is it the MMP's address, or is the server "
    "overloaded?"
)
TIMED_OUT = "Cannot connect to 127.0.0.1 port {port}: timed out."
UNKNOWN_KEY = (
    "The server's host key is not known: {shown_type} {shown}. Compare it with the server's own, "
    "then store it with --check --accept-new-host-keys."
)
CHANGED_KEY = (
    "The host key has CHANGED. Known: {known_name} {known}. Shown: {shown_name} {shown}. No "
    "password was sent. Only if that is right, delete the server's lines from {known_hosts} and "
    "store the new key with --check --accept-new-host-keys."
)
SHA1_ONLY = (
    "The server and paramiko {paramiko} have no algorithm in common. For one that speaks only "
    'SHA-1: "{python}" -m pip install "paramiko<5"'
)
MORE_PATIENCE = (("SECONDS_FOR_REST", 2.0),)  # as a slow computer needs
THREE_QUICK_TRIES = (("SECONDS_PER_TRY", 0.25),)

ANSWERS = [
    Fault("success text and status 0", answers(SUCCESS)),
    Fault("silence and status 0", answers(b"")),
    Fault("success text without a status", answers(SUCCESS, None)),
    Fault("success text in pieces", in_turn(b"SUC", 0.1, b"CESS: a", close)),
    Fault("success after a while", in_turn(1.0, SUCCESS, exit_status(0), close), within=3.5),
    Fault("status while a child keeps the channel open", in_turn(SUCCESS, exit_status(0))),
    Fault("status while a child dribbles on", in_turn(SUCCESS, exit_status(0), dribble)),
    Fault(
        "success text and end of file, no more",
        in_turn(SUCCESS, end_of_file),
        limits=(("SECONDS_FOR_STATUS", 0.5),),
    ),
    Fault(
        "success text and end of file, and after a second status 1",
        in_turn(SUCCESS, end_of_file, 1.0, exit_status(1), close),
        "The server answered: SUCCESS: Webbridge restarted (exit status 1)",
    ),
    Fault("success text, then the connection drops", in_turn(SUCCESS, hang_up)),
    Fault("25 MB of text, then status 0", in_turn(much_text, exit_status(0), close), within=15),
    Fault(
        "FAILURE among SUCCESS lines",
        answers(b"SUCCESS: a\r\nFAILURE: b\r\nSUCCESS: c\r\n"),
        "The server answered: FAILURE: b | SUCCESS: c",
    ),
    Fault(
        "FAILURE without a status",
        answers(b"FAILURE: b\n", None),
        "The server answered: FAILURE: b",
    ),
    Fault(
        "FAILURE in pieces",
        in_turn(b"SUCCESS: a\nFAI", 0.1, b"LURE: b", exit_status(0), close),
        "The server answered: FAILURE: b",
    ),
    Fault(
        "FAILURE among the errors",
        in_turn(SUCCESS, lambda c: c.sendall_stderr(b"FAILURE: b\n"), exit_status(0), close),
        "The server answered: FAILURE: b",
    ),
    Fault(
        "FAILURE after 25 MB of text",
        in_turn(much_text, b"FAILURE: after all\n", exit_status(0), close),
        "The server answered: FAILURE: after all",
        within=15,
    ),
    Fault(
        "status 0 before the FAILURE line",  # OpenSSH: when the command ends, its child does not
        in_turn(exit_status(0), 0.2, b"FAILURE: b\n", close),
        "The server answered: FAILURE: b",
        limits=MORE_PATIENCE,
    ),
    Fault(
        "status 1 after the end of file",
        in_turn(SUCCESS, end_of_file, 0.2, exit_status(1), close),
        "The server answered: SUCCESS: Webbridge restarted (exit status 1)",
        limits=MORE_PATIENCE,
    ),
    Fault(
        "a long FAILURE line",
        answers(b"FAILURE: " + 1000 * b"x"),
        f"The server answered: FAILURE: {291 * 'x'}...",
    ),
    Fault(
        "unknown command",
        answers(b"Unknown command: webbridge\n", 1),
        "The server answered: Unknown command: webbridge (exit status 1) CMS 3.0 and newer have "
        "no Web Bridge 2.",
    ),
    Fault(
        "unknown command and status 0",
        answers(b"Unknown command: webbridge\n"),
        "The server answered: Unknown command: webbridge CMS 3.0 and newer have no Web Bridge 2.",
    ),
    Fault("status 1 without text", answers(b"", 1), "The server answered: nothing (exit status 1)"),
    Fault(
        "success text and status 1",
        answers(SUCCESS, 1),
        "The server answered: SUCCESS: Webbridge restarted (exit status 1)",
    ),
    Fault("killed by a signal", in_turn(exit_signal, close), UNCLEAR.format("nothing")),
    Fault("silence without a status", answers(b"", None), UNCLEAR.format("nothing")),
    Fault("other text without a status", answers(b"ok\n", None), UNCLEAR.format("ok")),
    Fault(
        "bytes that are no UTF-8",
        answers(b"FAILURE: caf\xe9 \xff\xfe\n"),
        r"The server answered: FAILURE: caf\xe9 \xff\xfe",
    ),
    Fault(
        "FAILURE after bytes that take much room in the log",
        answers(b"\xff" * 200 + b"\nFAILURE: b\n"),
        "The server answered: FAILURE: b",
    ),
    Fault(
        "text that forges a log line and drives a terminal",
        answers(f"FAILURE: x\n{FORGED}\u2028{FORGED}\r{TO_A_TERMINAL}\n".encode()),
        rf"The server answered: FAILURE: x | {FORGED} | {FORGED} | \x1b[2J\x1b]0;owned\x07",
    ),
]

STALLS = [
    Fault(
        "never answers the exec request", mmp(stall="exec"), f"{CUT_OFF} {WAITING}", timeout=SHORT
    ),
    Fault("never answers the command", in_turn(), f"{CUT_OFF} {WAITING}", timeout=SHORT),
    Fault("dribbles", in_turn(dribble), f"{CUT_OFF} {WAITING}", timeout=SHORT),
    Fault("sends text for ever", in_turn(text_for_ever), NO_END, within=15),
    Fault(
        "success text, but neither status nor end",
        in_turn(SUCCESS),
        f"{CUT_OFF} {WAITING}",
        timeout=SHORT,
    ),
    Fault(
        "stalls while the channel opens",
        mmp(stall="channel"),
        f"{CUT_OFF} opening a session.",
        NO_COMMAND,
        timeout=SHORT,
    ),
    Fault(
        "stalls during the login",
        mmp(stall="login"),
        f"{CUT_OFF} logging in.",
        NO_COMMAND,
        timeout=SHORT,
        limits=(("TICK", 0.7),),  # what ends first must not depend on when the clock is looked at
    ),
    Fault("stalls before its banner", says(), NO_SSH, NO_ANSWER, limits=THREE_QUICK_TRIES),
    Fault(
        "stalls during the key exchange",
        says(b"SSH-2.0-stalls\r\n"),
        NO_SSH,
        NO_ANSWER,
        limits=THREE_QUICK_TRIES,
    ),
    Fault(
        "dribbles its banner",
        mmp(raw=dribble_a_banner),
        NO_SSH,
        NO_ANSWER,
        limits=THREE_QUICK_TRIES,
    ),
    Fault(
        "a resolver that never answers",
        lambda: contextlib.nullcontext("cms9.stalls.invalid"),
        f"{CUT_OFF} connecting.",
        timeout=SHORT,
    ),
    Fault("a listener whose backlog is full", full_backlog, TIMED_OUT, limits=THREE_QUICK_TRIES),
]

DROPS = [
    Fault("resets the connection once, then works", mmp(raw=reset, raw_times=1), came=SECOND_TRY),
    Fault(
        "drops during the key exchange",
        says(b"SSH-2.0-drops\r\n", then_ends=True),
        f"{BROKE_OFF} connecting.",
        NO_ANSWER,
    ),
    Fault("drops during the login", mmp(right_password=hang_up), REFUSED, NO_COMMAND),
    Fault(
        "refuses the login and drops", mmp(right_password=refuse_and_hang_up), REFUSED, NO_COMMAND
    ),
    Fault("drops after the command", in_turn(hang_up), UNCLEAR.format("nothing")),
    Fault(
        "drops in the middle of the answer", in_turn(b"SUCCES", hang_up), UNCLEAR.format("SUCCES")
    ),
]

REFUSALS = [
    Fault(
        "a closed port",
        refusing_address,
        "[Errno None] Unable to connect to port {port} on 127.0.0.1",
    ),
    Fault(
        "a web server",
        says(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", then_ends=True),
        NO_SSH,
        NO_ANSWER,
    ),
    Fault(
        "a name that does not resolve",
        lambda: contextlib.nullcontext("cms9.invalid"),
        "The name cms9.invalid is not found: check its line, and this computer's DNS.",
    ),
    Fault("a name that does not resolve at first", known_by_name),
    Fault("a wrong password", mmp(password="another"), REFUSED, NO_COMMAND),
    Fault(
        "an expired password",
        mmp(right_password=ask_for_new_password, stall="login"),  # until that comes
        ASKS_FOR_MORE,
        NO_COMMAND,
    ),
    Fault(
        "an expired password, keyboard-interactive",
        mmp(methods="keyboard-interactive", questions=[["Password: "], ["New password: "]]),
        ASKS_FOR_MORE,
        NO_COMMAND,
    ),
    Fault(
        "an expired password, keyboard-interactive that asks twice at once",
        mmp(methods="keyboard-interactive", questions=[["Password: "], ["New: ", "Again: "]]),
        ASKS_FOR_MORE,
        NO_COMMAND,
    ),
    Fault("keyboard-interactive only", mmp(methods="keyboard-interactive")),
    Fault(
        "keyboard-interactive that has a word to say after the password",
        mmp(methods="publickey,keyboard-interactive", questions=[["Password: "], []]),
    ),
    Fault(
        "keyboard-interactive, and a wrong password",
        mmp(methods="keyboard-interactive", password="another"),
        REFUSED,
        NO_COMMAND,
    ),
    Fault(
        "keyboard-interactive that asks two questions at once",
        mmp(methods="keyboard-interactive", questions=[["Password: ", "Token: "]]),
        ASKS_FOR_MORE,
        NO_LOGIN,
    ),
    Fault(
        "keys only",
        mmp(methods="publickey"),
        "The server takes no password, only ['publickey'].",
        NO_LOGIN,
    ),
    Fault(
        "a second factor after the password",
        mmp(methods="password,keyboard-interactive", right_password=one_more_step),
        ASKS_FOR_MORE,
        NO_COMMAND,
    ),
    Fault(
        "too many sessions",
        mmp(refuse_channels=True),
        "The server opens no session (code 4): are too many open?",
        NO_COMMAND,
    ),
    Fault("refuses the exec request", mmp(refuse_exec=True), f"{BROKE_OFF} {WAITING}"),
    Fault("an unknown host key", mmp(), UNKNOWN_KEY, NO_LOGIN, known=()),
    Fault("a changed host key", mmp(), CHANGED_KEY, NO_LOGIN, known=(OTHER_KEY,)),
    Fault(
        "a server known by another type of key only", mmp(), CHANGED_KEY, NO_LOGIN, known=(RSA_KEY,)
    ),
    Fault(
        "a server with two keys, known by the second",
        mmp(set_up=lambda transport: transport.add_server_key(RSA_KEY)),
        known=(RSA_KEY,),
    ),
    Fault(
        "a server that speaks only SHA-1",
        mmp(host_key=RSA_KEY, set_up=only_sha1)
        if PARAMIKO < 5
        else says(b"SSH-2.0-old\r\n", sha1_offer()),
        *((SHA1_ONLY, NO_LOGIN) if PARAMIKO >= 5 else ()),
    ),
]


def row(fault: Fault) -> object:
    return pytest.param(fault, id=fault.name)


def fingerprint(key: paramiko.PKey) -> str:
    digest = hashlib.sha256(key.asbytes()).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def filled_in(fault: Fault, server: SimulatedMMP | str, known_hosts: Path) -> str:
    """Return the reason as it must be in the log."""
    shown = OTHER_KEY if isinstance(server, str) else server.host_key
    known = (fault.known or (shown,))[0]
    return fault.reason.format(
        port=(server if isinstance(server, str) else server.address).rpartition(":")[2],
        known_hosts=known_hosts,
        known=fingerprint(known),
        known_name=known.algorithm_name,
        shown=fingerprint(shown),
        shown_type=shown.get_name(),
        shown_name=shown.algorithm_name,
        paramiko=paramiko.__version__,
        python=sys.executable,
    )


@pytest.fixture(scope="module")
def before() -> Iterator[SimulatedMMP]:
    with SimulatedMMP() as server:
        yield server


@pytest.fixture(scope="module")
def after() -> Iterator[SimulatedMMP]:
    with SimulatedMMP() as server:
        yield server


@pytest.mark.parametrize("fault", [*map(row, ANSWERS + STALLS + DROPS + REFUSALS)])
def test_fault(
    fault: Fault,
    before: SimulatedMMP,
    after: SimulatedMMP,
    run: Run,
    known_hosts: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in fault.limits:
        monkeypatch.setattr(webbridge_restart, name, value)
    for good in (before, after):
        good.commands.clear()
        good.passwords.clear()
    with fault.server() as faulty:
        lines = [before.known_hosts_line, after.known_hosts_line]
        if isinstance(faulty, SimulatedMMP):
            name = faulty.known_hosts_line.split()[0]
            for key in (faulty.host_key,) if fault.known is None else fault.known:
                lines.append(f"{name} {key.get_name()} {key.get_base64()}")
        known_hosts.write_text("".join(f"{line}\n" for line in lines))
        ran = run([before, faulty, after], "--timeout", f"{fault.timeout:g}")

    reason = filled_in(fault, faulty, known_hosts)
    told = failed(faulty, reason) if reason else [restarted(faulty)]
    assert ran.log == [restarted(before), *told, restarted(after)]
    assert ran.status == (1 if reason else 0)
    address = faulty if isinstance(faulty, str) else faulty.address
    line = rf"\[2/3\] {re.escape(address)} FAILED  \d+\.\d s: {re.escape(reason)}\n"
    assert re.fullmatch(line if reason else "", ran.err), ran.err
    assert before.commands == after.commands == ["webbridge restart"]
    assert before.passwords == after.passwords == [PASSWORD]
    if isinstance(faulty, SimulatedMMP):
        commands, passwords, connections = fault.came
        assert faulty.commands == ["webbridge restart"] * commands
        assert faulty.passwords == [PASSWORD] * passwords
        assert faulty.connections == connections
    seconds = min(fault.timeout, fault.within) + 1 + SECONDS_FOR_GOOD
    assert ran.seconds < seconds * SLACK


def test_what_came_before_the_status_is_read_however_slowly(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = paramiko.Channel.recv

    def recv(channel: paramiko.Channel, size: int) -> bytes:
        threading.Event().wait(0.03)
        return real(channel, size)

    def act(channel: paramiko.Channel) -> None:
        for _ in range(33):  # as much as is sent without waiting for the reader
            channel.sendall(LINES)
        answer(b"FAILURE: after all\n")(channel)

    monkeypatch.setattr(paramiko.Channel, "recv", recv)
    with SimulatedMMP(restart=act) as server:
        ran = run([server])
    assert ran.log == failed(server, "The server answered: FAILURE: after all")


def test_all_tries_fit_into_the_time_of_a_server() -> None:
    """Else the cut-off takes the place of the reason why nothing answers."""
    tries = webbridge_restart.CONNECT_TRIES
    seconds = tries * webbridge_restart.SECONDS_PER_TRY
    seconds += (tries - 1) * SECONDS_BETWEEN_TRIES
    assert seconds < webbridge_restart.SECONDS_PER_SERVER


# ---- The block to edit ---------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file in the script's place, with a password that only its owner can read."""
    stand_in = tmp_path / "webbridge_restart.py"
    stand_in.touch(0o600)
    monkeypatch.delenv("MMP_PASSWORD", raising=False)
    monkeypatch.setattr(webbridge_restart, "SCRIPT", stand_in)
    monkeypatch.setattr(webbridge_restart, "MMP_PASSWORD", PASSWORD)
    monkeypatch.setattr(webbridge_restart, "WEBBRIDGES", {1: "10.0.0.1"})
    return stand_in


@pytest.fixture
def start(
    script: Path, log_file: Path, known_hosts: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Run main() with the block as it is, whatever that is."""

    def start_once(*options: str) -> Ran:
        files = ["--known-hosts", str(known_hosts), "--log-file", str(log_file)]
        status = webbridge_restart.main([*files, *options])
        printed = capsys.readouterr()
        log = unstamped(log_file.read_text())
        log_file.unlink()
        return Ran(status, printed.out, printed.err, log, 0)

    return start_once


def assert_refused(start: Callable[..., Ran], sentence: str) -> None:
    """Assert that nothing is attempted, and why is said once; in the log unless it only checks."""
    assert start() == (2, "", f"{sentence}\n", [sentence], 0)
    assert start("--check") == (2, "", f"{sentence}\n", [], 0)


EDIT = (
    "Edit {0} at the top of webbridge_restart.py: a line a server, such as "
    '1: "10.48.79.194", with "cms2.example.com:2222" or "[2001:db8::3]" as well.'
)
LISTS_NONE = "{0} lists no server. " + EDIT
NO_SERVER = "{0} has {1!r}: {2!r}, that is no server. " + EDIT
TWICE = "{0} lists {1} as 1 and as 3. " + EDIT
NUMBER_TWICE = "webbridge_restart.py numbers servers {}: each needs its own number."
NO_TEXT = "{0} is empty or no text. README.md names the ways to set it."
LIST = ["10.0.0.1", "10.0.0.2"]


@pytest.mark.parametrize("inventory", [{}, [], LIST, (*LIST,), "10.0.0.1", None, 0], ids=repr)
def test_block_that_lists_no_server(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, inventory: object
) -> None:
    monkeypatch.setattr(webbridge_restart, "WEBBRIDGES", inventory)
    assert_refused(start, LISTS_NONE.format("WEBBRIDGES"))


@pytest.mark.parametrize(
    ("number", "address"),
    [
        *[("1", "10.0.0.1"), (None, "10.0.0.1"), ("one", "10.0.0.1"), ((1, 2), "10.0.0.1")],
        *[(1, value) for value in (None, 10, 10.0, b"10.0.0.1", ["10.0.0.1"], ("10.0.0.1", 22))],
        *[(1, text) for text in ("", " ", ":22", "[]:22", "10.0.0.1, 10.0.0.2", "10.0.0.1;")],
        *[(1, text) for text in ("https://cms1.example.com", "ssh://10.0.0.1", "10.0.0.1/24")],
        *[(1, text) for text in ("admin@cms1.example.com", "admin@10.0.0.1:22", "cms1/")],
        *[(1, text) for text in ("cms 1", "10.0.0. 1", "cms1 :22", "cms1: 22", "cms1\n.com")],
        *[(1, text) for text in ("10.0.0.999", "10.0.0", "10.0.0.1.1", "12345", "010.0.0.1")],
        *[(1, text) for text in ("2001:db8::3", "[2001:db8::3", "[2001:db8::z]", "[cms1]:22")],
        *[(1, f"10.0.0.1:{port}") for port in ("0", "65536", "99999", "ssh", "", "-1", "2 2")],
        *[(1, text) for text in ("a" * 64, f"cms1.{'a' * 64}.com", "cms1..com", ".cms1")],
        *[(1, text) for text in ("-cms1", "-oProxyCommand=x", "cms1.-example.com", "cms1-.com")],
        *[(1, text) for text in ("cms\x001", "cms1\u200b", "\x1b[2Jcms1", "cmsé.example.com")],
    ],
    ids=repr,
)
def test_block_with_a_line_that_is_no_server(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, number: object, address: object
) -> None:
    monkeypatch.setattr(webbridge_restart, "WEBBRIDGES", {7: "10.0.0.7", number: address})
    assert_refused(start, NO_SERVER.format("WEBBRIDGES", number, address))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1:22"),
        ("10.0.0.1:2222", " 10.0.0.1:2222"),
        ("10.0.0.1", "10.0.0.1:022"),
        ("cms1.example.com", "CMS1.Example.com"),
        ("cms1.example.com:22", "cms1.example.com\t"),
        ("[2001:db8::3]", "[2001:DB8:0:0::3]:22"),
    ],
)
def test_block_with_one_server_twice(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    inventory = {1: first, 2: "10.0.0.2", 3: second}
    monkeypatch.setattr(webbridge_restart, "WEBBRIDGES", inventory)
    assert_refused(start, TWICE.format("WEBBRIDGES", second))


def test_block_with_a_wrong_call_bridge(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbridge_restart, "CALLBRIDGES", LIST)
    assert_refused(start, LISTS_NONE.format("CALLBRIDGES"))
    monkeypatch.setattr(webbridge_restart, "CALLBRIDGES", {1: "10.0.0.1", 2: "10.0.0.999"})
    assert_refused(start, NO_SERVER.format("CALLBRIDGES", 2, "10.0.0.999"))


@pytest.mark.parametrize(
    ("block", "numbers"),
    [
        (
            'WEBBRIDGES = {\n    1: "10.0.0.1",\n    2: "10.0.0.2",\n    1: "10.0.0.3",\n}',
            "[1, 2, 1]",
        ),
        ('WEBBRIDGES = {1: "10.0.0.1", 1: "10.0.0.2"}', "[1, 1]"),
        ('WEBBRIDGES = {\n    1: "10.0.0.1",  # rack {A}\n    1: "10.0.0.2",\n}', "[1, 1]"),
        ('WEBBRIDGES = {1: "10.0.0.1"}\nCALLBRIDGES = {3: "10.0.0.1", 3: "10.0.0.2"}', "[3, 3]"),
    ],
)
def test_block_with_one_number_twice(
    start: Callable[..., Ran], script: Path, block: str, numbers: str
) -> None:
    """Python keeps the last of them, and says nothing of the others."""
    script.write_text(f"{block}\n\n# ---- Limits ----\nNO_BLOCK = {{1: 1, 1: 2}}\n", "utf-8")
    assert_refused(start, NUMBER_TWICE.format(numbers))


def test_block_with_one_number_in_each_dict_and_in_a_comment(
    start: Callable[..., Ran], script: Path
) -> None:
    block = (
        'WEBBRIDGES = {\n    1: "10.0.0.1",\n    # 1: "10.0.0.2",\n}\nCALLBRIDGES = {1: "cms1"}\n'
    )
    script.write_text(f"{block}# ---- Limits ----\n", "utf-8")
    assert start("3").err == "WEBBRIDGES has no server 3. The nearest is 10.0.0.1.\n"


@pytest.mark.parametrize("value", ["", None, 0, 12345, b"admin", ["admin"]], ids=repr)
@pytest.mark.parametrize("name", ["MMP_USERNAME", "MMP_PASSWORD"])
def test_block_without_name_or_password(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    monkeypatch.setattr(webbridge_restart, name, value)
    assert_refused(start, NO_TEXT.format(name))


RIGHT = {
    "10.48.79.194": ("10.48.79.194", 22),
    "10.48.79.195:2222": ("10.48.79.195", 2222),
    " 10.48.79.196 ": ("10.48.79.196", 22),
    "10.48.79.197:65535": ("10.48.79.197", 65535),
    "[2001:db8::3]:22": ("2001:db8::3", 22),
    "[2001:DB8:0:0::4]": ("2001:db8::4", 22),
    "cms1": ("cms1", 22),
    "CMS2.Example.COM": ("cms2.example.com", 22),
    "cms_3.example.com:2222": ("cms_3.example.com", 2222),
    "xn--bcher-kva.example": ("xn--bcher-kva.example", 22),
    "4cms.example.com": ("4cms.example.com", 22),
    f"{'a' * 63}.example.com": (f"{'a' * 63}.example.com", 22),
}


def test_block_with_every_right_form(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def getaddrinfo(host: str, port: int, *_: object) -> object:
        called.append((host, port))
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(webbridge_restart, "WEBBRIDGES", dict(enumerate(RIGHT, 1)))
    ran = start()
    assert list(dict.fromkeys(called)) == list(RIGHT.values())
    assert ran.status == 1
    assert ran.log[::2] == [failed(address.strip(), "")[0] for address in RIGHT]
