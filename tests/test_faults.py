"""The fault matrix: one faulty server between two good ones, a row for each fault.

Each row says what is logged of the faulty server, and what it received. The good servers must be
restarted whatever happens between them. A row runs a restart over real SSH. How an answer is judged
stands as a table in test_answers.py. What needs more than one server that misbehaves, as a name
with several addresses or the reading of a log, is in test_wire.py.
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
from typing import NamedTuple, Union

import asyncssh
import paramiko
import pytest

import strict_mmp as strict
import webbridge_restart
from conftest import Run, address_of, failed, restarted, with_advice
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
from strict_mmp import StrictMMP

SECONDS_BETWEEN_TRIES = webbridge_restart.SECONDS_BETWEEN_TRIES  # before conftest shortens it
PARAMIKO = int(paramiko.__version__.partition(".")[0])
SECONDS_TO_HANG = 90  # then a test fails instead of waiting on

# ---- What faulty servers do ----------------------------------------------------------------------

LINES = b"One of very many lines that a server can send.\n" * 1330  # 62,510 bytes
FORGED = "2026-01-01 02:00:00.000000+00:00 Webbridge on server: 10.0.0.9 restarted successfully"
TO_A_TERMINAL = "\x1b[2J\x1b]0;owned\x07"  # clears it, and writes its title
Simulated = Callable[[], SimulatedMMP]
AnyMMP = Union[SimulatedMMP, StrictMMP]
KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")


def public(key: paramiko.PKey | asyncssh.SSHKey) -> str:
    """Return the host key as it stands in a known-hosts file: its type and its text."""
    if isinstance(key, paramiko.PKey):
        return f"{key.get_name()} {key.get_base64()}"
    return " ".join(key.export_public_key().decode().split()[:2])


def mmp(**settings: object) -> Simulated:
    return functools.partial(SimulatedMMP, **settings)  # type: ignore[arg-type]


def other_make(**settings: object) -> Callable[[], StrictMMP]:
    return functools.partial(StrictMMP, **settings)  # type: ignore[arg-type]


def answers(text: bytes, status: int | None = 0) -> Simulated:
    return mmp(restart=answer(text, status))


def in_turn(
    *steps: bytes | float | Callable[[paramiko.Channel], object],
) -> Simulated:
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
    for _ in range(64):  # 4 MB: more than fits into the window of an SSH channel
        channel.sendall(LINES)


def text_for_ever(channel: paramiko.Channel) -> None:
    while True:  # until the connection is closed, which raises OSError
        channel.sendall(LINES)


def wait_for_end_of_file(channel: paramiko.Channel) -> None:
    while channel.recv(1):
        pass


def dribble(channel: paramiko.Channel) -> None:
    while not channel.status_event.wait(0.2):
        channel.sendall(b"\n")


def hang_up(connection: paramiko.Transport | paramiko.Channel) -> int:
    """End the TCP connection; as what comes of a login, nothing but that."""
    transport = getattr(connection, "transport", connection)
    transport.sock.shutdown(socket.SHUT_RDWR)
    return paramiko.AUTH_FAILED


def say_goodbye(transport: paramiko.Transport) -> int:
    message = paramiko.Message()
    message.add_byte(bytes([1]))  # SSH_MSG_DISCONNECT
    message.add_int(11)  # by the application
    message.add_string("Goodbye")
    message.add_string("en")
    transport._send_message(message)
    return hang_up(transport)


def answer_and_close(transport: paramiko.Transport) -> int:
    (channel,) = transport._channels.values()
    channel.sendall(SUCCESS)
    channel.send_exit_status(0)
    channel.close()
    return 0


def ask_for_new_password(transport: paramiko.Transport) -> int:
    message = paramiko.Message()
    message.add_byte(bytes([60]))  # SSH_MSG_USERAUTH_PASSWD_CHANGEREQ
    message.add_string("Your password has expired. New password: ")
    message.add_string("en")
    transport._send_message(message)
    return paramiko.AUTH_FAILED


def refuse(transport: paramiko.Transport, methods: str) -> int:
    message = paramiko.Message()
    message.add_byte(bytes([51]))  # SSH_MSG_USERAUTH_FAILURE
    message.add_string(methods)
    message.add_boolean(False)
    transport._send_message(message)
    return paramiko.AUTH_FAILED


def refuse_and_hang_up(transport: paramiko.Transport) -> int:
    refuse(transport, "password")
    return hang_up(transport)


def refuse_and_offer_nothing(transport: paramiko.Transport) -> int:
    return refuse(transport, "")


def one_more_step(_: paramiko.Transport) -> int:
    return paramiko.AUTH_PARTIALLY_SUCCESSFUL


def says(*texts: bytes, then_ends: bool = False) -> Simulated:
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


def forgive_second_request(transport: paramiko.Transport) -> None:
    """Let a client log in a second time on the same connection, as many servers do."""
    transport.packetizer.read_message = transport.read_leniently


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


def instead_of_a_reply(
    end: Callable[[paramiko.Transport], int],
) -> Callable[[], AbstractContextManager[SimulatedMMP]]:
    """Return a server that ends the connection so when it gets the request for the command."""

    @contextlib.contextmanager
    def serve() -> Iterator[SimulatedMMP]:
        def drop() -> None:
            server.wait_for_commands()
            end(server.transports[0])

        with SimulatedMMP(stall="exec") as server:
            threading.Thread(target=drop, daemon=True).start()
            yield server

    return serve


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
TWICE = 0, 0, 2  # where keys are known, the second time to see which ones it has instead
SECOND_TRY = 1, 1, 2
# The password goes to the first connection. The simulated server records it even there.
ANSWERED = 1, 2, 2
ANSWERED_NO_COMMAND = 0, 2, 2


class Fault(NamedTuple):
    """A row: a server, and what is to be said of it and done to it."""

    name: str
    server: Callable[[], AbstractContextManager[AnyMMP | str]]
    reason: str = ""  # see filled_in(); there is none if the server is restarted
    came: tuple[int, int, int] = EVERYTHING
    timeout: float = 60.0
    known: tuple[str, ...] | None = None  # host keys; None: the server's own
    limits: tuple[tuple[str, float], ...] = ()  # of the script, as this row needs them


SHORT = 1.5  # the --timeout of a server that stalls
CUT_OFF = f"Cut off after {SHORT:g} s while"
MAYBE = " The restart may or may not have happened: check the Web Bridge before you run this again."
WAITING = "waiting for the answer."
HAD_ANSWERED = f"{CUT_OFF} {WAITING} It had answered: "
UNCLEAR = "The answer does not confirm the restart: {} (no exit status)." + MAYBE
LOST = "The connection broke off in the answer."
BROKEN = LOST + " It had answered: {}." + MAYBE
BROKE_OFF = "The connection broke off while"
BY_HAND = "by hand: ssh -p {port} admin@127.0.0.1"
REFUSED = (
    "Login refused; not retried, so as not to lock the account. Wrong user name or password "
    "(from MMP_PASSWORD in the environment), locked account, or an MMP 'user host' or 'user duty' "
    f"rule; or the server hung up. Try once {BY_HAND}"
)
ASKS_FOR_MORE = f"The server asks for more than a password. It may have expired. Log in {BY_HAND}"
KEYS_ONLY = "The server accepts no password, only publickey. Use an account that has one."
NO_SESSION = "The server refused a session (code {}). Too many sessions may be open."
NO_COMMAND_RUN = "The server refused to run the command."
NO_SSH = "No usable SSH answer from 127.0.0.1 port {port}. Is it an MMP? Is the server overloaded?"
TIMED_OUT = "Cannot connect to 127.0.0.1 port {port}: timed out (127.0.0.1)."
UNKNOWN_KEY = (
    "The host key is not in {known_hosts}: {shown}. No password was sent. Compare the fingerprint "
    "with the server's own, then store it with --check --accept-new-host-keys."
)
NEW_KEY = (
    "Shown: {shown}. No password was sent. This may be an attack. Only if you know that the "
    "server has a new key, delete the server's lines from {known_hosts} and store the new key with "
    "--check --accept-new-host-keys."
)
CHANGED_KEY = "The host key has CHANGED. Known: {known}. " + NEW_KEY
OTHER_TYPE = "The server has no host key of a known type ({known_types}). " + NEW_KEY
NOTHING_IN_COMMON = (
    "The server and paramiko {paramiko} have no algorithm in common: Incompatible ssh "
)
NO_CIPHER = f"{NOTHING_IN_COMMON}server (no acceptable ciphers)."
NO_KEY_EXCHANGE = f"{NOTHING_IN_COMMON}peer (no acceptable kex algorithm)."
if PARAMIKO >= 5:  # it dropped SHA-1
    NO_KEY_EXCHANGE += (
        " If the server offers nothing newer than SHA-1, run: "
        '"{python}" -m pip install "paramiko<5"'
    )

MORE_PATIENCE = (("LATE_OUTPUT_SECONDS", 2.0),)  # as a slow computer needs
SOON_OVER = (("LATE_STATUS_SECONDS", 0.3),)  # of an answer whose end never comes
SOON_KNOWN = (("HANG_UP_SECONDS", 0.3),)  # that the connection lives
ONE_TRY = (("TRY_SHARE", 1.0),)  # which may take all of the time
LINES_SHOWN = " | ".join(["One of very many lines that a server can send."] * 7)[:300]
NO_END_LINES = f"The answer does not end. It had answered: {LINES_SHOWN}....{MAYBE}"
LATE_LOOK = (*ONE_TRY, ("TICK", 0.7))  # at the clock, and still nothing else ends it before
THREE_QUICK_TRIES = (("TRY_SHARE", 0.4 / 60),)

ANSWERS = [
    Fault("success text and status 0", answers(SUCCESS)),
    Fault("silence and status 0", answers(b"")),
    Fault("success text without a status", answers(SUCCESS, None)),
    Fault("success text in pieces", in_turn(b"SUC", 0.1, b"CESS: Webbridge", close)),
    Fault("success after a while", in_turn(0.7, SUCCESS, exit_status(0), close)),
    Fault(
        "success, and a line that only begins like a failure",
        answers(b"SUCCESS: done\nErrors: 0\n"),
    ),
    Fault("status while a child keeps the channel open", in_turn(SUCCESS, exit_status(0))),
    Fault("status while a child dribbles on", in_turn(SUCCESS, exit_status(0), dribble)),
    Fault(
        "success text, and after our end of file a status while a child dribbles on",
        in_turn(SUCCESS, wait_for_end_of_file, exit_status(0), dribble),
    ),
    Fault(
        "success text, but neither status nor end",
        in_turn(SUCCESS),
        f"{HAD_ANSWERED}SUCCESS: Webbridge restarted.{MAYBE}",
        timeout=SHORT,
        limits=ONE_TRY,
    ),
    Fault("success text and end of file, no more", in_turn(SUCCESS, end_of_file), limits=SOON_OVER),
    Fault(
        "success text and end of file, and after a while status 1",
        in_turn(SUCCESS, end_of_file, 0.5, exit_status(1), close),
        "The server answered: SUCCESS: Webbridge restarted (exit status 1)",
    ),
    Fault(
        "success text, then the connection drops",
        in_turn(SUCCESS, hang_up),
        BROKEN.format("SUCCESS: Webbridge restarted"),
    ),
    Fault("4 MB of text, then status 0", in_turn(much_text, exit_status(0), close), NO_END_LINES),
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
        "FAILURE, but neither status nor end",
        in_turn(b"FAILURE: b\n"),
        "The server answered: FAILURE: b",
        timeout=SHORT,
        limits=ONE_TRY,
    ),
    Fault(
        "FAILURE in pieces",
        in_turn(b"SUCCESS: a\nFAI", 0.1, b"LURE: b", exit_status(0), close),
        "The server answered: FAILURE: b",
    ),
    Fault(
        "FAILURE long after SUCCESS",  # when the script has ended its side
        in_turn(b"SUCCESS: a\n", 1.0, b"FAILURE: b\n", exit_status(0), close),
        "The server answered: FAILURE: b",
    ),
    Fault(
        "FAILURE among the errors",
        in_turn(SUCCESS, lambda c: c.sendall_stderr(b"FAILURE: b\n"), exit_status(0), close),
        "The server answered: FAILURE: b",
    ),
    Fault(
        "FAILURE after much text",
        in_turn(LINES, b"FAILURE: after all\n", exit_status(0), close),
        "The server answered: FAILURE: after all",
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
    ),
    Fault(
        "a long FAILURE line",
        answers(b"FAILURE: " + 1000 * b"x"),
        f"The server answered: FAILURE: {291 * 'x'}...",
    ),
    Fault(
        "unknown command",
        answers(b"Unknown command: webbridge\n", 1),
        "The server answered: Unknown command: webbridge (exit status 1). CMS 3.0 and newer have "
        "no Web Bridge 2.",
    ),
    Fault(
        "unknown command and status 0",
        answers(b"Unknown command: webbridge\n"),
        "The server answered: Unknown command: webbridge. CMS 3.0 and newer have no Web Bridge 2.",
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
        "bytes that are not UTF-8",
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
        "never answers the exec request",
        mmp(stall="exec"),
        f"{CUT_OFF} {WAITING}{MAYBE}",
        timeout=SHORT,
        limits=ONE_TRY,
    ),
    Fault(
        "never answers the command",
        in_turn(),
        f"{CUT_OFF} {WAITING}{MAYBE}",
        timeout=SHORT,
        limits=ONE_TRY,
    ),
    Fault(
        "dribbles",
        in_turn(b"Restarting", dribble),
        f"{HAD_ANSWERED}Restarting.{MAYBE}",
        timeout=SHORT,
        limits=ONE_TRY,
    ),
    Fault(
        "stops in the middle of the answer",
        in_turn(f"Restarting\n{FORGED}\r{TO_A_TERMINAL}\nSUCCESS: a".encode()),
        rf"{HAD_ANSWERED}Restarting | {FORGED} | \x1b[2J\x1b]0;owned\x07 | SUCCESS: a.{MAYBE}",
        timeout=SHORT,
        limits=ONE_TRY,
    ),
    Fault(
        "sends text for ever",
        in_turn(text_for_ever),
        NO_END_LINES,
    ),
    Fault(
        "stalls while the channel opens",
        mmp(stall="channel"),
        f"{CUT_OFF} opening a session.",
        NO_COMMAND,
        timeout=SHORT,
        limits=LATE_LOOK,
    ),
    Fault(
        "stalls during the login",
        mmp(stall="login"),
        f"{CUT_OFF} logging in.",
        NO_COMMAND,
        timeout=SHORT,
        limits=LATE_LOOK,
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
        limits=ONE_TRY,
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
    Fault("says goodbye during the login", mmp(right_password=say_goodbye), REFUSED, NO_COMMAND),
    Fault(
        "refuses the login and drops", mmp(right_password=refuse_and_hang_up), REFUSED, NO_COMMAND
    ),
    Fault(
        "drops instead of a reply to the exec request",
        instead_of_a_reply(hang_up),
        LOST + MAYBE,
    ),
    Fault(
        "says goodbye instead of a reply to the exec request",
        instead_of_a_reply(say_goodbye),
        LOST + MAYBE,
    ),
    Fault(
        "success text and status 0 instead of a reply to the exec request",
        instead_of_a_reply(answer_and_close),
    ),
    Fault("drops after the command", in_turn(hang_up), LOST + MAYBE),
    *(
        Fault(
            f"drops in the answer, after {cut}", in_turn(cut.encode(), hang_up), BROKEN.format(cut)
        )
        for cut in ("SUCCES", "SUCCESS: a")
    ),
    Fault(
        "drops in the answer, after a FAILURE",
        in_turn(b"FAILURE: b", hang_up),
        "The server answered: FAILURE: b",
    ),
    Fault(
        "drops after a success line and half of another line",
        in_turn(b"SUCCESS: a\nFAIL", hang_up),
        BROKEN.format("SUCCESS: a | FAIL"),
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
        "Cannot resolve cms9.invalid. Check the name in WEBBRIDGES, and DNS.",
    ),
    Fault("a name that does not resolve at first", known_by_name),
    Fault("a wrong password", mmp(password="another"), REFUSED, NO_COMMAND),
    Fault(
        "a wrong password, where keyboard-interactive is on offer too",
        mmp(methods="password,keyboard-interactive", password="another"),
        REFUSED,
        NO_COMMAND,
    ),
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
        ANSWERED_NO_COMMAND,
    ),
    Fault(
        "an expired password, keyboard-interactive that asks twice at once",
        mmp(methods="keyboard-interactive", questions=[["Password: "], ["New: ", "Again: "]]),
        ASKS_FOR_MORE,
        ANSWERED_NO_COMMAND,
    ),
    Fault("keyboard-interactive only", mmp(methods="keyboard-interactive"), came=ANSWERED),
    Fault(
        "keyboard-interactive that has a word to say after the password",
        mmp(methods="publickey,keyboard-interactive", questions=[["Password: "], []]),
        came=ANSWERED,
    ),
    Fault(
        "keyboard-interactive, and a wrong password",
        mmp(methods="keyboard-interactive", password="another"),
        REFUSED,
        ANSWERED_NO_COMMAND,
    ),
    Fault(
        "keyboard-interactive that asks two questions at once",
        mmp(methods="keyboard-interactive", questions=[["Password: ", "Token: "]]),
        ASKS_FOR_MORE,
        (0, 1, 2),
    ),
    Fault(
        "keyboard-interactive that asks for something that is no secret",
        mmp(methods="keyboard-interactive", questions=[["User name: "]], echo=True),
        ASKS_FOR_MORE,
        (0, 1, 2),
    ),
    Fault(
        "keyboard-interactive that would go on with the first connection",
        mmp(
            methods="keyboard-interactive",
            questions=[["Password: "], ["New password: "]],
            set_up=forgive_second_request,
        ),
        ASKS_FOR_MORE,
        ANSWERED_NO_COMMAND,
    ),
    Fault(
        "refuses the login and offers nothing else",
        mmp(right_password=refuse_and_offer_nothing),
        REFUSED,
        NO_COMMAND,
    ),
    Fault("keys only", mmp(methods="publickey"), KEYS_ONLY, NO_COMMAND),
    Fault(
        "a second factor after the password",
        mmp(methods="password,keyboard-interactive", right_password=one_more_step),
        ASKS_FOR_MORE,
        NO_COMMAND,
    ),
    Fault("too many sessions", mmp(refuse_channels=True), NO_SESSION.format(4), NO_COMMAND),
    Fault("refuses the exec request", mmp(refuse_exec=True), NO_COMMAND_RUN, limits=SOON_KNOWN),
    Fault("an unknown host key", mmp(), UNKNOWN_KEY, NO_LOGIN, known=()),
    Fault("a changed host key", mmp(), CHANGED_KEY, NO_LOGIN, known=(public(ed25519_key()),)),
    Fault(
        "a server known by another type of key only",
        mmp(),
        OTHER_TYPE,
        TWICE,
        known=(public(rsa_key()),),
    ),
    Fault(
        "a server with two keys, known by the second",
        mmp(set_up=lambda transport: transport.add_server_key(rsa_key())),
        known=(public(rsa_key()),),
    ),
    Fault(
        "a server that speaks only SHA-1",
        mmp(host_key=rsa_key(), set_up=only_sha1)
        if PARAMIKO < 5
        else says(b"SSH-2.0-old\r\n", sha1_offer()),
        *((NO_KEY_EXCHANGE, TWICE) if PARAMIKO >= 5 else ()),
    ),
]

# A server made of paramiko cannot see what paramiko itself gets wrong.
OTHER_MAKE = [
    Fault("success", other_make()),
    Fault(
        "FAILURE",
        other_make(restart=strict.answer(b"FAILURE: b\n", 1)),
        "The server answered: FAILURE: b (exit status 1)",
    ),
    Fault("pieces", other_make(restart=strict.answer_in_pieces([b"SUC", b"CESS: a"], 0.1))),
    Fault("a slow check of the password", other_make(seconds_for_password=1.0)),
    Fault("a wrong password", other_make(password="another"), REFUSED, NO_COMMAND),
    Fault(
        "a wrong password, where keyboard-interactive is on offer too",
        other_make(methods="password,keyboard-interactive", password="another"),
        REFUSED,
        NO_COMMAND,
    ),
    Fault("keyboard-interactive only", other_make(methods="keyboard-interactive"), came=(1, 1, 2)),
    Fault(
        "keyboard-interactive, and a wrong password",
        other_make(methods="keyboard-interactive", password="another"),
        REFUSED,
        (0, 1, 2),
    ),
    Fault(
        "keyboard-interactive that asks for a new password",
        other_make(
            methods="keyboard-interactive", questions=[["Password: "], ["New: ", "Again: "]]
        ),
        ASKS_FOR_MORE,
        (0, 1, 2),
    ),
    Fault(
        "keyboard-interactive that asks two questions at once",
        other_make(methods="keyboard-interactive", questions=[["Password: ", "Token: "]]),
        ASKS_FOR_MORE,
        TWICE,
    ),
    Fault("keys only", other_make(methods="publickey"), KEYS_ONLY, NO_LOGIN),
    Fault(
        "a second factor after the password",
        other_make(second_factor="keyboard-interactive"),
        ASKS_FOR_MORE,
        NO_COMMAND,
    ),
    Fault("too many sessions", other_make(refuse_channels=True), NO_SESSION.format(2), NO_COMMAND),
    Fault(
        "refuses the exec request", other_make(refuse_exec=True), NO_COMMAND_RUN, limits=SOON_KNOWN
    ),
    Fault(
        "waits for the end of file, then status 0",
        other_make(restart=strict.answer_then_wait_for_end_of_file()),
    ),
    Fault(
        "waits for the end of file, then closes without a status",
        other_make(restart=strict.answer_then_wait_for_end_of_file(SUCCESS, None)),
    ),
    Fault(
        "waits for the end of file after FAILURE",
        other_make(restart=strict.answer_then_wait_for_end_of_file(b"FAILURE: b\n", 1)),
        "The server answered: FAILURE: b (exit status 1)",
    ),
    Fault(
        "success text, but neither status nor end",
        other_make(restart=strict.answer_then_stay()),
        f"{HAD_ANSWERED}SUCCESS: Webbridge restarted.{MAYBE}",
        timeout=SHORT,
        limits=ONE_TRY,
    ),
    Fault(
        "FAILURE, but neither status nor end",
        other_make(restart=strict.answer_then_stay(b"FAILURE: b\n")),
        "The server answered: FAILURE: b",
        timeout=SHORT,
        limits=ONE_TRY,
    ),
    Fault(
        "half an answer, and neither status nor end",
        other_make(restart=strict.answer_then_stay(b"SUCCESS: a")),
        f"{HAD_ANSWERED}SUCCESS: a.{MAYBE}",
        timeout=SHORT,
        limits=ONE_TRY,
    ),
    Fault(
        "success text and end of file, no more",
        other_make(restart=strict.answer_then_end_of_file()),
        limits=SOON_OVER,
    ),
    Fault(
        "other text and end of file, no more",
        other_make(restart=strict.answer_then_end_of_file(b"ok\n")),
        UNCLEAR.format("ok"),
        limits=SOON_OVER,
    ),
    Fault(
        "drops in the middle of a success line",
        other_make(restart=strict.answer_then_hang_up(b"SUCCESS: a")),
        BROKEN.format("SUCCESS: a"),
    ),
    Fault(
        "success text, then the connection drops",
        other_make(restart=strict.answer_then_hang_up()),
        BROKEN.format("SUCCESS: Webbridge restarted"),
    ),
    *(
        Fault(
            f"keys of three types, known by {kind}",  # an RSA key that signs no SHA-1
            other_make(host_keys=[strict.key(each) for each in KEY_TYPES]),
            known=(public(strict.key(kind)),),
        )
        for kind in KEY_TYPES
    ),
    Fault(
        "an RSA key, known by that and by one that it no longer has",
        other_make(host_keys=[strict.key("ssh-rsa")]),
        known=(public(strict.key("ecdsa-sha2-nistp256")), public(strict.key("ssh-rsa"))),
    ),
    Fault("an unknown host key", other_make(), UNKNOWN_KEY, NO_LOGIN, known=()),
    Fault(
        "a changed host key, beside newer ones",
        other_make(host_keys=[strict.key("ssh-rsa"), strict.key("ssh-ed25519")]),
        CHANGED_KEY,
        NO_LOGIN,
        known=(public(strict.key("ssh-rsa", 2)),),
    ),
    Fault(
        "newer keys only, known by RSA",
        other_make(),
        OTHER_TYPE,
        TWICE,
        known=(public(strict.key("ssh-rsa")),),
    ),
    Fault(
        "a newer key exchange only",
        other_make(options={"kex_algs": ["diffie-hellman-group18-sha512"]}),
        NO_KEY_EXCHANGE,
        TWICE,
    ),
    Fault(
        "a newer cipher only",
        other_make(options={"encryption_algs": ["chacha20-poly1305@openssh.com"]}),
        NO_CIPHER,
        TWICE,
    ),
]


ROWS = [
    *(pytest.param(fault, id=fault.name) for fault in ANSWERS + STALLS + DROPS + REFUSALS),
    *(pytest.param(fault, id=f"other make: {fault.name}") for fault in OTHER_MAKE),
]


def described(host_key: str) -> str:
    """Return the type and the fingerprint of a host key."""
    kind, text = host_key.split()
    digest = hashlib.sha256(base64.b64decode(text)).digest()
    return f"{kind} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def filled_in(fault: Fault, server: AnyMMP | str, known_hosts: Path) -> str:
    """Return the reason as it must be in the log."""
    shown = "" if isinstance(server, str) else described(server.known_hosts_line.partition(" ")[2])
    known = sorted(map(described, fault.known or ()))
    return fault.reason.format(
        port=address_of(server).rpartition(":")[2],
        known_hosts=known_hosts,
        known=", ".join(known),
        known_types=", ".join(each.partition(" ")[0] for each in known),
        shown=shown,
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


@pytest.mark.parametrize("fault", ROWS)
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
        if not isinstance(faulty, str):
            name, _, own_key = faulty.known_hosts_line.partition(" ")
            keys = (own_key,) if fault.known is None else fault.known
            lines += [f"{name} {key}" for key in keys]
        known_hosts.write_text("".join(f"{line}\n" for line in lines))
        ran = run([before, faulty, after], "--timeout", f"{fault.timeout:g}")

    reason = filled_in(fault, faulty, known_hosts)
    told = failed(faulty, reason) if reason else [restarted(faulty)]
    assert ran.log == [restarted(before), *told, restarted(after)]
    assert ran.status == (1 if reason else 0)
    began = re.escape(f"[2/3] {address_of(faulty)} FAILED after ")
    line = rf"{began}\d+\.\d s: {re.escape(with_advice(reason))}\n"
    assert re.fullmatch(line if reason else "", ran.err), ran.err
    assert before.commands == after.commands == ["webbridge restart"]
    assert before.passwords == after.passwords == [PASSWORD]
    if not isinstance(faulty, str):
        commands, passwords, connections = fault.came
        assert faulty.commands == ["webbridge restart"] * commands
        assert faulty.passwords == [PASSWORD] * passwords
        assert faulty.connections == connections


def test_what_came_before_the_status_is_read_however_slowly(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = paramiko.Channel.recv

    def recv(channel: paramiko.Channel, size: int) -> bytes:
        threading.Event().wait(0.01)
        return real(channel, size)

    def act(channel: paramiko.Channel) -> None:
        for _ in range(33):  # as much as is sent without waiting for the reader
            channel.sendall(LINES)
        answer(b"FAILURE: after all\n")(channel)

    monkeypatch.setattr(paramiko.Channel, "recv", recv)
    monkeypatch.setattr(webbridge_restart, "LATE_OUTPUT_SECONDS", 0.02)
    monkeypatch.setattr(webbridge_restart, "MAX_ANSWER_BYTES", 1 << 22)
    with SimulatedMMP(restart=act) as server:
        ran = run([server])
    assert ran.log == failed(server, "The server answered: FAILURE: after all")


def test_all_tries_fit_into_the_time_of_a_server() -> None:
    """Otherwise the cut-off takes the place of the reason why nothing answers."""
    tries = webbridge_restart.CONNECT_TRIES
    seconds = tries * webbridge_restart.TRY_SHARE * webbridge_restart.SECONDS_PER_SERVER
    seconds += (tries - 1) * SECONDS_BETWEEN_TRIES
    assert seconds < webbridge_restart.SECONDS_PER_SERVER
