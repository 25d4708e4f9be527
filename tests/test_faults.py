"""The fault matrix: a faulty server and then a good one, a row a fault; and what is sent.

Each row says what is logged of the faulty server, and what it received. The good one must be
restarted whatever happened before it. All of it is real SSH. How the end of an answer is judged
is in test_ends.py, and what is sent how often, on mocked connections, in test_decisions.py.
"""

from __future__ import annotations

import contextlib
import functools
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Union

import paramiko
import pytest

import steps
import webbridge_restart
from conftest import DOUBT, Clock, Run, address_of, failed, restarted, with_advice
from mmp import MMP, PASSWORD, PATIENCE, key, public
from steps import FOREVER, LINES, SUCCESS, answer, says, status, wait_until_received

NEW = int(paramiko.__version__.partition(".")[0]) >= 5  # which dropped SHA-1
CLOCK = Clock()
Faulty = Callable[[], AbstractContextManager[Union[MMP, str]]]

NAME = "cms9.invalid"

# ---- Faulty servers ------------------------------------------------------------------------------


def mmp(**settings: Any) -> Faulty:
    return functools.partial(MMP, **settings)


def asks(*rounds: Sequence[str], **settings: Any) -> Faulty:
    return mmp(methods="keyboard-interactive", questions=rounds, **settings)


@contextlib.contextmanager
def named() -> Iterator[MMP]:
    """Yield a server that has a name, which is found the second time. Its first address refuses."""
    usual, look_ups = socket.getaddrinfo, 0

    def getaddrinfo(host: str, port: int, *others: Any) -> Any:
        nonlocal look_ups
        if host != NAME:
            return usual(host, port, *others)
        look_ups += 1
        if look_ups == 1:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [*usual("::1", port, *others), *usual("127.0.0.1", port, *others)]

    with pytest.MonkeyPatch.context() as patch, MMP() as server:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        server.host, server.address = NAME, f"{NAME}:{server.port}"
        yield server


# ---- What is said of them ------------------------------------------------------------------------

MAYBE = f" {DOUBT}"
HEARD = " It had answered: "
NO_SESSION = "The connection broke off while opening a session."
TOO_MANY = "The server refused to open a session (code 4). Too many sessions may be open."
KEYS_ONLY = "The server accepts no password, only {}. Use an account that logs in with a password."
BY_HAND = "ssh -p {port} admin@127.0.0.1"
REFUSED = (
    "Login refused. The password was sent once and is not sent again. Check it (from MMP_PASSWORD "
    f"in the environment), then try once by hand ({BY_HAND}). Other causes: a locked account, an "
    "MMP 'user host' or 'user duty' rule, or the server hung up."
)
REFUSED_TWICE = REFUSED.replace("once and", "twice, the second time as an answer, and")
NOT_ALONE = (
    "The server did not let this script in with the password alone. The password may have expired, "
    f"or the server asks for more. Log in once by hand: {BY_HAND}"
)
NO_PORT = "[Errno None] Unable to connect to port {port} on 127.0.0.1"
TIMED_OUT = "Timed out after 18 s while connecting to 127.0.0.1 port {port}."
OVERLOADED = " Is it an MMP? Is the server overloaded?"
ANYTHING = "ANYTHING"  # what paramiko says of a drop differs from system to system
SHA_1 = (
    ' If the server offers nothing newer than SHA-1, run: "{python}" -m pip install "paramiko<5"'
)
FORGED = "2026-01-01 02:00:00.000000+00:00 Webbridge on server: 10.0.0.9 restarted successfully"
DRIVES = "\x1b[2J\x1b]0;owned\x07"  # clears a terminal, and writes its title
DRIVES_SHOWN = r"\x1b[2J\x1b]0;owned\x07"
LINES_SHOWN = " | ".join(LINES.decode().splitlines())[:300]
TOO_LONG = "The answer is longer than any command's, so the rest was not heard."
NO_END = f"{TOO_LONG}{HEARD}{LINES_SHOWN}....{MAYBE}"
SAID = "The server answered: "
KILLED = f"The answer does not confirm the restart: nothing (no exit status).{MAYBE}"
NO_EXEC = "The server refused to run the command."
SHOWN = (
    " Shown: {shown}. The password was not sent to it. This may be an attack. Only if you know "
    'that the server has a new key, delete the old one (ssh-keygen -R "[127.0.0.1]:{port}" -f '
    '"{known_hosts}"), then store the new one with --check --accept-new-host-keys.'
)
CHANGED = "The host key has CHANGED. Known: {known}." + SHOWN
OTHER_TYPE = "The server has no host key of a known type: {types}." + SHOWN
NEW_KEY = (
    "New host key, not trusted yet: {shown}. It is not in {known_hosts}. The password was not sent "
    "to it. Compare the fingerprint with the server's own, then store the key with --check "
    "--accept-new-host-keys."
)


def cut_off(doing: str) -> str:
    return f"Cut off after 60 s while {doing}. A slow server needs a higher --timeout."


def no_ssh(said: str) -> str:
    return f"No usable SSH answer from 127.0.0.1 port {{port}}: {said}.{OVERLOADED}"


def too_slow(seconds: int) -> str:
    place = "127.0.0.1 port {port}"
    return f"Timed out after {seconds} s in the SSH handshake with {place}.{OVERLOADED}"


def nothing_in_common(what: str, is_old: bool = False) -> str:
    words = "The server and paramiko {paramiko} have no algorithm in common: Incompatible "
    return f"{words}{what}." + (SHA_1 if is_old and NEW else "")


# ---- The matrix ----------------------------------------------------------------------------------

# Commands, passwords and connections that come to a faulty server. asyncssh reads no password where
# it accepts none, so the one before a question does not count.
EVERYTHING, NO_COMMAND, NO_LOGIN, THREE_TRIES = (1, 1, 1), (0, 1, 1), (0, 0, 1), (0, 0, 3)
ANSWERED, IN_VAIN, BOTH_READ, NOT_ANSWERED = (1, 1, 2), (0, 1, 2), (0, 2, 2), (0, 0, 2)
LOGIN_SERVICE = 5  # the number of SSH's message
ED25519, ECDSA, RSA = "ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"


class Fault(NamedTuple):
    """A row: a server, and what is to be said of it and done to it."""

    name: str
    server: Faulty
    reason: str = ""  # as filled_in() completes it; there is none if the server is restarted
    came: tuple[int, int, int] = EVERYTHING
    has: tuple[str, ...] = (ED25519,)  # the server's host keys: a type, and perhaps a number
    known: tuple[str, ...] | None = None  # those in the known-hosts file; None: what it has
    is_quick: bool = False  # whether paramiko and the system do not wait for it as long as told
    options: tuple[str, ...] = ()


BANNER = b"SSH-2.0-simulated\r\n"
WAITING = cut_off("waiting for the answer")
UP = [wait_until_received, CLOCK.time_is_up]
HIDES = [b"Restarting", *UP, steps.dribble()]
SILENT = (too_slow(18), THREE_TRIES, (ED25519,), None, True)
PATIENT = (too_slow(180), *SILENT[1:], ("--timeout", "600"))
STALLS = [
    Fault("a dribbled banner", mmp(raw=steps.dribbles), *SILENT),
    Fault("no key exchange, where there is more time", mmp(raw=says(BANNER)), *PATIENT),
    Fault("no login", mmp(login=[*UP[1:], FOREVER]), cut_off("logging in"), NO_COMMAND),
    Fault("no session", mmp(session=[*UP[1:], FOREVER]), cut_off("opening a session"), NO_COMMAND),
    Fault("a dribbled answer", mmp(restart=HIDES), f"{WAITING}{HEARD}Restarting.{MAYBE}"),
    Fault("text for ever", mmp(restart=[steps.dribble(LINES, 0)]), NO_END),
    Fault("a full backlog", steps.full_backlog, TIMED_OUT, is_quick=True),
]

RAW_ENDS = {"a FIN": steps.ends, "a reset": steps.resets, "a goodbye": steps.says_goodbye}
ENDS = {"a FIN": steps.hang_up, "a reset": steps.reset, "a goodbye": steps.goodbye}
DROPS = [
    *(
        Fault(f"{name} {when}", mmp(raw=says(text, end)), no_ssh(ANYTHING), THREE_TRIES)
        for when, text in (("before the banner", b""), ("in the key exchange", BANNER))
        for name, end in RAW_ENDS.items()
    ),
    Fault("nonsense in the login", mmp(login=[steps.nonsense, FOREVER]), NOT_ALONE, NO_COMMAND),
    *(
        fault
        for name, end in ENDS.items()
        for fault in (
            Fault(f"{name} in the login", mmp(login=[end, FOREVER]), REFUSED, NO_COMMAND),
            Fault(f"{name} in the session", mmp(session=[end, FOREVER]), NO_SESSION, NO_COMMAND),
        )
    ),
]

WEB_SERVER = says(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", steps.ends)
NO_BANNER = "Error reading SSH protocol banner"
HOSTILE_BANNER = says(f"{FORGED}\r{DRIVES}\n".encode() * 200)
BAD_BANNER = f'Indecipherable protocol version "{FORGED} | {DRIVES_SHOWN}"'
NEW_KEX = {"kex_algs": ["diffie-hellman-group18-sha512"]}
NEW_CIPHER = {"encryption_algs": ["chacha20-poly1305@openssh.com"]}
NO_KEX = nothing_in_common("ssh peer (no acceptable kex algorithm)", is_old=True), NO_LOGIN
NO_KEY = nothing_in_common("ssh peer (no acceptable host key)", is_old=True), NO_LOGIN
NO_SSH_2 = nothing_in_common("version (1.5 instead of 2.0)", is_old=True), NO_LOGIN
NO_CIPHER = nothing_in_common("ssh server (no acceptable ciphers)"), NO_LOGIN
FINE = "", EVERYTHING
STRANGERS = [
    Fault("a closed port", steps.refusing_address, NO_PORT),
    Fault("a web server", mmp(raw=WEB_SERVER), no_ssh(NO_BANNER), THREE_TRIES),
    Fault("a hostile banner", mmp(raw=HOSTILE_BANNER), no_ssh(BAD_BANNER), THREE_TRIES),
    Fault("SSH 1", mmp(raw=says(b"SSH-1.5-old\r\n")), *NO_SSH_2),
    Fault("a bad signature", mmp(bad_signature=True), no_ssh(ANYTHING), THREE_TRIES),
    Fault("SHA-1 host key", mmp(signs_sha1=True), *(NO_KEY if NEW else FINE), (RSA,)),
    Fault("newer key exchange", mmp(options=NEW_KEX), *NO_KEX),
    Fault("newer cipher", mmp(options=NEW_CIPHER), *NO_CIPHER),
    Fault("a name", named),
]

WRONG = {"password": "another"}
EITHER = {"methods": "password,keyboard-interactive"}
SECOND = {"is_first_factor": True, "methods_left": "keyboard-interactive"}
CHANGES = {"methods_left": "keyboard-interactive"}  # and then there is no question
LEFT = {**EITHER, "methods_left": "keyboard-interactive"}
HOSTILE_METHODS = steps.refuse_and_name(b"publickey", DRIVES.encode(), b"x" * 400)
HOSTILE_SHOWN = KEYS_ONLY.format(f"publickey, {DRIVES_SHOWN}, {'x' * 400}"[:300] + "...")
LOGINS = [
    Fault("a wrong password, or a question", mmp(**WRONG, **EITHER), REFUSED, NO_COMMAND),
    Fault("a wrong password, then a question only", mmp(**WRONG, **LEFT), REFUSED_TWICE, BOTH_READ),
    Fault("a wrong password, then nothing", mmp(**WRONG, methods_left=""), REFUSED, NO_COMMAND),
    Fault("a wrong password, a change of mind", mmp(**WRONG, **CHANGES), REFUSED, IN_VAIN),
    Fault("hostile names of methods", mmp(login=[HOSTILE_METHODS]), HOSTILE_SHOWN, NO_COMMAND),
    Fault("a question, and a word after it", asks(["Password: "], []), "", ANSWERED),
    Fault("a question, and wrong", asks(["Password: "], **WRONG), REFUSED_TWICE, IN_VAIN),
    Fault("two questions at once", asks(["Password: ", "Token: "]), NOT_ALONE, NOT_ANSWERED),
    Fault("expired, one question", asks(["Password: "], ["New: "]), NOT_ALONE, IN_VAIN),
    Fault("expired, a request", mmp(login=[steps.ask_for_new_password]), NOT_ALONE, NO_COMMAND),
    Fault("a second factor, a question", mmp(**SECOND), NOT_ALONE, NO_COMMAND),
    Fault("no session left", mmp(has_sessions=False), TOO_MANY, NO_COMMAND),
    Fault("exec refused", mmp(reply="refused", restart=()), NO_EXEC),
]

HOST_KEYS = [
    Fault(name, mmp(), reason, came, has, known)
    for name, reason, came, has, known in (
        ("a new key", NEW_KEY, NO_LOGIN, (ED25519,), ()),
        ("neither of two", CHANGED, NO_LOGIN, (ED25519,), (f"{ED25519} 3", f"{ED25519} 2")),
        ("a changed key of two", CHANGED, NO_LOGIN, (RSA, ED25519), (f"{RSA} 2",)),
        ("another type than two", OTHER_TYPE, NO_LOGIN, (ED25519,), (RSA, ECDSA)),
        ("three types, RSA is known", *FINE, (ED25519, ECDSA, RSA), (RSA,)),
        ("two of a type, the second is right", *FINE, (ED25519,), (f"{ED25519} 2", ED25519)),
    )
]

FAILURE = b"FAILURE: b\n"
ON_STDERR = mmp(restart=[SUCCESS, steps.errors(FAILURE), status(0), steps.close])
HOSTILE = f"FAILURE: x\n{FORGED}\u2028{FORGED}\r{DRIVES}".encode() + b"\xff\n"
HOSTILE_ANSWER = f"{SAID}FAILURE: x | {FORGED} | {FORGED} | {DRIVES_SHOWN}\\xff"
ANSWERS = [
    Fault("FAILURE among the errors", ON_STDERR, f"{SAID}FAILURE: b"),
    Fault("killed by a signal", mmp(restart=[steps.exit_signal]), KILLED),
    Fault("a hostile answer", mmp(restart=answer(HOSTILE)), HOSTILE_ANSWER),
]


def filled_in(fault: Fault, faulty: MMP | str, known_hosts: Path) -> str:
    """Return the reason as it must be in the log."""

    def described(name: str) -> str:
        return f"{name.split()[0]} {key(name).get_fingerprint()}"

    known = fault.known or ()
    return fault.reason.format(
        port=address_of(faulty).rpartition(":")[2],
        known_hosts=known_hosts,
        shown=described(fault.has[0]),
        known=", ".join(map(described, known)),
        types=", ".join(sorted(name.split()[0] for name in known)),
        paramiko=paramiko.__version__,
        python=sys.executable,
    )


@pytest.fixture(scope="module")
def good() -> Iterator[MMP]:
    with MMP() as server:
        yield server


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    CLOCK.use(monkeypatch)


def be_quick(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Shorten what paramiko and the system wait for this server; the script names its own limit.

    Its clock stands still, so that the limit has no fraction.
    """
    start_client, create = paramiko.Transport.start_client, socket.create_connection

    def start_quickly(transport: paramiko.Transport, timeout: float) -> None:
        start_client(transport, timeout=0.1 if transport.getpeername()[1] == port else timeout)

    def create_quickly(address: tuple[str, int], timeout: float) -> socket.socket:
        return create(address, 0.1 if address[1] == port else timeout)

    monkeypatch.setattr(paramiko.Transport, "start_client", start_quickly)
    monkeypatch.setattr(socket, "create_connection", create_quickly)
    now = CLOCK.monotonic()
    monkeypatch.setattr(webbridge_restart.time, "monotonic", lambda: now)
    monkeypatch.setattr(webbridge_restart, "SECONDS_BETWEEN_TRIES", 0.0)


ROWS = [*STALLS, *DROPS, *STRANGERS, *LOGINS, *HOST_KEYS, *ANSWERS]
if sys.platform != "linux":  # other systems refuse what is more than the backlog
    ROWS = [fault for fault in ROWS if fault.name != "a full backlog"]


@pytest.mark.parametrize("fault", ROWS, ids=[fault.name for fault in ROWS])
def test_fault(
    fault: Fault,
    good: MMP,
    run: Run,
    known_hosts: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good.commands.clear()
    good.passwords.clear()
    with fault.server() as faulty:
        lines = [good.known_hosts_line]
        if isinstance(faulty, MMP):
            faulty.host_keys = [key(name) for name in fault.has]
            name = faulty.known_hosts_line.split()[0]
            known = fault.has if fault.known is None else fault.known
            lines += [f"{name} {public(key(each))}" for each in known]
        known_hosts.write_text("".join(f"{line}\n" for line in lines))
        if fault.is_quick:
            be_quick(monkeypatch, int(address_of(faulty).rpartition(":")[2]))
        ran = run([faulty, good], *fault.options)

    reason = filled_in(fault, faulty, known_hosts)
    told = failed(faulty, reason) if reason else [restarted(faulty)]
    pattern = re.escape("\n".join([*told, restarted(good)]))
    assert re.fullmatch(pattern.replace(ANYTHING, ".*"), "\n".join(ran.log)), ran.log
    assert ran.status == (1 if reason else 0)
    line = re.escape(f"Server 1 ({address_of(faulty)}) FAILED after ") + r"\d+\.\d s: "
    line += re.escape(f"{with_advice(reason)}\n").replace(ANYTHING, ".*")
    assert re.fullmatch(line if reason else "", ran.err), ran.err
    assert good.commands == ["webbridge restart"]
    assert good.passwords == [PASSWORD]
    if isinstance(faulty, MMP):
        commands, passwords, connections = fault.came
        assert faulty.commands == ["webbridge restart"] * commands
        assert faulty.passwords == [PASSWORD] * passwords
        assert faulty.connections == connections
        assert faulty.messages.count(LOGIN_SERVICE) <= connections  # strict servers hang up at two


# ---- What is sent, and when ----------------------------------------------------------------------

END_OF_FILE, CLOSE = 96, 97
# The key exchange, the login, the session, the command
NEEDED = [20, 30, 21, LOGIN_SERVICE, 50, 90, 98]


def test_nothing_is_sent_but_what_a_restart_needs(run: Run) -> None:
    """Nor while the password is checked for long."""
    with MMP(login=[CLOCK.nine_seconds_later, 0.05] * 6) as server:
        assert run([server]).log == [restarted(server)]
    assert server.messages[: len(NEEDED)] == NEEDED
    assert set(server.messages[len(NEEDED) :]) <= {END_OF_FILE, CLOSE}


def test_end_of_file_comes_only_after_a_whole_line_and_silence(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers drop what they would still print, and half a line is no answer."""
    monkeypatch.setattr(webbridge_restart, "SECONDS_OF_SILENCE", 8.0)
    came: list[bool] = []

    def look(here: Any) -> None:
        came.append(here.ended.is_set())

    silence = [wait_until_received, CLOCK.nine_seconds_later, 0.2, look]
    at_once = [b"ridge enabled\n", wait_until_received, 0.2, look]
    end = [CLOCK.nine_seconds_later, steps.wait_for_end_of_file, status(0), steps.end_of_file]
    with MMP(restart=[*silence, b"SUCCESS: Webb", *silence, *at_once, *end]) as server:
        assert run([server]).log == [restarted(server)]
    assert came == [False] * 3


RSA_NAMES = ["rsa-sha2-512", "rsa-sha2-256", *([] if NEW else [RSA])]


@pytest.mark.parametrize(
    ("has", "gone", "first"),
    [
        (RSA, [], RSA_NAMES),
        (RSA, [ED25519], [ED25519, *RSA_NAMES]),
        (ECDSA, [RSA], [ECDSA, *RSA_NAMES]),
        (ED25519, [], [ED25519]),
        (ED25519, None, []),
    ],
    ids=["RSA", "RSA, and ED25519 is gone", "ECDSA, and RSA is gone", "ED25519", "none"],
)
def test_known_types_of_host_keys_are_asked_for_first(
    run: Run, known_hosts: Path, has: str, gone: list[str] | None, first: list[str]
) -> None:
    """The others follow, as paramiko has them."""
    with MMP(host_keys=[key(has)]) as server:
        name, *own = server.known_hosts_line.split()
        known = [] if gone is None else [*(public(key(each)) for each in gone), " ".join(own)]
        known_hosts.write_text("".join(f"{name} {each}\n" for each in known))
        ran = run([server])
    assert ran.status == (1 if gone is None else 0)
    usual = list(paramiko.Transport._preferred_keys)
    offer = first + [kind for kind in usual if kind not in first]
    assert [[kind for kind in kinds if "-cert-" not in kind] for kinds in server.offers] == [offer]


def test_limits_of_paramiko_do_not_count(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its own limits, made this short, would end the connection."""
    real = paramiko.Transport.__init__

    def init(transport: paramiko.Transport, *others: Any, **more: Any) -> None:
        real(transport, *others, **more)
        for limit in ("banner", "handshake", "auth", "channel"):
            setattr(transport, f"{limit}_timeout", 0.05)

    monkeypatch.setattr(paramiko.Transport, "__init__", init)
    with MMP(wait=0.15, login=[0.15], session=[0.15]) as server:
        assert run([server]).log == [restarted(server)]
    assert (server.connections, server.passwords) == (1, [PASSWORD])


def test_what_came_before_the_status_is_read_however_slowly(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = paramiko.Channel.recv

    def recv(channel: paramiko.Channel, size: int) -> bytes:
        channel.status_event.wait(PATIENCE)  # then all of it has come
        CLOCK.nine_seconds_later(None)
        return real(channel, 100_000)

    monkeypatch.setattr(paramiko.Channel, "recv", recv)
    monkeypatch.setattr(webbridge_restart, "HANG_UP_SECONDS", 0.01)  # the connection lives
    with MMP(restart=[LINES * 8, FAILURE, status(0), steps.end_of_file]) as server:
        ran = run([server], "--timeout", "1000")
    assert ran.log == failed(server, f"{SAID}FAILURE: b")
