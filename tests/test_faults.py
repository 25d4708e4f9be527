"""The fault matrix: a faulty server and then a good one, a row a fault; and what is sent.

Each row says what is logged of the faulty server, and what it received. The good one must be
restarted whatever happened before it. All of it is real SSH. How the end of an answer is judged
is in test_ends.py, and what is sent how often, on mocked connections, in test_decisions.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import paramiko
from pytest import MonkeyPatch, mark

import steps
import webbridge_restart
from conftest import DOUBT, Clock, Run, failed, restarted
from mmp import MMP, PASSWORD, PATIENCE, key, public
from steps import FOREVER, LINES, SUCCESS, answer, says, status, wait_until_received
from webbridge_restart import command_line

NEW = not paramiko.__version__.startswith("4.")  # which has SHA-1
CLOCK = Clock()
BANNER = b"SSH-2.0-simulated\r\n"
FAILURE = b"FAILURE: b\n"
ED25519, ECDSA, RSA, DSS = "ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa", "ssh-dss"

# ---- What is said of a server --------------------------------------------------------------------

# PORT is its port. What stands for <...> is paramiko's, or in another row.
OVERLOADED = "Is it an MMP? Is the server overloaded?"
NO_ANSWER = "No usable SSH answer from 127.0.0.1 port PORT: "
IN_COMMON = f"The server and paramiko {paramiko.__version__} have no algorithm in common: "
NO_CIPHER = f"{IN_COMMON}Incompatible ssh server (no acceptable ciphers)."
NO_KEX = f"{IN_COMMON}Incompatible ssh peer (no acceptable kex algorithm)."
NO_KEY_TYPE = f"{IN_COMMON}Incompatible ssh peer (no acceptable host key)."
INSTALL = command_line(sys.executable, "-m", "pip", "install", "paramiko<5")
OLDER = f" If the server offers nothing newer than SHA-1, run: {INSTALL}"
NO_SSH_2 = "The server does not speak SSH 2, which this script needs. It offers: "
BY_HAND = "ssh -p PORT admin@127.0.0.1"
REFUSED = (
    "Login refused. It is not tried again. Check the password (from MMP_PASSWORD in the "
    "environment). Other causes: an expired password, a locked account, an MMP 'user host' or "
    f"'user duty' rule, or the server hung up. Log in once by hand: {BY_HAND}"
)
NOT_ALONE = (
    "The server did not let this script in with the password alone. The password may have expired, "
    f"or the server asks for more. Log in once by hand: {BY_HAND}"
)
LOGGING_IN = "Cut off after 60 s while logging in<...>"
NO_SESSION = "The connection broke off while opening a session."
NOT_RUN = "The server refused to run the command."
TOO_MANY = "The server refused to open a session (code 4). Too many sessions may be open."
TOO_LONG = "The answer is longer than any command's, so the rest was not heard. It had answered: "
NO_END = (
    "Cut off after 60 s while waiting for the answer. A slow server needs a higher --timeout. "
    f"It had answered: Restarting. {DOUBT}"
)
NOT_SENT = "The password was not sent to it."
SHOWN = (
    f" Shown: {{shown}}. {NOT_SENT} This may be an attack. Only if you know that the server has a "
    "new key, delete the old one and store the new one with: {forget} && {store}"
)
CHANGED = f"The host key has CHANGED. Known: {{known}}.{SHOWN}"
OTHER_TYPE = f"The server has no host key of a known type: {ECDSA}, {RSA}.{SHOWN}"
NEW_KEY = (
    f"New host key, not trusted yet: {{shown}}. It is not in {{file}}. {NOT_SENT} Compare the "
    "fingerprint with the server's own, then store the key with: {store}"
)


def refused(said: str = "") -> str:
    """Return what is told of a refused login, with what the server said."""
    return REFUSED.replace(".", f". The server said: {said}", 1) if said else REFUSED


# What forges a line of the log, clears a terminal, and writes its title
FORGED = "2026-01-01 02:00:00.000000+00:00 Webbridge on server: 10.0.0.9 restarted successfully"
DRIVES = "\x1b[2J\x1b]0;owned\x07"
DRIVES_SHOWN = r"\x1b[2J\x1b]0;owned\x07"
HOSTILE_BANNER = says(f"{FORGED}\r{DRIVES}\n".encode() * 200)
BEFORE_SHOWN = (4 * f"{FORGED} | {DRIVES_SHOWN} | ")[:300]
BAD_BANNER = (
    f'Indecipherable protocol version "{FORGED} | {DRIVES_SHOWN}". The server said: '
    f"{BEFORE_SHOWN}... {OVERLOADED}"
)
HOSTILE_METHODS = steps.refuse(b"publickey", DRIVES.encode(), b"x" * 400)
METHODS_SHOWN = f"publickey, {DRIVES_SHOWN}, {400 * 'x'}"[:300]
ONLY_KEYS = (
    f"The server accepts no password, only {METHODS_SHOWN}.... Use an account that logs in with a "
    "password."
)
HOSTILE_ANSWER = answer(f"FAILURE: x\n{FORGED}\u2028{FORGED}\r{DRIVES}".encode() + b"\xff\n")
ANSWER_SHOWN = f"The server answered: FAILURE: x | {FORGED} | {FORGED} | {DRIVES_SHOWN}\\xff"

# ---- The matrix ----------------------------------------------------------------------------------

# Commands, passwords and connections that come to a faulty server. asyncssh reads no password where
# it accepts none, so the one before a question does not count.
EVERYTHING, NO_COMMAND, NO_LOGIN, THREE_TRIES = (1, 1, 1), (0, 1, 1), (0, 0, 1), (0, 0, 3)
BOTH_WAYS = (1, 2, 1)  # as a password and as an answer

RAW_ENDS = {"a FIN": steps.ends, "a reset": steps.resets}
ENDS = {"a FIN": steps.hang_up, "a reset": steps.reset, "a goodbye": steps.goodbye}
DROPS: dict[str, tuple[dict[str, Any], str, tuple[int, int, int]]] = {}
for name, raw_end in RAW_ENDS.items():
    for when, text in {"before the banner": b"", "in the key exchange": BANNER}.items():
        DROPS[f"{name} {when}"] = {"raw": says(text, raw_end)}, f"{NO_ANSWER}<...>", THREE_TRIES
for name, end in ENDS.items():
    said = "Goodbye." if end == steps.goodbye else ""
    DROPS[f"{name} in the login"] = {"login": [end, FOREVER]}, refused(said), NO_COMMAND
    DROPS[f"{name} in the session"] = {"session": [end, FOREVER]}, NO_SESSION, NO_COMMAND

SSH_1, SSH_3 = ({"raw": says(f"SSH-{version}-x\r\n".encode())} for version in ("1.5", "3.0"))
FULL = {"raw": says(b"Not allowed at this time\r\n", steps.ends)}
FULL_TOLD = f"{NO_ANSWER}<...> The server said: Not allowed at this time. {OVERLOADED}"
BUSY = {"raw": says(BANNER + steps.disconnect(b"Too many of you\x1b[2J"), steps.ends)}
BUSY_TOLD = rf"{NO_ANSWER}<...> The server said: Too many of you\x1b[2J. {OVERLOADED}"
WRONG = {"password": "another"}
EITHER = {"methods": ["password", "keyboard-interactive"]}
GREETED = {"login": [steps.greet(f"{DRIVES}{FORGED}\r\n".encode()), steps.refuse()]}
GREETED_TOLD = refused(f"{DRIVES_SHOWN}{FORGED}.")
STRICT = {"methods": ["keyboard-interactive"]}
TOLD_STRICTLY = refused("Unexpected service in service request.")
ASKS = {**STRICT, "strict": False}
ASKS_TWICE = {**ASKS, "questions": [["Password: "], ["Password: "]]}
CHANGES_ITS_MIND = {**EITHER, "strict": False, "login": [steps.refuse(b"keyboard-interactive")]}
SECOND_FACTOR = steps.refuse(b"keyboard-interactive", in_part=True)
HIDES_ITS_END = [b"Restarting", wait_until_received, CLOCK.time_is_up, steps.dribble()]
ON_STDERR = [SUCCESS, steps.errors(FAILURE), status(0), steps.close]
CIPHERS = {"encryption_algs": ["chacha20-poly1305@openssh.com"]}
FAULTS = {
    **DROPS,
    "SSH 1": (SSH_1, f"{NO_SSH_2}SSH-1.5-x.", NO_LOGIN),
    "SSH 3": (SSH_3, f"{NO_SSH_2}SSH-3.0-x.", NO_LOGIN),
    "a hostile banner": ({"raw": HOSTILE_BANNER}, f"{NO_ANSWER}{BAD_BANNER}", THREE_TRIES),
    "words before the banner": (FULL, FULL_TOLD, THREE_TRIES),
    "words in the key exchange": (BUSY, BUSY_TOLD, THREE_TRIES),
    "a bad signature": ({"bad_signature": True}, f"{NO_ANSWER}<...>", THREE_TRIES),
    "newer ciphers": ({"options": CIPHERS}, NO_CIPHER, NO_LOGIN),
    "a name": ({"host": "localhost"}, "", EVERYTHING),  # often of ::1, too, which refuses
    "a wrong password, or a question": ({**WRONG, **EITHER}, refused(), NO_COMMAND),
    "refused, with a hostile banner": (GREETED, GREETED_TOLD, NO_COMMAND),
    "refused, a change of mind": (CHANGES_ITS_MIND, "", BOTH_WAYS),
    "hostile names of methods": ({"login": [HOSTILE_METHODS]}, ONLY_KEYS, NO_COMMAND),
    "a question, strictly": (STRICT, TOLD_STRICTLY, NO_LOGIN),
    "a question, and wrong": ({**ASKS, **WRONG}, refused(), NO_COMMAND),
    "a question twice": (ASKS_TWICE, NOT_ALONE, NO_COMMAND),
    "an expired password": ({"login": [steps.ask_for_new_password]}, NOT_ALONE, NO_COMMAND),
    "a second factor": ({"login": [SECOND_FACTOR]}, NOT_ALONE, NO_COMMAND),
    "no login": ({"login": [CLOCK.time_is_up, FOREVER]}, LOGGING_IN, NO_COMMAND),
    "no session left": ({"session": [steps.refuse_session]}, TOO_MANY, NO_COMMAND),
    "exec refused": ({"reply": "refused", "restart": ()}, NOT_RUN, EVERYTHING),
    "a dribbled answer": ({"restart": HIDES_ITS_END}, NO_END, EVERYTHING),
    "text for ever": ({"restart": [steps.dribble(LINES, 0)]}, f"{TOO_LONG}One of<...>", EVERYTHING),
    "FAILURE on stderr": ({"restart": ON_STDERR}, "The server answered: FAILURE: b", EVERYTHING),
    "a hostile answer": ({"restart": HOSTILE_ANSWER}, ANSWER_SHOWN, EVERYTHING),
}
if NEW:
    OLD_KEX = {"options": {"kex_algs": ["diffie-hellman-group14-sha1"]}}
    FAULTS["a key exchange of SHA-1"] = OLD_KEX, f"{NO_KEX}{OLDER}", NO_LOGIN


@mark.parametrize("row", FAULTS.values(), ids=FAULTS)
def test_fault(run: Run, monkeypatch: MonkeyPatch, row: Any) -> None:
    settings, reason, came = row
    CLOCK.use(monkeypatch)
    with MMP(**settings) as faulty, MMP() as good:
        ran = run([faulty, good])
    reason = reason.replace("PORT", str(faulty.port))
    if "<...>" in reason:
        begin, end = reason.split("<...>")
        assert ran.log[1].startswith(begin) and ran.log[1].endswith(end)
        reason = ran.log[1]
    told = failed(faulty, reason) if reason else [restarted(faulty)]
    assert ran.log == [*told, restarted(good)]
    assert ran.status == (1 if reason else 0)
    assert (len(faulty.commands), len(faulty.passwords), faulty.connections) == came
    assert {*faulty.commands, *good.commands} == {"webbridge restart"}
    assert {*faulty.passwords, *good.passwords} == {PASSWORD}
    assert (len(good.commands), len(good.passwords), good.connections) == EVERYTHING


SHA_1, SHA_256, SHA_512 = b"ssh-rsa", b"rsa-sha2-256", b"rsa-sha2-512"
ALL = [ED25519, ECDSA, RSA]
HOST_KEYS = {  # what the server has, what is known, what is said, and what the server lacks
    "a new key": ([ED25519], [], NEW_KEY, [SHA_1]),
    "another key": ([ED25519], [f"{ED25519} 2"], CHANGED, [SHA_1]),
    "another type than two": ([ED25519], [RSA, ECDSA], OTHER_TYPE, [SHA_1]),
    "three types, RSA-256 is known": (ALL, [RSA], "", [SHA_1, SHA_512]),
    "three types, RSA-512 is known": (ALL, [RSA], "", [SHA_1, SHA_256]),
    "SHA-1": ([RSA], [RSA], f"{NO_KEY_TYPE}{OLDER}" if NEW else "", [SHA_256, SHA_512]),
    "a key that no paramiko has": ([DSS], [DSS], f"{NO_KEY_TYPE}{OLDER if NEW else ''}", []),
}


@mark.parametrize("row", HOST_KEYS.values(), ids=HOST_KEYS)
def test_host_key(run: Run, known_hosts: Path, log_file: Path, row: Any) -> None:
    has, known, reason, lacks = row

    def described(key_name: str) -> str:
        return f"{key_name.split()[0]} {key(key_name).get_fingerprint()}"

    with MMP(host_keys=has, lacks=lacks) as server:
        place = server.known_hosts_line.split()[0]
        known_hosts.write_text("".join(f"{place} {public(key(each))}\n" for each in known))
        ran = run([server])
    script = [sys.executable, known_hosts.with_name("webbridge_restart.py")]
    options = ["--ask-password", "--known-hosts", known_hosts, "--log-file", log_file]
    reason = reason.format(
        shown=described(has[0]),
        known=", ".join(map(described, known)),
        file=known_hosts,
        forget=command_line("ssh-keygen", "-R", place, "-f", known_hosts),
        store=command_line(*script, "--check", 1, "--accept-new-host-keys", *options),
    )
    assert ran.log == (failed(server, reason) if reason else [restarted(server)])
    assert server.passwords == ([] if reason else [PASSWORD])
    assert server.connections == 1


# ---- What is sent, and what is waited for --------------------------------------------------------

# The key exchange, the login, the session, the command
NEEDED = [20, 30, 21, 5, 50, 90, 98]


def test_nothing_is_sent_but_what_a_restart_needs(run: Run, monkeypatch: MonkeyPatch) -> None:
    """Nor while the password is checked for long, or the answer takes long."""
    CLOCK.use(monkeypatch)
    slow = [CLOCK.nine_seconds_later, 0.05] * 6
    with MMP(login=slow, restart=[*slow, SUCCESS, status(0), steps.end_of_file]) as server:
        assert run([server], "--timeout", "200").log == [restarted(server)]
    assert server.messages == NEEDED


def test_try_that_stalls(run: Run, monkeypatch: MonkeyPatch) -> None:
    """Each try has a share of --timeout."""
    monkeypatch.setattr(webbridge_restart, "TRY_SHARE", 0.002)
    with MMP(raw=says(BANNER)) as server:
        ran = run([server], "--timeout", "100")
    place = f"127.0.0.1 port {server.port}"
    reason = f"Timed out after 0.2 s in the SSH handshake with {place}. {OVERLOADED}"
    assert ran.log == failed(server, reason)
    assert server.connections == webbridge_restart.CONNECT_TRIES


def test_limits_of_paramiko_do_not_count(run: Run, monkeypatch: MonkeyPatch) -> None:
    real, names = paramiko.Transport.start_client, ("banner", "handshake", "auth", "channel")
    limits: list[float] = []

    def start_client(transport: paramiko.Transport, **named: Any) -> None:
        limits.extend(getattr(transport, f"{name}_timeout") for name in names)
        real(transport, **named)

    monkeypatch.setattr(paramiko.Transport, "start_client", start_client)
    with MMP() as server:
        assert run([server], "--timeout", "600").log == [restarted(server)]
    assert all(limit > 600 for limit in limits)
    assert len(limits) == len(names)


def test_what_came_before_the_status_is_read_however_slowly(
    run: Run, monkeypatch: MonkeyPatch
) -> None:
    CLOCK.use(monkeypatch)
    real = paramiko.Channel.recv

    def recv(channel: paramiko.Channel, size: int) -> bytes:
        channel.status_event.wait(PATIENCE)  # then all of it has come
        CLOCK.nine_seconds_later(None)
        return real(channel, 100_000)

    monkeypatch.setattr(paramiko.Channel, "recv", recv)
    monkeypatch.setattr(webbridge_restart, "LOSS_SECONDS", 0.01)  # the connection lives
    with MMP(restart=[LINES * 8, FAILURE, status(0), steps.end_of_file]) as server:
        ran = run([server], "--timeout", "1000")
    assert ran.log == failed(server, "The server answered: FAILURE: b")
