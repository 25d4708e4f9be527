#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["paramiko>=4.0"]
# ///
r"""Restart the Web Bridge of your Cisco Meeting Servers, and log each result.

This is a workaround for CSCvt73723: Web Bridge 2 of CMS 2.x leaks WebRTC
sessions. At 149 sessions it accepts no more, so nobody can join. A restart
clears the leaked sessions. It also ends every WebRTC session on that server.

List your servers in WEBBRIDGES at the top of webbridge_restart.py. Then run it
with the Python of its virtual environment (on Windows: .venv\Scripts\python):

  .venv/bin/python webbridge_restart.py --check     try the set-up
  .venv/bin/python webbridge_restart.py             restart every Web Bridge
  .venv/bin/python webbridge_restart.py 2           restart only server 2
  .venv/bin/python webbridge_restart.py --sessions  count the leaked sessions

Exit status:
  0    every server was restarted (or is ready, or was counted), or the
       conditions did not call for a restart
  1    at least one server failed or could not be counted, or a line of the
       log was lost
  2    the set-up is wrong, and nothing was attempted
  130, 143, 129   ended by Ctrl-C, by SIGTERM, by a closed terminal
"""

from __future__ import annotations

import argparse
import ast
import collections
import contextlib
import datetime
import enum
import errno
import getpass
import gzip
import ipaddress
import json
import logging
import math
import os
import queue
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

try:
    import paramiko

    if int(paramiko.__version__.partition(".")[0]) < 4:
        raise ImportError(f"found paramiko {paramiko.__version__}")
except ImportError as error:
    print(
        f"paramiko 4.0 or newer is not installed for {sys.executable} ({error}). "
        "Run this script with the Python of its virtual environment (README, step 1).",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

from paramiko.ssh_exception import IncompatiblePeer, NoValidConnectionsError

# ---- Edit these ----------------------------------------------------------------------------------

# The MMP address of each server with a Web Bridge. It can differ from the Web Bridge's own address.
# "10.48.79.194", "cms2.example.com", "10.48.79.195:2222" and "[2001:db8::3]:22" are all right.
WEBBRIDGES = {
    1: "127.0.0.1",
    2: "127.0.0.1",
    3: "127.0.0.1",
    4: "127.0.0.1",
}
MMP_USERNAME = "admin"
MMP_PASSWORD = ""  # README.md, step 3, names safer places for the password

# Only for counting sessions, and only if other servers run the Call Bridges: list all Call Bridges.
CALLBRIDGES: dict[int, str] = {}

# ---- Limits --------------------------------------------------------------------------------------

SECONDS_PER_SERVER = 60.0  # the default of --timeout: from connecting to the whole answer
CONNECT_TRIES = 3
TRY_SHARE = 0.3  # of --timeout, for each try to connect: 18 of 60 seconds
SECONDS_BETWEEN_TRIES = 2.0
LATE_OUTPUT_SECONDS = 2.0  # output may come this long after the exit status
LATE_STATUS_SECONDS = 10.0  # the exit status may come this long after the end of the output
SECONDS_OF_SILENCE = 10.0  # after a whole line SUCCESS or FAILURE: then we end our side
HANG_UP_SECONDS = 1.0  # paramiko notices within this time that a connection is gone
MIB = 1 << 20  # bytes
MAX_ANSWER_BYTES = MIB  # a longer answer is none: no command prints so much
MAX_SHOWN_CHARACTERS = 300  # of an answer, in the log and on the terminal

MAX_LOG_AGE = datetime.timedelta(hours=26)  # a time without a zone can be 14 hours off
MAX_CALL_BRIDGE_AGE = datetime.timedelta(minutes=15)  # Cisco's document: logged every 5 minutes
MAX_WEB_BRIDGE_AGE = datetime.timedelta(hours=24)  # how often it is logged is not published
LOG_STEPS = (1, 2, 4, 8, 16)  # MiB to read from a log's end, until the counters are found

# ---- Nothing below needs editing -----------------------------------------------------------------

__version__ = "2.0.0"
SCRIPT = Path(__file__).resolve()  # cron and Task Scheduler start it in other folders
RESTART_COMMAND = "webbridge restart"
CHECK_COMMAND = "webbridge"  # prints the settings and changes nothing
STORE_KEY_OPTIONS = "--check --accept-new-host-keys"
TICK = 0.1  # seconds between two looks at the clock
T = TypeVar("T")


class Trouble(Exception):
    """What is wrong, with the run or with one server, in a sentence that says what to do."""


class Refused(Trouble):
    """The server rejected the command: no doubt is left."""


# ---- Text ----------------------------------------------------------------------------------------


def escape(text: str) -> str:
    """Return the text as one line that drives no terminal: ends of lines and the like escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable(sent: bytes | str) -> str:
    """Return what a server sent as one short line, its lines joined by bars."""
    text = sent.decode("utf-8", "backslashreplace") if isinstance(sent, bytes) else sent
    lines = (line.strip() for line in text.splitlines())
    joined = " | ".join(line for line in lines if line)
    shown = escape(joined[: MAX_SHOWN_CHARACTERS + 1])
    if len(shown) <= MAX_SHOWN_CHARACTERS:
        return shown
    return f"{shown[:MAX_SHOWN_CHARACTERS]}..."


def explain_file(error: OSError) -> str:
    """Return why a file cannot be read or written, and what to do if a right is missing."""
    if isinstance(error, PermissionError):
        return f"{error.strerror}. Check which account runs this, and who owns the file."
    return f"{error.strerror}."


def counted(number: int, noun: str) -> str:
    """Return the number with its noun: 1 server, 2 servers."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_span(span: datetime.timedelta) -> str:
    """Return a span of time in its largest useful unit, without its sign."""
    minutes = round(abs(span).total_seconds() / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return counted(minutes // 60, "hour")
    return counted(minutes // (24 * 60), "day")


# ---- Inventory -----------------------------------------------------------------------------------

LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
ADDRESS = re.compile(
    rf"(?:\[(?P<ipv6>[^]\s]+)\]|(?P<host>{LABEL}(\.{LABEL})*))(:(?P<port>[0-9]+))?"
)


@dataclass(frozen=True)
class Server:
    """One line of the inventory."""

    number: int
    address: str  # as the inventory has it
    host: str
    port: int

    @property
    def known_as(self) -> str:
        """The name in a known-hosts file."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port; raises ValueError for what is not an address."""
    found = ADDRESS.fullmatch(address)
    if found is None:
        raise ValueError(address)
    port = int(found["port"] or 22)
    if not 0 < port < 65536:
        raise ValueError(address)
    host = found["ipv6"] or found["host"].lower()
    if found["ipv6"] or host.rpartition(".")[2].isdigit():  # no name ends in a number
        host = str(ipaddress.ip_address(host))
    return host, port


def parse_entry(name: str, number: object, address: object) -> Server:
    """Return the server of one entry of the inventory of this name; raises Trouble."""
    entry = f"{name} entry {number!r}, {address!r},"
    if not isinstance(number, int):
        raise Trouble(f'{entry} has no number. Write it like this: 1: "10.48.79.194",')
    try:
        if not isinstance(address, str):
            raise ValueError(address)
        return Server(number, address.strip(), *parse_address(address.strip()))
    except ValueError:
        raise Trouble(
            f"{entry} is not an address. Write an IP address or a host name, and :PORT after it "
            "if the port is not 22. Put an IPv6 address in brackets."
        ) from None


def read_inventory(name: str, inventory: object) -> list[Server]:
    """Return the servers of the inventory of this name; raises Trouble."""
    example = 'Put one line per server there, for example 1: "10.48.79.194",'
    if not isinstance(inventory, dict) or not inventory:
        raise Trouble(f"{name} lists no servers. {example}")
    if len(inventory) > 1 and set(map(str, inventory.values())) == {"127.0.0.1"}:
        raise Trouble(f"{name} still has its example addresses. {example}")
    servers: dict[str, Server] = {}
    for number, address in inventory.items():
        server = parse_entry(name, number, address)
        if server.known_as in servers:
            twice = f"twice, as {servers[server.known_as].number} and as {number}"
            raise Trouble(f"{name} lists {server.address} {twice}. Delete one of the two lines.")
        servers[server.known_as] = server
    return list(servers.values())


def refuse_repeated_numbers() -> None:
    """Raises Trouble if an inventory uses a number twice: Python would drop the first entry."""
    for statement in ast.parse(SCRIPT.read_bytes()).body:
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)):
            continue
        if not isinstance(statement.value, ast.Dict):
            continue
        target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
        numbers = [ast.unparse(key) for key in statement.value.keys if key]
        for number in numbers:
            if numbers.count(number) > 1:
                name = ast.unparse(target)
                raise Trouble(f"{name} uses the number {number} twice. Give each server its own.")


def choose_servers(servers: list[Server], names: list[str]) -> list[Server]:
    """Return the servers of these numbers or addresses, or all of them; raises Trouble."""
    for name in names:
        if not any(name in (str(server.number), server.address) for server in servers):
            listed = ", ".join(f"{server.number} ({server.address})" for server in servers)
            raise Trouble(f"No server {name}. WEBBRIDGES has {listed}.")
    if not names:
        return servers
    return [s for s in servers if str(s.number) in names or s.address in names]


# ---- Access: the password and the known host keys ------------------------------------------------


def append_host_key(path: Path, name: str, key: paramiko.PKey) -> None:
    """Append the key to a known-hosts file; raises Trouble."""
    try:
        last_byte = path.read_bytes()[-1:] if path.exists() else b""
        newline = "" if last_byte in (b"", b"\n") else "\n"
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{newline}{name} {key.get_name()} {key.get_base64()}\n")
    except OSError as error:
        raise Trouble(
            f"Cannot write to {path}: {explain_file(error)} No password was sent."
        ) from None


@dataclass(frozen=True)
class Access:
    """What a login needs. It is the same for every server."""

    username: str
    password: str = field(repr=False)
    password_source: str
    known_hosts_file: Path
    known_hosts: paramiko.HostKeys
    accept_new_host_keys: bool

    def keys_of(self, server: Server) -> Mapping[str, paramiko.PKey]:
        """Return the known host keys of the server, by their types."""
        return self.known_hosts.lookup(server.known_as) or {}

    def store_host_key(self, server: Server, key: paramiko.PKey) -> None:
        """Store the key in the file, and know it from now on; raises Trouble."""
        append_host_key(self.known_hosts_file, server.known_as, key)
        self.known_hosts.add(server.known_as, key.get_name(), key)


def refuse_if_others_can_read(path: Path) -> None:
    """Raises Trouble if a file that holds the password is open to others (not on Windows)."""
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise Trouble(f"Others can read the password in {path}. Run: chmod go-rwx '{path}'")


def read_password_file(path: Path) -> str:
    """Return the first line of the file; raises Trouble."""
    not_utf_8 = f"The password file {path} is not UTF-8. Save it again as UTF-8."
    try:
        first_line = path.read_text(encoding="utf-8-sig").partition("\n")[0]
        refuse_if_others_can_read(path)
    except OSError as error:
        raise Trouble(f"Cannot read the password file {path}: {explain_file(error)}") from None
    except UnicodeDecodeError:
        raise Trouble(not_utf_8) from None
    if "\0" in first_line:  # UTF-16 without its mark
        raise Trouble(not_utf_8)
    if not first_line:
        raise Trouble(f"The first line of {path} is empty. Write the password there.")
    return first_line


def ask_for_password() -> str:
    """Return what is typed; raises Trouble."""
    if not (sys.stdin and sys.stdin.isatty()):
        raise Trouble("--ask-password needs a terminal. Use --password-file in a scheduled job.")
    typed = ""
    with contextlib.suppress(EOFError, UnicodeDecodeError):
        typed = getpass.getpass(f"MMP password of {MMP_USERNAME}: ")
    if not typed:
        raise Trouble("No password was typed.")
    return typed


def find_password(options: argparse.Namespace) -> tuple[str, str]:
    """Return the password and where it comes from; raises Trouble."""
    if MMP_PASSWORD:  # the script itself is then a file that holds the password
        refuse_if_others_can_read(SCRIPT)
    if options.ask_password:
        return ask_for_password(), "typed at the prompt"
    if options.password_file:
        return read_password_file(options.password_file), f"from {options.password_file}"
    if os.environ.get("MMP_PASSWORD"):
        return os.environ["MMP_PASSWORD"], "from MMP_PASSWORD in the environment"
    if MMP_PASSWORD:
        return MMP_PASSWORD, f"from MMP_PASSWORD in {SCRIPT.name}"
    raise Trouble(
        "No password. Use --password-file, --ask-password, or the environment variable "
        "MMP_PASSWORD (README, step 3)."
    )


def parse_known_hosts_line(line: str) -> paramiko.hostkeys.HostKeyEntry | None:
    """Return the entry, or None for a type of key that paramiko lacks; raises many errors."""
    fields = line.split()
    entry = paramiko.hostkeys.HostKeyEntry.from_line(" ".join(fields))
    if len(fields) < 3 or fields[0].startswith("@"):
        raise ValueError(line)
    if entry and entry.key.get_base64() != fields[2]:  # cut short
        raise ValueError(line)
    for name in fields[0].split(","):
        if name.startswith("|"):  # a damaged hash would fail later, at a lookup
            paramiko.HostKeys.hash_host("", name)
    return entry


def read_known_hosts(path: Path) -> paramiko.HostKeys:
    """Return the keys of a known-hosts file, which need not exist; raises Trouble."""
    known = paramiko.HostKeys()
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace") if path.exists() else ""
    except OSError as error:
        raise Trouble(f"Cannot read the known-hosts file {path}: {explain_file(error)}") from None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            entry = parse_known_hosts_line(line)
        except Exception:  # paramiko raises eight types of error for a damaged line
            raise Trouble(
                f"{path}, line {number}, is not a usable host key. Delete the line, then store "
                f"the server's key again with {STORE_KEY_OPTIONS}."
            ) from None
        if entry:
            for name in entry.hostnames:
                known.add(name, entry.key.get_name(), entry.key)
    return known


def read_access(options: argparse.Namespace) -> Access:
    """Return what a login needs; raises Trouble."""
    for name, text in (("MMP_USERNAME", MMP_USERNAME), ("MMP_PASSWORD", MMP_PASSWORD)):
        if not isinstance(text, str):
            raise Trouble(f'{name} in {SCRIPT.name} is not text. Write it in quotation marks: "".')
    if not MMP_USERNAME:
        raise Trouble(f"MMP_USERNAME in {SCRIPT.name} is empty. Write the MMP's user name there.")
    password, source = find_password(options)
    try:
        password.encode()
    except UnicodeEncodeError:  # what Python makes of bytes in the environment that are not UTF-8
        raise Trouble(f"The password {source} is not UTF-8.") from None
    known_hosts = read_known_hosts(options.known_hosts)
    accept = options.accept_new_host_keys
    return Access(MMP_USERNAME, password, source, options.known_hosts, known_hosts, accept)


# ---- Judging an answer ---------------------------------------------------------------------------


class Answer(NamedTuple):
    """What came after a command was sent."""

    text: bytes
    status: int | None  # the exit status, None if none came
    accepted: bool  # whether the server replied that it runs the command
    cut: str  # why the answer's end was not seen, or ""


class Verdict(NamedTuple):
    """What an answer means."""

    is_success: bool
    reason: str  # of a success: what the server answered
    in_doubt: bool = False  # whether the command may have done its work all the same


# Cisco: a reply is lines that begin SUCCESS: or FAILURE:, and one FAILURE line means failure. The
# first SUCCESS lines of a restart are only about certificates, so a reply that stops after them has
# restarted nothing. Prose is neither success nor failure.
SUCCESS = rb"^[ \t]*SUCCESS:"  # what begins a line of success
SUCCESS_LINE = re.compile(SUCCESS, re.MULTILINE)
RESTARTED_LINE = re.compile(SUCCESS + rb"[^\n]*(?i:web ?bridge)", re.MULTILINE)
FAILURE = re.compile(rb"FAILURE:|^[ \t]*(?:ERROR|(?P<unknown>Unknown command))\b", re.MULTILINE)
WHOLE_REPLY_LINE = re.compile(rb"(?:" + SUCCESS + rb"|FAILURE:)[^\n]*\n", re.MULTILINE)
ENABLED_LINE = re.compile(rb"(?im)^[ \t]*Enabled[ \t]*:[ \t]*true\b")


def show_answer(text: bytes | bytearray) -> str:
    """Return an answer's beginning as one safe line."""
    return printable(bytes(text[: MAX_SHOWN_CHARACTERS * 4])) or "nothing"


def judge_failure(answer: Answer) -> Verdict | None:
    """Return what is a failure without doubt, whatever else came or broke; None for all else."""
    failure = FAILURE.search(answer.text)
    said = show_answer(answer.text[failure.start() :] if failure else answer.text)
    if answer.status:
        said += f" (exit status {answer.status})"
    if failure and failure["unknown"]:
        said += ". CMS 3.0 and newer have no Web Bridge 2."
    if failure or answer.status:
        return Verdict(False, f"The server answered: {said}")
    is_whole_and_empty = not answer.cut and not answer.text.strip() and answer.status is None
    if is_whole_and_empty and not answer.accepted:
        return Verdict(False, "The server refused to run the command.")
    return None


def judge_restart(answer: Answer) -> Verdict:
    """Return what the answer to the restart command means. Nothing else decides about it."""
    failure = judge_failure(answer)
    if failure:
        return failure
    said = show_answer(answer.text)
    is_silent = not answer.text.strip()
    if answer.cut:
        heard = "" if is_silent else f" It had answered: {said}."
        return Verdict(False, f"{answer.cut}{heard}", in_doubt=True)
    if answer.status is None:
        is_success = bool(RESTARTED_LINE.search(answer.text))
    elif is_silent:
        is_success = answer.accepted
    else:
        is_success = bool(SUCCESS_LINE.search(answer.text))
    if is_success:
        return Verdict(True, said)
    status = "no exit status" if answer.status is None else "exit status 0"
    reason = f"The answer does not confirm the restart: {said} ({status})."
    return Verdict(False, reason, in_doubt=True)


def judge_check(answer: Answer) -> Verdict:
    """Return whether the answer says that the Web Bridge is enabled."""
    failure = judge_failure(answer)
    if failure:
        return failure
    said = show_answer(answer.text)
    if answer.cut:
        return Verdict(False, f"{answer.cut} It had answered: {said}.")
    if ENABLED_LINE.search(answer.text):
        return Verdict(True, said)
    return Verdict(False, f"The server does not say that its Web Bridge is enabled, but: {said}")


# ---- Session: one SSH connection -----------------------------------------------------------------


class Stage(enum.Enum):
    """How far a session has come, in the words that the log uses."""

    CONNECTING = "connecting"
    LOGGING_IN = "logging in"
    OPENING = "opening a session"
    ANSWER = "waiting for the answer"
    LOG = "reading the server's log"


class AsksForMore(Exception):
    """The server wants more than the password."""


class LogEnd(NamedTuple):
    """The end of a log."""

    text: bytes
    cut: bool  # whether it may begin in the middle of a line


def dial(host: str, port: int, seconds: float) -> socket.socket:
    """Return a TCP connection to the first address of the host that accepts; raises OSError.

    Each address gets a share of the time, so that a silent one does not hide a good one.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    give_up = time.monotonic() + seconds
    errors: dict[Any, OSError] = {}  # by address and port, as NoValidConnectionsError expects
    for tried, (family, kind, protocol, _, address) in enumerate(found):
        share = max(TICK, give_up - time.monotonic()) / (len(found) - tried)
        try:
            return dial_address(socket.socket(family, kind, protocol), address, share)
        except OSError as error:
            errors[str(address[0]), port] = error
    if all(error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH) for error in errors.values()):
        raise NoValidConnectionsError(errors)
    reasons = [f"{error.strerror or error} ({where[0]})" for where, error in errors.items()]
    raise OSError(0, ", ".join(reasons))  # 0: the addresses may have failed in different ways


def dial_address(connection: socket.socket, address: Any, seconds: float) -> socket.socket:
    """Return the socket once it is connected; raises OSError."""
    try:
        connection.settimeout(seconds)
        connection.connect(address)
        # As ssh does. Otherwise small packets wait for the acknowledgement of the one before.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    except OSError:
        connection.close()
        raise


def offer_known_types(transport: paramiko.Transport, known_types: Collection[str]) -> None:
    """Ask only for host keys of the known types: a key of another type proves nothing."""
    security = transport.get_security_options()
    names = set(known_types)
    if "ssh-rsa" in names:  # RSA keys have one name in a known-hosts file, but sign under three
        names |= {"rsa-sha2-512", "rsa-sha2-256"}
    security.key_types = [name for name in security.key_types if name in names]


def describe(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.fingerprint}"


def verify_host_key(
    key: paramiko.PKey, known: Mapping[str, paramiko.PKey], file: Path, assurance: str
) -> None:
    """Raises Trouble unless the key is the known one of its type."""
    if known.get(key.get_name()) == key:
        return
    if not known:
        missing = "" if file.exists() else " (which does not exist yet)"
        raise Trouble(
            f"The host key is not in {file}{missing}: {describe(key)}.{assurance} Compare the "
            f"fingerprint with the server's own, then store it with {STORE_KEY_OPTIONS}."
        )
    if key.get_name() in known:
        what = f"The host key has CHANGED. Known: {describe(known[key.get_name()])}."
    else:
        what = f"The server has no host key of a known type ({', '.join(sorted(known))})."
    raise Trouble(
        f"{what} Shown: {describe(key)}.{assurance} This may be an attack. Only if you know that "
        f"the server has a new key, delete the server's lines from {file} and store the new key "
        f"with {STORE_KEY_OPTIONS}."
    )


def log_in_with_password(transport: paramiko.Transport, access: Access) -> None:
    """Send the password, once; raises AsksForMore, AuthenticationException or SSHException."""
    if not transport.is_active():
        raise EOFError
    # paramiko's fallback would send the password again, as the answer to any question.
    # The list that comes back names what the server wants besides.
    if transport.auth_password(access.username, access.password, fallback=False):
        raise AsksForMore


def log_in_by_answering(transport: paramiko.Transport, access: Access) -> None:
    """Answer one question with the password, and no second one; raises as log_in_with_password."""
    passwords = [access.password]

    def answer(_title: str, _text: str, questions: list[tuple[str, bool]]) -> list[str]:
        shows_what_is_typed = any(echo for _, echo in questions)  # so it asks for something else
        if len(questions) > len(passwords) or shows_what_is_typed:
            raise AsksForMore  # paramiko passes it on to the caller of auth_interactive
        return [passwords.pop() for _ in questions]

    if transport.auth_interactive(access.username, answer):
        raise AsksForMore


def is_alive(transport: paramiko.Transport | None) -> bool:
    """Return whether the connection lives; paramiko's thread ends a moment after it."""
    if transport is None:
        return False
    transport.join(HANG_UP_SECONDS)
    return transport.is_active()


def hear(channel: paramiko.Channel, text: bytearray, replied: Callable[[], bool]) -> Answer:
    """Add what comes to the text until the answer's end, and return the answer.

    replied is called then, and says whether the server replied that it runs the command.
    """
    heard_at = time.monotonic()
    status_at = output_ended_at = math.inf  # not yet
    we_ended = False
    cut: str | None = None
    while cut is None:
        piece = read_piece(channel)
        now = time.monotonic()
        if piece:
            text += piece.replace(b"\r", b"\n")
            heard_at = now
        elif piece == b"":
            output_ended_at = min(output_ended_at, now)
            channel.status_event.wait(TICK)
        if channel.exit_status != -1:
            status_at = min(status_at, now)
        cut = find_end(channel, piece, now - status_at, now - output_ended_at, we_ended)
        if cut is None and len(text) > MAX_ANSWER_BYTES:
            cut = "The answer does not end."
        is_quiet = now - heard_at > SECONDS_OF_SILENCE
        if is_quiet and not we_ended and piece is None and WHOLE_REPLY_LINE.search(text):
            channel.shutdown_write()  # some servers wait for it before they end their answer
            we_ended = True
    status = None if channel.exit_status == -1 else channel.exit_status
    return Answer(bytes(text), status, replied(), cut)


def read_piece(channel: paramiko.Channel) -> bytes | None:
    """Return what has come, b"" if no more can come, or None if nothing came for a while."""
    try:
        return channel.recv(1 << 16)
    except socket.timeout:
        return None


def find_end(
    channel: paramiko.Channel,
    piece: bytes | None,
    since_status: float,
    since_output_end: float,
    we_ended: bool,
) -> str | None:
    """Return "" at the answer's end, why the end will never come, or None to hear on.

    The end is an exit status, and then the server's end of file or some seconds more; or its end of
    file, and then an exit status, its close, or some seconds more; or its close of the channel.
    """
    is_drained = piece == b""
    if is_drained and channel.eof_received and since_status >= 0:
        return ""
    if is_drained and channel.closed:
        is_end = was_closed_by_server(channel, we_ended)
        return "" if is_end else "The connection broke off in the answer."
    is_late = since_status > LATE_OUTPUT_SECONDS or since_output_end > LATE_STATUS_SECONDS
    if is_late and not channel.recv_ready():
        return ""
    return None


def was_closed_by_server(channel: paramiko.Channel, we_ended: bool) -> bool:
    """Return whether a closed channel was closed, and not lost with its connection.

    paramiko answers a close with its own end of file. If we have sent ours, only a connection that
    lives on tells.
    """
    if we_ended:
        return is_alive(channel.get_transport())
    return bool(channel.eof_sent)


def run_command(channel: paramiko.Channel, command: str, text: bytearray) -> Answer:
    """Send the command, once, and return the answer, whose text is also added to the given one."""
    replies: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def send() -> None:
        try:
            channel.exec_command(command)
            replies.put(True)
        except Exception:  # whatever it was, the answer shows what became of it
            replies.put(False)

    def replied() -> bool:
        with contextlib.suppress(queue.Empty):
            return replies.get(timeout=HANG_UP_SECONDS)
        return False

    # In a thread of its own, because the answer can come before the reply to the request.
    threading.Thread(target=send, daemon=True).start()
    return hear(channel, text, replied)


def read_range(file: paramiko.SFTPFile, start: int, end: int) -> bytes:
    """Return these bytes of the file; raises Trouble if it has become shorter."""
    text = b""
    while start + len(text) < end:
        at = start + len(text)
        # paramiko sends all the requests of one readv() at once, so never more than for 1 MiB.
        piece = b"".join(file.readv([(at, min(MIB, end - at))]))
        if not piece:
            raise Trouble("The log became shorter while it was read. Try again.")
        text += piece
    return text


def read_to_end(read: Callable[[int], bytes]) -> LogEnd:
    """Return the end of a file of unknown size: at most the last 17 MiB."""
    pieces = collections.deque[bytes](maxlen=LOG_STEPS[-1] + 1)  # the last one may be short
    while True:
        piece = read(MIB)
        if not piece:
            return LogEnd(b"".join(pieces), cut=len(pieces) == pieces.maxlen)
        pieces.append(piece)


def read_log(transport: paramiko.Transport) -> Iterator[LogEnd]:
    """Yield more and more of the end of the MMP's log; raises as SFTP does."""
    channel = transport.open_session()
    channel.invoke_subsystem("sftp")
    file = paramiko.SFTPClient(channel).open("log")
    size = start = file.stat().st_size or 0
    text = b""
    if size == 0:  # empty, or a virtual file that does not tell its size
        yield read_to_end(file.read)
    for mebibytes in LOG_STEPS:
        if start > 0:
            end, start = start, max(0, size - mebibytes * MIB)
            text = read_range(file, start, end) + text
            yield LogEnd(text, cut=start > 0)


class Session:
    """One server's SSH connection. A thread uses it; the main thread may close it at any time."""

    def __init__(self, server: Server, access: Access, seconds: float) -> None:
        self.server, self.access, self.seconds = server, access, seconds
        self.began = time.monotonic()
        self.stage = Stage.CONNECTING
        self.restart_sent = False
        self.text = bytearray()  # of the answer, as far as it has come
        self.new_host_key = ""  # its type and fingerprint, if it was stored
        self.password_sent = False
        self.closed = threading.Event()
        self.transport: paramiko.Transport | None = None

    def open(self) -> paramiko.Transport:
        """Connect, verify the host key, and log in. A refused password is never sent again."""
        transport = self.connect()
        try:
            self.enter(Stage.LOGGING_IN)
            self.password_sent = True
            log_in_with_password(transport, self.access)
        except paramiko.BadAuthenticationType as error:
            if "keyboard-interactive" not in error.allowed_types:
                raise
            # The server says that it accepts no passwords, so it should not have counted this one.
            # It may ask a question instead: on a new connection, because many servers hang up at a
            # second request to log in.
            transport = self.connect()
            self.enter(Stage.LOGGING_IN)
            log_in_by_answering(transport, self.access)
        return transport

    def connect(self) -> paramiko.Transport:
        """Return a connection to the right server; retries while there is time for another try."""
        known = self.access.keys_of(self.server)
        any_key_type = not known
        for number in range(1, CONNECT_TRIES + 1):
            is_last = number == CONNECT_TRIES
            try:
                transport = self.shake_hands(any_key_type)
                break
            except IncompatiblePeer:
                if any_key_type or is_last:
                    raise
                any_key_type = True  # to see which key the server has instead
            except (OSError, EOFError, paramiko.SSHException):
                left = self.began + self.seconds - time.monotonic() - SECONDS_BETWEEN_TRIES
                if is_last or left < self.seconds * TRY_SHARE:
                    raise
                self.closed.wait(SECONDS_BETWEEN_TRIES)
        self.stop_if_closed()
        key = transport.get_remote_server_key()
        if self.access.accept_new_host_keys and not known:
            self.access.store_host_key(self.server, key)
            self.new_host_key = describe(key)
        else:
            assurance = "" if self.password_sent else " No password was sent."
            verify_host_key(key, known, self.access.known_hosts_file, assurance)
        return transport

    def shake_hands(self, any_key_type: bool) -> paramiko.Transport:
        """Return a connection whose keys are exchanged; raises OSError, EOFError, SSHException."""
        self.enter(Stage.CONNECTING)
        self.hang_up()
        seconds = self.seconds * TRY_SHARE
        give_up = time.monotonic() + seconds
        connection = dial(self.server.host, self.server.port, seconds)
        transport = self.transport = paramiko.Transport(connection)
        # paramiko's own limits must not end a session before its cut-off does.
        transport.banner_timeout = transport.handshake_timeout = self.seconds + 1
        transport.auth_timeout = transport.channel_timeout = self.seconds + 1
        if not any_key_type:
            offer_known_types(transport, self.access.keys_of(self.server))
        self.stop_if_closed()  # before there was a transport to close
        transport.start_client(timeout=max(TICK, give_up - time.monotonic()))
        transport.get_remote_server_key()  # raises SSHException if the time ran out
        return transport

    def run(self, transport: paramiko.Transport, command: str) -> Answer:
        """Run the command on a channel of its own, once; raises Refused if it is not accepted."""
        self.enter(Stage.OPENING)
        channel = transport.open_session()
        channel.set_combine_stderr(True)
        channel.settimeout(TICK)
        self.restart_sent = command == RESTART_COMMAND  # said before: rather a doubt too many
        self.enter(Stage.ANSWER)
        return run_command(channel, command, self.text)

    def enter(self, stage: Stage) -> None:
        """Go on to a stage; raises Trouble if the main thread has closed the session."""
        self.stage = stage
        self.stop_if_closed()

    def stop_if_closed(self) -> None:
        if self.closed.is_set():
            raise Trouble("The session was closed.")

    def hang_up(self) -> None:
        if self.transport is not None:
            self.transport.close()
            self.transport.sock.close()  # which paramiko leaves open if the handshake failed

    def close(self) -> None:
        """End the session, also one that is about to connect. Any thread may call this."""
        self.closed.set()
        self.hang_up()


# ---- Explaining a failure ------------------------------------------------------------------------


def explain(error: Exception, session: Session) -> str:
    """Return why a server failed, in sentences that say what to do."""
    if isinstance(error, Trouble):
        cause = str(error)
    elif session.stage is Stage.CONNECTING:
        cause = explain_connecting(error, session)
    elif session.stage is Stage.LOGGING_IN:
        cause = explain_login(error, session)
    else:
        cause = explain_session(error, session)
    return cause if isinstance(error, Refused) else cause + doubt(session)


def doubt(session: Session) -> str:
    """Return what to add to a reason if nobody knows whether the restart happened."""
    if not session.restart_sent:
        return ""
    return (
        " The restart may or may not have happened: check the Web Bridge before you run this again."
    )


def advise(error: Exception) -> str:
    """Return what to do where the reason does not say it, because it is a line of Cisco's."""
    if isinstance(error, NoValidConnectionsError):
        return ". Check the address, and that SSH to it is open from this computer."
    return ""


def explain_connecting(error: Exception, session: Session) -> str:
    place = f"{session.server.host} port {session.server.port}"
    if isinstance(error, NoValidConnectionsError):
        return str(error)  # the line that Cisco's script logs
    if isinstance(error, socket.gaierror):
        return f"Cannot resolve {session.server.host}. Check the name in WEBBRIDGES, and DNS."
    if isinstance(error, OSError):
        return f"Cannot connect to {place}: {error.strerror or printable(str(error))}."
    if isinstance(error, IncompatiblePeer):
        return explain_incompatible(error, session)
    if isinstance(error, paramiko.SSHException):
        return f"No usable SSH answer from {place}. Is it an MMP? Is the server overloaded?"
    return explain_session(error, session)


def explain_incompatible(error: Exception, session: Session) -> str:
    version = paramiko.__version__
    words = (
        f"The server and paramiko {version} have no algorithm in common: {printable(str(error))}."
    )
    host_key_agreed = session.transport and session.transport.host_key_type
    # paramiko 5 dropped SHA-1 from the key exchange and the host keys, which come first.
    if version.startswith("4.") or host_key_agreed:
        return words
    install = f'"{sys.executable}" -m pip install "paramiko<5"'
    return f"{words} If the server offers nothing newer than SHA-1, run: {install}"


def explain_login(error: Exception, session: Session) -> str:
    access, server = session.access, session.server
    by_hand = f"by hand: ssh -p {server.port} {access.username}@{server.host}"
    offered = ""
    if isinstance(error, paramiko.BadAuthenticationType):
        offered = printable(", ".join(error.allowed_types))
    if offered:
        return f"The server accepts no password, only {offered}. Use an account that has one."
    if isinstance(error, paramiko.AuthenticationException):
        return (
            "Login refused; not retried, so as not to lock the account. Wrong user name or "
            f"password ({access.password_source}), locked account, or an MMP 'user host' or "
            f"'user duty' rule; or the server hung up. Try once {by_hand}"
        )
    if isinstance(error, (AsksForMore, paramiko.SSHException)):
        return f"The server asks for more than a password. It may have expired. Log in {by_hand}"
    return explain_session(error, session)


def explain_session(error: Exception, session: Session) -> str:
    """Return why a server failed, at any stage where nothing more special is known."""
    doing, said = session.stage.value, printable(str(error))
    if isinstance(error, paramiko.ChannelException):
        return f"The server refused a session (code {error.code}). Too many sessions may be open."
    if not isinstance(error, (OSError, EOFError, paramiko.SSHException, paramiko.SFTPError)):
        return f"{type(error).__name__} while {doing}: {said}."
    if not is_alive(session.transport):
        return f"The connection broke off while {doing}."
    if isinstance(error, (EOFError, paramiko.SSHException)):
        return f"The server refused while {doing}. Check what {session.access.username} may do."
    return f"Failed while {doing}: {said}."


# ---- Counters in a log ---------------------------------------------------------------------------

# Only --sessions, --if-leaked and --max-active need this part and the next.


class Bridge(enum.Enum):
    """What logs a counter of sessions."""

    WEB = "Web Bridge"
    CALL = "Call Bridge"  # as CMA: the users of the Cisco Meeting App, those with WebRTC among them


Wanted = dict[Server, set[Bridge]]  # the counters that each server's log should have
HARD_LIMIT = 149  # sessions of one Web Bridge, says Cisco's document
MAX_COUNTER_AGE = {Bridge.WEB: MAX_WEB_BRIDGE_AGE, Bridge.CALL: MAX_CALL_BRIDGE_AGE}
MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
LINE_TIME = (
    rb"(?m)^(?:<\d{1,3}> ?)?(?P<time>"
    rb"(?:(?P<month>[A-Z][a-z]{2}) {1,2}(?P<day>\d{1,2})|(?P<date>\d{4}-\d\d-\d\d))"
    rb"[ T](?P<clock>\d\d:\d\d:\d\d))(?:[.,]\d{1,9})?(?P<zone>Z|[+-]\d\d:?\d\d)?"
)
TIMED_LINE = re.compile(LINE_TIME)
# Jun 20 21:14:00 user.info cms1 "webbridge": INFO : [DEBUGGING] Stats 149, c:3477, d:3170
# Jun 20 21:14:00 user.info cms1 host:server: INFO : STATS: {"callLegsPS": 1, "CMA": "14/17"}
# After the time come facility.level, the host and perhaps another word. The first word that ends
# with a colon is the process. What a client sends comes later, so only this beginning counts.
BEFORE_PROCESS = rb"\S*[ \t]{1,99}(?:\S+(?<!:)[ \t]{1,99}){0,3}?"
AFTER_PROCESS = rb"(?:\[\d+\])?[ \t]*:[ \t]*INFO[ \t]*:[ \t]*"
WEB_BRIDGE_COUNTER = (
    rb"[^\w\s]{0,3}(?:host:)?webbridge[^\w\s]{0,3}" + AFTER_PROCESS + rb"\[DEBUGG?ING\][ \t]*"
    rb"Stats[ \t]+(?P<sessions>\d{1,9})[ \t]*,"
)
CALL_BRIDGE_COUNTER = (
    rb"(?:host:)?server" + AFTER_PROCESS + rb"STATS[ \t]*:[ \t]*(?P<stats>\{[^\n]*)"
)
COUNTER_LINE = re.compile(
    LINE_TIME + BEFORE_PROCESS + rb"(?:" + WEB_BRIDGE_COUNTER + rb"|" + CALL_BRIDGE_COUNTER + rb")"
)


class Counter(NamedTuple):
    """The newest counter of one kind in a log."""

    active: int
    shown: str
    age: datetime.timedelta  # up to the log's last line


class Reading(NamedTuple):
    """What the end of a log says."""

    end: datetime.datetime | None  # the time of its last line, in UTC
    end_shown: str
    counters: Mapping[Bridge, Counter]


def parse_time(found: re.Match[bytes], near: datetime.datetime) -> datetime.datetime | None:
    """Return the time of a line in UTC, or None for a date that does not exist.

    A time without a year is in the year that brings it nearest to the other time. A time without
    a zone is taken for UTC.
    """
    dates = [found["date"]]
    if found["month"]:
        month = MONTHS.index(found["month"]) + 1 if found["month"] in MONTHS else 0
        years = range(near.year - 4, near.year + 5)  # so that one of them has a February 29
        dates = [b"%04d-%02d-%02d" % (year, month, int(found["day"])) for year in years]
    zone = found["zone"] or b"Z"
    offset = b"+00:00" if zone == b"Z" else zone[:3] + b":" + zone[-2:]
    moments = []
    for date in dates:
        with contextlib.suppress(ValueError):
            text = (date + b"T" + found["clock"] + offset).decode()
            moments.append(datetime.datetime.fromisoformat(text))
    return min(moments, key=lambda each: abs(each - near), default=None)


def parse_counter(found: re.Match[bytes]) -> tuple[int, str]:
    """Return a counter's active sessions and its text; raises ValueError or RecursionError."""
    if found["sessions"]:
        active = int(found["sessions"])
        return active, f"{active} FULL" if active >= HARD_LIMIT else str(active)
    stats = json.loads(found["stats"].decode("utf-8", "replace"))
    cma = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", str(stats.get("CMA")))
    if cma is None or int(cma[1]) > int(cma[2]):
        raise ValueError(stats)
    return int(cma[1]), cma[0]


def parse_log(log: LogEnd, now: datetime.datetime) -> Reading:
    """Return the newest readable counter of each kind, and when the log ends."""
    # What is left of a line that was cut can look like a line of its own.
    text = log.text.partition(b"\n")[2] if log.cut else log.text
    end, end_shown = None, ""
    for found in reversed(list(TIMED_LINE.finditer(text))):
        end = parse_time(found, now)
        if end:
            end_shown = found["time"].decode()
            break
    counters: dict[Bridge, Counter] = {}
    for found in reversed(list(COUNTER_LINE.finditer(text))):
        bridge = Bridge.WEB if found["sessions"] else Bridge.CALL
        logged = parse_time(found, end) if end and bridge not in counters else None
        if end and logged:
            with contextlib.suppress(ValueError, RecursionError):
                counters[bridge] = Counter(*parse_counter(found), end - logged)
    return Reading(end, end_shown, counters)


def find_problem(
    reading: Reading, wanted: Collection[Bridge], now: datetime.datetime | None
) -> str:
    """Return why the counters of a log are of no use, or "" if they are fit to count.

    now is this computer's clock, against which a live server's log must be current. None stands
    for a saved log, of which only the counters' own ages count.
    """
    if reading.end is None:
        return "The log has no line that begins with a time."
    if now and abs(now - reading.end) > MAX_LOG_AGE:
        when = "ago" if reading.end < now else "from now; check both clocks"
        ends = f"{reading.end_shown}, {format_span(now - reading.end)} {when}"
        return f"The log ends on {ends}."
    for bridge in Bridge:
        counter = reading.counters.get(bridge)
        if bridge in wanted and counter is None:
            hint = ""
            if bridge is Bridge.CALL:
                hint = " CMS 2.8 and newer log it."
            if bridge is Bridge.CALL and not CALLBRIDGES:
                hint += " If other servers run the Call Bridges, list all of those in CALLBRIDGES."
            return f"The log has no readable {bridge.value} counter.{hint}"
        if bridge in wanted and counter and abs(counter.age) > MAX_COUNTER_AGE[bridge]:
            when = "before" if counter.age > datetime.timedelta(0) else "after"
            age = f"{format_span(counter.age)} {when} the log's end"
            return f"The newest {bridge.value} counter is too old: it was logged {age}."
    return ""


# ---- Leaked sessions -----------------------------------------------------------------------------

CAUTIONS = """\
Before end: how long before the log's end the counter was logged.
The leaked sessions are right only if nobody uses the CMA desktop or iOS client.
In a cluster, only the sum of all servers means something."""


@dataclass(frozen=True)
class Row:
    """What the log of one server says, and what is wrong with it, if anything."""

    name: str
    wanted: Collection[Bridge]
    reading: Reading
    problem: str

    def counter(self, bridge: Bridge) -> Counter | None:
        return self.reading.counters.get(bridge) if bridge in self.wanted else None


class Figures(NamedTuple):
    """The sums of a deployment."""

    web_bridge: int
    active: int

    @property
    def leaked(self) -> int:
        return max(0, self.web_bridge - self.active)


NO_READING = Reading(None, "", {})


def draw_table(rows: Sequence[Row]) -> str:
    """Return the table of all counters."""
    table = [["Server", "Web Bridge", "Before end", "CMA", "Before end", "Log ends", ""]]
    for row in rows:
        cells = [row.name]
        for bridge in Bridge:
            counter = row.counter(bridge)
            cells += [counter.shown, format_span(counter.age)] if counter else ["-", "-"]
        problem = f"Not counted: {row.problem}" if row.problem else ""
        table.append([*cells, row.reading.end_shown or "-", problem])
    widths = [max(map(len, column)) for column in zip(*table)]
    return "\n".join("  ".join(map(str.ljust, cells, widths)).rstrip() for cells in table)


def sum_up(rows: Sequence[Row]) -> Figures:
    """Return the sums; raises Trouble if a figure is missing or too old."""
    problems = [f"{row.name}: {row.problem}" for row in rows if row.problem]
    sums = {}
    for bridge in Bridge:
        counters = [row.counter(bridge) for row in rows]
        sums[bridge] = sum(counter.active for counter in counters if counter)
        if not problems and not any(counters):
            problems.append(f"There is no log of a {bridge.value}.")
    if problems:
        raise Trouble(f"Cannot count the leaked sessions. {' '.join(problems)}")
    return Figures(sums[Bridge.WEB], sums[Bridge.CALL])


def describe_figures(figures: Figures) -> str:
    return (
        f"Leaked: {counted(figures.leaked, 'session')} "
        f"({figures.web_bridge} Web Bridge, {figures.active} active CMA)."
    )


def why_not_restart(figures: Figures, if_leaked: int | None, max_active: int | None) -> str:
    """Return which condition forbids a restart, with both figures, or "" if none does."""
    busy = max_active is not None and figures.active > max_active
    few = if_leaked is not None and figures.leaked < if_leaked
    if not busy and not few:
        return ""
    active = counted(figures.active, "active session")
    leaked = counted(figures.leaked, "leaked session")
    if busy:
        active += f", more than --max-active {max_active}"
    if few:
        leaked += f", fewer than --if-leaked {if_leaked}"
    return f"{active}; {leaked}"


# ---- Telling: the terminal and the log -----------------------------------------------------------


class Terminal:
    """What a run prints: results on stdout, failures on stderr."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.waiting = ""  # the line that the next one takes the place of

    def say(self, text: str) -> None:
        if not self.quiet:
            self.show(text)

    def show(self, text: str) -> None:
        """Print what was asked for, also with --quiet."""
        self.show_waiting([])
        self.write("stdout", f"{text}\n")

    def complain(self, text: str) -> None:
        self.show_waiting([])
        self.write("stderr", f"{text}\n")

    def show_waiting(self, addresses: Sequence[str]) -> None:
        """On a terminal, show who is waited for. The next line takes the place of this."""
        if self.quiet or not sys.stdout or not sys.stdout.isatty():
            return
        text = f"Waiting for {', '.join(addresses)}"[:74] + " ..." if addresses else ""
        if text != self.waiting:
            self.waiting = text
            self.write("stdout", f"\r{text:78}\r")

    def write(self, stream: str, text: str) -> None:
        """Write to sys.stdout or sys.stderr; one that is gone or full must not stop the work."""
        try:
            encoding = getattr(sys, stream).encoding or "ascii"
            getattr(sys, stream).write(text.encode(encoding, "backslashreplace").decode(encoding))
            getattr(sys, stream).flush()
        except (AttributeError, OSError, ValueError):
            # Otherwise Python tries again at its exit, and exits with 120.
            setattr(sys, stream, None)


class Log:
    """The log file."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.path: Path | None = None  # nothing is logged before it is set
        self.lost = False

    def write(self, *messages: str) -> None:
        """Append the messages; tells what could not be written, and goes on."""
        if self.path is None:
            return
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(" ", "microseconds")
        # Escaped, so that one message is one line: nothing can forge another.
        lines = "".join(f"{now} {escape(message)}{os.linesep}" for message in messages)
        data = lines.encode()
        try:
            with self.path.open("ab", buffering=0) as file:
                while data:  # one write, so that runs side by side do not mix; more on a full disk
                    data = data[file.write(data) :]
        except OSError as error:
            self.lost = True
            reason = f"Cannot write to {self.path}: {explain_file(error)}"
            self.terminal.complain(f"{reason} Not logged:\n{lines.rstrip()}")


def refuse_unwritable_log(path: Path) -> None:
    """Raises Trouble if the log could not be written; leaves no new file behind."""
    try:
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.resolve().parent).close()
    except OSError as error:
        raise Trouble(f"Cannot write to {path}: {explain_file(error)}") from None


# ---- The run -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What the parts of a run share."""

    options: argparse.Namespace
    access: Access
    terminal: Terminal
    log: Log
    signals: list[signal.Signals]  # received so far

    def why_cut_off(self, session: Session) -> str:
        """Return why the session must end now, or ""."""
        if self.signals:
            return f"by {self.signals[0].name}"
        if time.monotonic() > session.began + session.seconds:
            return f"after {session.seconds:g} s"
        return ""

    def fail(self, message: str) -> None:
        """Log and print why the run did not do all of its work."""
        self.log.write(message)
        self.terminal.complain(message)


# ---- Jobs: what is done at one server ------------------------------------------------------------


def restart(session: Session) -> str:
    """Restart the Web Bridge and return the answer; raises Refused, or Trouble if in doubt."""
    return confirm(judge_restart(session.run(session.open(), RESTART_COMMAND)))


def check(session: Session) -> str:
    """Ask the Web Bridge for its settings and return them; raises as above, and changes nothing."""
    return confirm(judge_check(session.run(session.open(), CHECK_COMMAND)))


def confirm(verdict: Verdict) -> str:
    """Return the answer of a success; raises Refused, or Trouble if in doubt."""
    if verdict.is_success:
        return verdict.reason
    raise (Trouble if verdict.in_doubt else Refused)(verdict.reason)


def read_counters(session: Session, wanted: Collection[Bridge]) -> Reading:
    """Read no more of the MMP's log than it takes to find the wanted counters."""
    transport = session.open()
    reading = NO_READING
    session.enter(Stage.LOG)
    for end in read_log(transport):
        reading = parse_log(end, datetime.datetime.now(datetime.timezone.utc))
        if all(bridge in reading.counters for bridge in wanted):
            break
    return reading


# ---- Turns ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """How a server's turn ended: a value, or the reason why there is none."""

    server: Server
    seconds: float
    value: T | None
    reason: str = ""
    advice: str = ""  # what the reason does not say, for the terminal
    new_host_key: str = ""


def make_outcome(
    session: Session, value: T | None, reason: str = "", advice: str = ""
) -> Outcome[T]:
    seconds = time.monotonic() - session.began
    return Outcome(session.server, seconds, value, reason, advice, session.new_host_key)


OutcomeQueue = queue.SimpleQueue[tuple[Session, Outcome[T]]]


def do_job(job: Callable[[Session], T], session: Session, results: OutcomeQueue[T]) -> None:
    """Do the job in this thread and hand over its outcome."""
    try:
        outcome = make_outcome(session, job(session))
    except Exception as error:  # one server's trouble of any kind must not stop the others
        outcome = make_outcome(session, None, explain(error, session), advise(error))
    session.close()
    results.put((session, outcome))


def start_job(job: Callable[[Session], T], session: Session, results: OutcomeQueue[T]) -> None:
    """Do the job in a thread of its own, which the end of the run does not wait for."""
    try:
        threading.Thread(target=do_job, args=(job, session, results), daemon=True).start()
    except RuntimeError as error:  # the system has no more threads
        results.put((session, make_outcome(session, None, explain(error, session))))


def cut_off(session: Session, why: str) -> str:
    """Close the session and return the reason."""
    session.close()  # first, so that nothing is sent after the look at what was sent
    cut = f"Cut off {why} while {session.stage.value}."
    if not session.restart_sent:
        return cut
    verdict = judge_restart(Answer(bytes(session.text), None, True, cut))
    return verdict.reason + (doubt(session) if verdict.in_doubt else "")


def take_turns(
    job: Callable[[Session], T], servers: Sequence[Server], parallel: int, run: Run
) -> Iterator[Outcome[T]]:
    """Do the job at this many servers at once, and yield each outcome until a signal comes.

    Only this thread decides how a server ended. What comes after the cut-off is dropped.
    """
    waiting, running = collections.deque(servers), list[Session]()
    results: OutcomeQueue[T] = queue.SimpleQueue()
    while running or (waiting and not run.signals):
        while waiting and len(running) < parallel and not run.signals:
            session = Session(waiting.popleft(), run.access, run.options.timeout)
            running.append(session)
            start_job(job, session, results)
        run.terminal.show_waiting([session.server.address for session in running])
        finished: list[tuple[Session, Outcome[T]]] = []
        try:
            finished.append(results.get(timeout=TICK))
        except queue.Empty:  # only now look at the clock: this thread may itself have been held up
            for session in running:
                why = run.why_cut_off(session)
                if why:
                    finished.append((session, make_outcome(session, None, cut_off(session, why))))
        for session, outcome in finished:
            if session in running:
                running.remove(session)
                yield outcome


# ---- Restarting and checking ---------------------------------------------------------------------


def listen_for_signals() -> list[signal.Signals]:
    """Return a list that gets the signals to stop. An ignored signal stays ignored."""
    received: list[signal.Signals] = []
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: received.append(signal.Signals(number)))
    return received


def tell_new_host_key(outcome: Outcome[T], run: Run) -> None:
    if outcome.new_host_key:
        run.terminal.say(f"New host key of {outcome.server.address}: {outcome.new_host_key}")


def tell_outcome(outcome: Outcome[str], servers: list[Server], done: str, run: Run) -> None:
    """Print how one server's turn ended."""
    tell_new_host_key(outcome, run)
    place = f"[{servers.index(outcome.server) + 1}/{len(servers)}] {outcome.server.address}"
    took = f"{outcome.seconds:.1f} s"
    if outcome.reason:
        run.terminal.complain(f"{place} FAILED after {took}: {outcome.reason}{outcome.advice}")
        return
    run.terminal.say(f"{place} {done} in {took}")
    if run.options.verbose:
        run.terminal.say(f"  answered: {outcome.value}")


def log_restart(outcome: Outcome[str], log: Log) -> None:
    """Log the outcome in the words of Cisco's script."""
    address = outcome.server.address
    if outcome.reason:
        log.write(f"Failed to restart webbridge on server {address}. Error:", outcome.reason)
    else:
        log.write(f"Webbridge on server: {address} restarted successfully")


def tell_end(servers: list[Server], outcomes: list[Outcome[str]], words: str, run: Run) -> bool:
    """Print how many succeeded and who was not attempted; return whether all succeeded."""
    succeeded = sum(not outcome.reason for outcome in outcomes)
    run.terminal.say(words.format(succeeded, counted(len(servers), "server")))
    if run.signals:
        attempted = [outcome.server for outcome in outcomes]
        names = ", ".join(s.address for s in servers if s not in attempted) or "none"
        run.fail(f"Ended by {run.signals[0].name}. Not attempted: {names}")
    return succeeded == len(servers)


def restart_all(servers: list[Server], run: Run) -> bool:
    """Restart the servers, log and print each outcome; return whether all were restarted."""
    outcomes = []
    for outcome in take_turns(restart, servers, run.options.parallel, run):
        outcomes.append(outcome)
        log_restart(outcome, run.log)
        tell_outcome(outcome, servers, "restarted", run)
    return tell_end(servers, outcomes, "Restarted {} of {}.", run)


def check_all(servers: list[Server], run: Run) -> bool:
    """Check the servers and print each outcome; return whether all are ready."""
    outcomes = []
    for outcome in take_turns(check, servers, run.options.parallel, run):
        outcomes.append(outcome)
        tell_outcome(outcome, servers, "OK (Web Bridge enabled)", run)
    return tell_end(servers, outcomes, "{} of {} ready.", run)


# ---- Counting, and what depends on it ------------------------------------------------------------


def read_rows(wanted: Wanted, run: Run) -> list[Row]:
    """Read the counters of all servers at the same time."""

    def job(session: Session) -> Reading:
        return read_counters(session, wanted[session.server])

    not_reached = "It was not reached."
    rows = {s: Row(s.address, wanted[s], NO_READING, not_reached) for s in wanted}
    for outcome in take_turns(job, list(wanted), len(wanted), run):
        tell_new_host_key(outcome, run)
        server, reading = outcome.server, outcome.value or NO_READING
        now = datetime.datetime.now(datetime.timezone.utc)
        if outcome.reason:
            problem = outcome.reason + outcome.advice
        else:
            problem = find_problem(reading, wanted[server], now)
        rows[server] = Row(server.address, wanted[server], reading, problem)
    return list(rows.values())


def read_saved_log(path: Path) -> Row:
    """Read the counters from the end of a saved log, plain or .gz."""
    reading, problem = NO_READING, ""
    now = datetime.datetime.now(datetime.timezone.utc)  # for times without a year
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            reading = parse_log(read_to_end(file.read), now)
    except (OSError, EOFError, zlib.error) as error:
        problem = f"Cannot read it: {printable(str(error))}."
    wanted = set(reading.counters) or set(Bridge)
    return Row(str(path), wanted, reading, problem or find_problem(reading, wanted, None))


def show_count(rows: list[Row], show: Callable[[str], None], terminal: Terminal) -> Figures:
    """Print the table and the sums, and return the sums; raises Trouble if one is missing."""
    show(draw_table(rows))
    figures = sum_up(rows)
    show(describe_figures(figures))
    terminal.say(CAUTIONS)
    return figures


def show_sessions(rows: list[Row], terminal: Terminal) -> bool:
    """Print what was asked for; return whether it could be counted."""
    try:
        show_count(rows, terminal.show, terminal)
        return True
    except Trouble as error:
        terminal.complain(str(error))
        return False


def rehearse(servers: list[Server], wanted: Wanted, run: Run) -> bool:
    """Do all that a run with conditions does except restart, and say what it would do."""
    options, show = run.options, run.terminal.show
    try:
        figures = show_count(read_rows(wanted, run), show, run.terminal)
    except Trouble as error:
        run.terminal.complain(f"{error} A run now would restart nothing.")
        return False
    why_not = why_not_restart(figures, options.if_leaked, options.max_active)
    nothing = f"nothing: {why_not}" if why_not else counted(len(servers), "server")
    show(f"A run now would restart {nothing}.")
    return True


def restart_if_conditions_met(servers: list[Server], wanted: Wanted, run: Run) -> bool:
    """Restart the servers if the conditions call for it; return whether all went well."""
    try:
        figures = show_count(read_rows(wanted, run), run.terminal.say, run.terminal)
    except Trouble as error:
        run.fail(f"Nothing was restarted. {error}")
        return False
    why_not = why_not_restart(figures, run.options.if_leaked, run.options.max_active)
    if not why_not:
        return restart_all(servers, run)
    run.log.write(f"Not restarted: {why_not}.")
    run.terminal.say(f"Not restarted: {why_not}.")
    return True


# ---- The command line ----------------------------------------------------------------------------


Number = Callable[[str], float]


def number(kind: Number, is_right: Callable[[float], bool], rule: str) -> Number:
    """Return an argparse type for numbers that follow a rule."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if is_right(value):
                return value
        raise argparse.ArgumentTypeError(f"must be {rule}, not {text!r}")

    return parse


SECONDS = number(float, lambda n: 0 < n <= 86400, "more than 0 and at most 86400 seconds")
SERVERS = number(int, lambda n: 1 <= n <= 100, "from 1 to 100 servers")
SESSIONS = number(int, lambda n: n >= 0, "0 or more sessions")


def full_path(text: str) -> Path:
    """Return the path as messages name it; an argparse type."""
    with contextlib.suppress(OSError, RuntimeError):  # no current folder, no such user's home
        return Path(text).expanduser().absolute()
    return Path(text)


def saved_log(text: str) -> Path:
    """Return the path of a saved log; an argparse type."""
    path = full_path(text)
    try:
        if not path.is_dir():
            path.stat()
            return path
    except FileNotFoundError:
        pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {explain_file(error)}") from None
    raise argparse.ArgumentTypeError(
        f"{path} is not a file; SERVER is not allowed with --from-logs"
    )


LOG_NAME = "webbridge_restart_logs.txt"
FLAG: dict[str, Any] = {"action": "store_true"}
FILE: dict[str, Any] = {"type": full_path, "metavar": "FILE"}


def add_tasks(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to do")
    add, add_mode = group.add_argument, group.add_mutually_exclusive_group().add_argument
    add(
        "servers",
        nargs="*",
        metavar="SERVER",
        help="number or address of a server in WEBBRIDGES (default: all of them)",
    )
    add_mode(
        "--check",
        **FLAG,
        help="log in and ask each Web Bridge for its settings; restart nothing, log nothing. With "
        "--if-leaked or --max-active, also count, and say what a run would do now",
    )
    add_mode(
        "--sessions",
        **FLAG,
        help="count the leaked sessions of all servers; restart nothing, log nothing",
    )
    add(
        "--from-logs",
        type=saved_log,
        metavar="FILE",
        nargs="+",
        help="with --sessions: count in saved logs (plain or .gz); log in to no server",
    )
    add(
        "--if-leaked",
        type=SESSIONS,
        metavar="N",
        help="restart only if at least N sessions are leaked",
    )
    add(
        "--max-active",
        type=SESSIONS,
        metavar="N",
        help="restart only if at most N sessions are active",
    )


def add_access(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("access to the servers").add_argument
    add("--password-file", **FILE, help="a UTF-8 file whose first line is the password")
    add(
        "--ask-password",
        **FLAG,
        help="ask for the password on the terminal, whatever else is set. After it come "
        "--password-file, the environment variable MMP_PASSWORD, and MMP_PASSWORD in the script",
    )
    add(
        "--known-hosts",
        **FILE,
        default=SCRIPT.with_name("webbridge_known_hosts"),
        help="the stored host keys (default: webbridge_known_hosts beside the script)",
    )
    add(
        "--accept-new-host-keys",
        **FLAG,
        help="store and trust the host key of each server that has none stored. Meant for "
        "--check: without --check, the run then goes on and restarts",
    )
    add(
        "--timeout",
        type=SECONDS,
        metavar="SECONDS",
        default=SECONDS_PER_SERVER,
        help="time for each server, in total (default: %(default)g)",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to do it, and what to say")
    add, add_amount = group.add_argument, group.add_mutually_exclusive_group().add_argument
    add(
        "--parallel",
        type=SERVERS,
        metavar="N",
        default=1,
        help="restart or check at most N servers at once (default: %(default)s)",
    )
    add(
        "--log-file",
        **FILE,
        default=SCRIPT.with_name(LOG_NAME),
        help=f"the log to append to (default: {LOG_NAME} beside the script)",
    )
    add_amount(
        "-q", "--quiet", **FLAG, help="print only failures, and the figures that you asked for"
    )
    add_amount("-v", "--verbose", **FLAG, help="also print what each server answered")
    add("--version", action="version", version=f"%(prog)s {__version__}")


NOT_TOGETHER = (
    ("--from-logs", "SERVER"),
    ("--from-logs", "--check"),
    ("--from-logs", "--if-leaked"),
    ("--from-logs", "--max-active"),
    ("--sessions", "SERVER"),
    ("--sessions", "--if-leaked"),
    ("--sessions", "--max-active"),
)


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; exits as argparse does if they do not go together."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    add_tasks(parser)
    add_access(parser)
    add_output(parser)
    options = parser.parse_args(argv)
    given = {
        "SERVER": bool(options.servers),
        "--check": options.check,
        "--sessions": options.sessions,
        "--from-logs": options.from_logs is not None,
        "--if-leaked": options.if_leaked is not None,
        "--max-active": options.max_active is not None,
    }
    for one, other in NOT_TOGETHER:
        if given[one] and given[other]:
            parser.error(f"{other} is not allowed with {one}")
    if options.from_logs and not options.sessions:
        parser.error("--from-logs is only allowed with --sessions")
    options.conditional = given["--if-leaked"] or given["--max-active"]
    return options


def read_deployment(names: list[str]) -> tuple[list[Server], Wanted]:
    """Return the servers to restart, and what to count on all servers; raises Trouble."""
    refuse_repeated_numbers()
    web_bridges = read_inventory("WEBBRIDGES", WEBBRIDGES)
    call_bridges = read_inventory("CALLBRIDGES", CALLBRIDGES) if CALLBRIDGES else web_bridges
    by_name: dict[str, Server] = {}  # a server that stands in both inventories counts once
    wanted: Wanted = {}
    for bridge, servers in ((Bridge.WEB, web_bridges), (Bridge.CALL, call_bridges)):
        for server in servers:
            wanted.setdefault(by_name.setdefault(server.known_as, server), set()).add(bridge)
    return choose_servers(web_bridges, names), wanted


def do_run(servers: list[Server], wanted: Wanted, run: Run) -> bool:
    """Do what the options ask for; return whether all went well."""
    options = run.options
    if options.sessions:
        return show_sessions(read_rows(wanted, run), run.terminal)
    if options.check:
        ready = check_all(servers, run)
        return rehearse(servers, wanted, run) if ready and options.conditional else ready
    if options.conditional:
        return restart_if_conditions_met(servers, wanted, run)
    return restart_all(servers, run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the whole job and return the exit status, which the top of this file explains."""
    # paramiko and its threads print tracebacks of errors that are handled here.
    logging.getLogger("paramiko").setLevel(sys.maxsize)
    threading.excepthook = lambda _: None
    options = parse_options(argv)
    terminal = Terminal(options.quiet)
    log = Log(terminal)
    try:
        if options.from_logs:
            rows = [read_saved_log(path) for path in dict.fromkeys(options.from_logs)]
            return 0 if show_sessions(rows, terminal) else 1
        if not options.sessions:
            refuse_unwritable_log(options.log_file)
        if not (options.sessions or options.check):
            log.path = options.log_file  # what goes wrong from here on is logged
        servers, wanted = read_deployment(options.servers)
        access = read_access(options)
    except Trouble as error:
        log.write(str(error))
        terminal.complain(str(error))
        return 2
    except KeyboardInterrupt:  # at the question for the password, for example
        return 130
    run = Run(options, access, terminal, log, listen_for_signals())
    succeeded = do_run(servers, wanted, run)
    if run.signals:
        return 128 + run.signals[0]
    return 0 if succeeded and not log.lost else 1


if __name__ == "__main__":
    raise SystemExit(main())
