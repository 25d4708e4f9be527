#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["paramiko>=4.0,<6"]
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
  .venv/bin/python webbridge_restart.py --if-leaked 20 --max-active 0
                         restart only if it is needed and nobody is in a meeting

Exit status:
  0    every server was restarted (or is ready, or was counted), or the
       conditions did not call for a restart
  1    at least one server failed or could not be counted, the conditions left
       a full Web Bridge as it is, or a line of the log was lost
  2    the set-up is wrong, and nothing was attempted
  130, 143, 129, 149   ended by Ctrl-C, SIGTERM, a closed terminal, Ctrl-Break
"""

from __future__ import annotations

import argparse
import ast
import codecs
import concurrent.futures
import contextlib
import datetime
import errno
import functools
import getpass
import ipaddress
import logging
import math
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

try:
    import paramiko

    if int(paramiko.__version__.partition(".")[0]) < 4:
        raise ImportError(f"found paramiko {paramiko.__version__}")
except ImportError as error:
    print(
        f"paramiko 4.0 or newer is not installed for {sys.executable} ({error}). "
        "Run this script with the Python of its virtual environment (see README.md).",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

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
MMP_PASSWORD = ""  # README.md names safer places for the password

# Only for counting sessions, and only if other servers run the Call Bridges: list all Call Bridges.
CALLBRIDGES: dict[int, str] = {}

# ---- Limits --------------------------------------------------------------------------------------

SECONDS_PER_SERVER = 60.0  # the default of --timeout: from connecting to the whole answer
CONNECT_TRIES = 3
TRY_SHARE = 0.3  # of --timeout, for each step of a try to connect: 18 of 60 seconds
SECONDS_BETWEEN_TRIES = 2.0
LATE_OUTPUT_SECONDS = 2.0  # output may come this long after the exit status
LATE_STATUS_SECONDS = 10.0  # the exit status may come this long after the end of the output
SECONDS_OF_SILENCE = 10.0  # after a whole line SUCCESS or FAILURE: then we end our side
HANG_UP_SECONDS = 1.0  # paramiko notices within this time that a connection is gone
NEVER = 1e6  # seconds, for paramiko's own limits
TICK = 0.005  # seconds between two looks at the clock
MIB = 1 << 20  # bytes
MAX_ANSWER_BYTES = MIB  # a longer answer is none: no command prints so much
MAX_SHOWN_CHARACTERS = 300  # of an answer, in the log and on the terminal

HARD_LIMIT = 149  # sessions of one Web Bridge, says Cisco's document
LOG_STEPS = (MIB, 16 * MIB)  # to read from the end of a server's log, until it has the counters
MAX_LOG_AGE = datetime.timedelta(hours=26)  # a time without a zone can be 14 hours off
MAX_WEB_BRIDGE_AGE = datetime.timedelta(hours=24)  # how often it is logged is not published
MAX_CALL_BRIDGE_AGE = datetime.timedelta(minutes=15)  # Cisco's document: logged every 5 minutes

# ---- Nothing below needs editing -----------------------------------------------------------------

__version__ = "3.0.0"
SCRIPT = Path(__file__).resolve()  # cron and Task Scheduler start it in other folders
RESTART_COMMAND = "webbridge restart"
STORE_KEY_OPTIONS = "--check --accept-new-host-keys"
# RSA keys have one name in a known-hosts file, but sign under three.
KNOWN_NAMES = {"rsa-sha2-512": "ssh-rsa", "rsa-sha2-256": "ssh-rsa"}
# What paramiko raises where a connection breaks, or where what comes makes no sense.
CONNECTION_ERRORS = (OSError, EOFError, ValueError, paramiko.SSHException)
T = TypeVar("T")


class Trouble(Exception):
    """What is wrong, in sentences that say what to do. Nothing was sent that restarts anything."""

    advice = ""  # what to do, where the sentences must stay as they are


# ---- Text, files, and what a run tells -----------------------------------------------------------


def escape(text: str) -> str:
    """Return the text as one line that drives no terminal: ends of lines and the like escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def show(sent: bytes | str) -> str:
    """Return what a server sent as one short line, its lines joined by bars."""
    text = sent.decode("utf-8", "backslashreplace") if isinstance(sent, bytes) else sent
    lines = (line.strip() for line in text.splitlines())
    joined = " | ".join(line for line in lines if line) or "nothing"
    shown = escape(joined[: MAX_SHOWN_CHARACTERS + 1])
    return shown if len(shown) <= MAX_SHOWN_CHARACTERS else f"{shown[:MAX_SHOWN_CHARACTERS]}..."


def counted(number: int, noun: str) -> str:
    """Return the number with its noun: 1 server, 2 servers."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def explain_file(error: OSError) -> str:
    """Return why a file cannot be read or written, and what to do if a right is missing."""
    hint = " Check which account runs this, and who owns the file."
    return f"{error.strerror}.{hint if isinstance(error, PermissionError) else ''}"


def read_file(path: Path) -> bytes:
    """Return what a small text file holds; raises OSError, or Trouble for UTF-16."""
    text = path.read_bytes()
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in text:
        raise Trouble(f"{path} is UTF-16. Save it again as UTF-8.")
    return text


def append(path: Path, lines: str) -> None:
    """Append whole lines to a file; raises OSError."""
    data = lines.encode()
    if path.is_file() and path.stat().st_size > 0:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # somebody edited the file, or the disk was full
                data = os.linesep.encode() + data
    with path.open("ab", buffering=0) as file:
        while data:  # one write, so that runs side by side do not mix; more on a full disk
            data = data[file.write(data) :]


class Report:
    """What a run prints and logs: results on stdout, failures on stderr."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.log_file: Path | None = None  # nothing is logged before it is set
        self.has_lost_lines = False

    def say(self, text: str, even_if_quiet: bool = False) -> None:
        if even_if_quiet or not self.quiet:
            self.write("stdout", f"{text}\n")

    def complain(self, text: str) -> None:
        self.write("stderr", f"{text}\n")

    def say_on_terminal(self, text: str) -> None:
        """Say what is waited for, where somebody may be watching."""
        if sys.stdout and sys.stdout.isatty():
            self.say(text)

    def write(self, stream: str, text: str) -> None:
        """Write to sys.stdout or sys.stderr; one that is gone or full must not stop the work."""
        try:
            encoding = getattr(sys, stream).encoding or "ascii"
            getattr(sys, stream).write(text.encode(encoding, "backslashreplace").decode(encoding))
            getattr(sys, stream).flush()
        except (AttributeError, OSError, ValueError):
            # Otherwise Python tries again at its exit, and exits with 120.
            setattr(sys, stream, None)

    def log(self, *messages: str) -> None:
        """Append the messages to the log; tells what could not be written, and goes on."""
        if self.log_file is None:
            return
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(" ", "microseconds")
        # Escaped, so that one message is one line: nothing can forge another.
        lines = "".join(f"{now} {escape(message)}{os.linesep}" for message in messages)
        try:
            append(self.log_file, lines)
        except OSError as error:
            self.has_lost_lines = True
            reason = f"Cannot write to {self.log_file}: {explain_file(error)}"
            self.complain(f"{reason} Not logged:\n{lines.rstrip()}")

    def fail(self, message: str) -> None:
        """Log and print why the run did not do all of its work."""
        self.log(message)
        self.complain(message)


# ---- Inventory -----------------------------------------------------------------------------------

LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
ADDRESS = re.compile(
    rf"(?:\[(?P<ipv6>[^]\s]+)\]|(?P<host>{LABEL}(\.{LABEL})*))(:(?P<port>[0-9]+))?"
)


@dataclass(frozen=True)
class Server:
    """One line of the inventory."""

    number: int = field(compare=False)
    address: str = field(compare=False)  # as the inventory has it
    host: str
    port: int

    @property
    def known_as(self) -> str:
        """The name in a known-hosts file."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"

    def __str__(self) -> str:
        return f"{self.number} ({self.address})"


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port; raises ValueError for what is not an address."""
    found = ADDRESS.fullmatch(address)
    port = int(found["port"] or 22) if found else 0
    if found is None or not 0 < port < 65536:
        raise ValueError(address)
    host = found["ipv6"] or found["host"].lower()
    if found["ipv6"] or host.rpartition(".")[2].isdigit():  # no name ends in a number
        host = str(ipaddress.ip_address(host))
    return host, port


def read_inventory(name: str, inventory: object) -> list[Server]:
    """Return the servers of the inventory of this name; raises Trouble."""
    example = 'Put one line per server there, for example 1: "10.48.79.194",'
    if not isinstance(inventory, dict) or not inventory:
        raise Trouble(f"{name} lists no servers. {example}")
    if len(inventory) > 1 and set(map(str, inventory.values())) == {"127.0.0.1"}:
        raise Trouble(f"{name} still has its example addresses. {example}")
    servers: dict[str, Server] = {}
    for number, address in inventory.items():
        entry = f"{name} entry {number!r}, {address!r},"
        if not isinstance(number, int):
            raise Trouble(f'{entry} has no number. Write it like this: 1: "10.48.79.194",')
        try:
            if not isinstance(address, str):
                raise ValueError(address)
            server = Server(number, address.strip(), *parse_address(address.strip()))
        except ValueError:
            raise Trouble(
                f"{entry} is not an address. Write an IP address or a host name, and :PORT after "
                "it if the port is not 22. Put an IPv6 address in brackets."
            ) from None
        if server.known_as in servers:
            twice = f"twice, as {servers[server.known_as].number} and as {number}"
            raise Trouble(f"{name} lists {server.address} {twice}. Delete one of the two lines.")
        servers[server.known_as] = server
    return list(servers.values())


def refuse_repeated_numbers() -> None:
    """Raises Trouble if an inventory uses a number twice: Python would drop the first entry."""
    for statement in ast.parse(SCRIPT.read_bytes()).body:
        entries = getattr(statement, "value", None)
        keys = entries.keys if isinstance(entries, ast.Dict) else []
        numbers = [ast.unparse(key) for key in keys if key]
        for number in numbers:
            if numbers.count(number) > 1:
                name = ast.unparse(statement).split()[0].rstrip(":")
                raise Trouble(f"{name} uses the number {number} twice. Give each server its own.")


def choose_servers(servers: list[Server], names: list[str]) -> list[Server]:
    """Return the servers of these numbers or addresses, or all of them; raises Trouble."""
    for name in names:
        if not any(name in (str(server.number), server.address) for server in servers):
            raise Trouble(f"No server {name}. WEBBRIDGES has {', '.join(map(str, servers))}.")
    return [s for s in servers if not names or str(s.number) in names or s.address in names]


# ---- Access: the password and the known host keys ------------------------------------------------


class KnownHost(NamedTuple):
    """One line of a known-hosts file."""

    line: int
    names: Sequence[str]
    key: paramiko.PKey | None  # None: a marker, or a type of key that paramiko lacks

    def is_named(self, host: str) -> bool:
        hashed = [name for name in self.names if name.startswith("|")]
        return host in self.names or any(paramiko.HostKeys.hash_host(host, h) == h for h in hashed)


@dataclass(frozen=True)
class Access:
    """What a login needs. It is the same for every server."""

    password: str = field(repr=False)
    password_source: str
    known_hosts_file: Path
    known_hosts: list[KnownHost]  # grows where a new host key is stored
    accept_new_host_keys: bool

    def lines_of(self, server: Server) -> list[KnownHost]:
        """Return what the known-hosts file has of the server."""
        return [known for known in self.known_hosts if known.is_named(server.known_as)]

    def keys_of(self, server: Server) -> list[paramiko.PKey]:
        """Return the known host keys of the server."""
        return [known.key for known in self.lines_of(server) if known.key]


def refuse_if_others_can_read(path: Path) -> None:
    """Raises Trouble if a file that holds the password is open to others (not on Windows)."""
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise Trouble(f"Others can read the password in {path}. Run: chmod go-rwx '{path}'")


def read_password_file(path: Path) -> str:
    """Return the first line of the file; raises Trouble or OSError."""
    text = read_file(path)
    refuse_if_others_can_read(path)
    try:
        first_line = text.decode("utf-8-sig").partition("\n")[0].rstrip("\r")
    except UnicodeDecodeError:
        raise Trouble(f"{path} is not UTF-8. Save it again as UTF-8.") from None
    if not first_line:
        raise Trouble(f"The first line of {path} is empty. Write the password there.")
    return first_line


def ask_for_password() -> str:
    """Return what is typed; raises Trouble."""
    if not (sys.stdin and sys.stdin.isatty()):
        raise Trouble("--ask-password needs a terminal. Use --password-file in a scheduled job.")
    with contextlib.suppress(EOFError, UnicodeDecodeError):
        typed = getpass.getpass(f"MMP password of {MMP_USERNAME}: ")
        if typed:
            return typed
    raise Trouble("No password was typed.")


def find_password(options: argparse.Namespace) -> tuple[str, str]:
    """Return the password and where it comes from; raises Trouble or OSError."""
    if not isinstance(MMP_USERNAME, str) or not isinstance(MMP_PASSWORD, str) or not MMP_USERNAME:
        raise Trouble(
            f"MMP_USERNAME or MMP_PASSWORD in {SCRIPT.name} is not text. Write each in quotation "
            "marks. Only the password may be empty."
        )
    if MMP_PASSWORD:  # the script itself is then a file that holds the password
        refuse_if_others_can_read(SCRIPT)
    password, source = MMP_PASSWORD, f"from MMP_PASSWORD in {SCRIPT.name}"
    if options.ask_password:
        password, source = ask_for_password(), "typed at the prompt"
    elif options.password_file:
        file = options.password_file
        password, source = read_password_file(file), f"from {file}"
    elif os.environ.get("MMP_PASSWORD"):
        password, source = os.environ["MMP_PASSWORD"], "from MMP_PASSWORD in the environment"
    if not password:
        raise Trouble(
            "No password. Use --password-file, --ask-password, or the environment variable "
            "MMP_PASSWORD (see README.md)."
        )
    try:
        password.encode()
    except UnicodeEncodeError:  # what Python makes of bytes in the environment that are not UTF-8
        raise Trouble(f"The password {source} is not UTF-8.") from None
    return password, source


def parse_known_host(number: int, line: str) -> KnownHost:
    """Return what a line of a known-hosts file says; raises many types of error."""
    fields = line.split()
    if fields[0] == "@cert-authority":
        return KnownHost(number, fields[1].split(","), None)
    if fields[0] == "@revoked":  # must not be passed over: another line may have the key
        raise Trouble("revokes a key, which this script cannot check. Delete all lines of that key")
    if len(fields) < 3 or fields[0].startswith("@"):
        raise ValueError(line)
    entry = paramiko.hostkeys.HostKeyEntry.from_line(" ".join(fields[:3]))
    if entry and entry.key.get_base64() != fields[2]:  # cut short
        raise ValueError(line)
    names = [n if n.startswith("|") else n.lower() for n in fields[0].split(",")]
    known = KnownHost(number, names, entry.key if entry else None)
    known.is_named("")  # fails now if a hashed name is damaged
    return known


def read_known_hosts(path: Path) -> list[KnownHost]:
    """Return the lines of a known-hosts file, which need not exist; raises Trouble or OSError."""
    text, known = b"", []
    with contextlib.suppress(FileNotFoundError):
        text = read_file(path)
    for number, line in enumerate(text.decode("utf-8-sig", "replace").split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            known.append(parse_known_host(number, line))
        except Trouble as trouble:
            raise Trouble(f"{path}, line {number}, {trouble}.") from None
        except Exception:  # paramiko raises eight types of error for a damaged line
            raise Trouble(
                f"{path}, line {number}, is not a usable host key. Delete the line, then store "
                f"the server's key again with {STORE_KEY_OPTIONS}."
            ) from None
    return known


# ---- Reaching a server, before anything is sent to it --------------------------------------------


class Transient(Trouble):
    """There is no connection yet, and another try may succeed."""


def dial(server: Server, seconds: float) -> socket.socket:
    """Return a TCP connection to the first address of the host that accepts; raises Transient."""
    place = f"{server.host} port {server.port}"
    try:
        connection = socket.create_connection((server.host, server.port), seconds)
        # As ssh does. Otherwise small packets wait for the acknowledgement of the one before.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    except socket.gaierror:
        trouble = Transient(f"Cannot resolve {server.host}. Check how it is written, and DNS.")
    except socket.timeout:
        trouble = Transient(f"Timed out after {seconds:g} s while connecting to {place}.")
    except OSError as error:
        trouble = Transient(f"Cannot connect to {place}: {error.strerror or error}.")
        if error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH):  # the words of Cisco's script
            words = f"[Errno None] Unable to connect to port {server.port} on {server.host}"
            trouble = Transient(words)
            trouble.advice = ". Check the address, and that SSH to it is open from this computer."
    raise trouble


def shake_hands(transport: paramiko.Transport, server: Server, seconds: float) -> paramiko.PKey:
    """Return the server's host key; raises Trouble, or Transient if another try may succeed."""
    place = f"{server.host} port {server.port}"
    try:
        transport.start_client(timeout=seconds)
        return transport.get_remote_server_key()  # raises SSHException if the time ran out
    except paramiko.ssh_exception.IncompatiblePeer as error:
        version, said = paramiko.__version__, show(str(error))
        words = f"The server and paramiko {version} have no algorithm in common: {said}."
        # paramiko 5 dropped SHA-1 from the key exchange and the host keys, which come first.
        if not version.startswith("4.") and not transport.host_key_type:
            install = f'"{sys.executable}" -m pip install "paramiko<5"'
            words += f" If the server offers nothing newer than SHA-1, run: {install}"
        raise Trouble(words) from None
    except CONNECTION_ERRORS as error:
        reason = f"No usable SSH answer from {place}: {show(str(error)).rstrip('.')}."
        if transport.is_active():
            reason = f"Timed out after {seconds:g} s in the SSH handshake with {place}."
        raise Transient(f"{reason} Is it an MMP? Is the server overloaded?") from None


# ---- Judging an answer ---------------------------------------------------------------------------

# From here to "Checking" stands what to verify before trusting the script. When is it "restarted
# successfully"? judge_restart. What ends each step? Clock and find_end. Who gets the password?
# log_in, after verify_host_key. What is sent, and once? ask. What is logged? restart_all, through
# Report.log and escape, which stand above, as does read_known_hosts.

DOUBT = "The restart may or may not have happened: check the Web Bridge before you run this again."


class Answer(NamedTuple):
    """What came after a command was sent."""

    text: bytes
    status: int | None  # the exit status, None if none came
    accepted: bool  # whether the server replied that it runs the command
    cut: str  # why the answer's end was not seen, or ""


class Verdict(NamedTuple):
    """What became of a command."""

    is_success: bool
    reason: str  # of a success: what the server answered
    in_doubt: bool = False  # whether the restart may have happened all the same
    advice: str = ""  # what to do, where the reason must stay as it is

    def explain(self) -> str:
        """Return what the log says of a failure."""
        return f"{self.reason} {DOUBT}" if self.in_doubt else self.reason


# Cisco: a reply is lines that begin SUCCESS: or FAILURE:, and one FAILURE line means failure. Prose
# is neither success nor failure.
SUCCESS = rb"^[ \t]*SUCCESS:"  # what begins a line of success
SUCCESS_LINE = re.compile(SUCCESS, re.MULTILINE)
RESTARTED_LINE = re.compile(  # bounded, so that no text takes long to search
    SUCCESS + rb"[^\n]{0,99}(?i:web ?bridge (?:is |was )?(?:enabled|restarted|started)\b)",
    re.MULTILINE,
)
FAILURE = re.compile(rb"FAILURE:|^[ \t]*(?:ERROR|(?P<unknown>Unknown command))\b", re.MULTILINE)


def judge_failure(answer: Answer) -> Verdict | None:
    """Return what is a failure without doubt, whatever else came or broke; None for all else."""
    failure = FAILURE.search(answer.text)
    if failure or answer.status:
        said = show(answer.text[failure.start() :] if failure else answer.text)
        if answer.status:
            said += f" (exit status {answer.status})"
        if failure and failure["unknown"]:
            said += ". CMS 3.0 and newer have no Web Bridge 2. Take this server out of WEBBRIDGES."
        return Verdict(False, f"The server answered: {said}")
    nothing_came = not answer.text.strip() and answer.status is None
    if nothing_came and not answer.accepted and not answer.cut:
        return Verdict(False, "The server refused to run the command.")
    return None


def judge_restart(answer: Answer) -> Verdict:
    """Return what the answer to the restart command means. Nothing else decides about it."""
    failure = judge_failure(answer)
    if failure:
        return failure
    said = show(answer.text)
    is_silent = not answer.text.strip()
    if answer.cut:
        heard = "" if is_silent else f" It had answered: {said}."
        return Verdict(False, f"{answer.cut}{heard}", in_doubt=True)
    if answer.status is None:
        # The first SUCCESS lines are only about certificates. After them nothing is restarted yet.
        is_success = bool(RESTARTED_LINE.search(answer.text))
    elif is_silent:  # 0: the whole command ran and did not fail, and need not print anything
        is_success = answer.accepted
    else:
        is_success = bool(SUCCESS_LINE.search(answer.text))
    if is_success:
        return Verdict(True, said)
    status = "no exit status" if answer.status is None else "exit status 0"
    reason = f"The answer does not confirm the restart: {said} ({status})."
    return Verdict(False, reason, in_doubt=True)


# ---- The clock: no server holds the run ----------------------------------------------------------


class Stop:
    """The signal that ends the run, if one came."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.came_at = 0.0

    def listen(self) -> None:
        """Note the signals to stop from now on. An ignored signal stays ignored."""
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # each system lacks some
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.note)

    def note(self, number: int, _frame: object) -> None:
        if self.signal is None:
            self.signal, self.came_at = signal.Signals(number), time.monotonic()
        elif time.monotonic() > self.came_at + 1:  # some senders send each signal twice at once
            # A full pipe that nobody reads, or a blocked disk, may hold the run: end it at once.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


class Clock(NamedTuple):
    """The time that one server has, or one pause."""

    stop: Stop
    seconds: float
    began: float

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.began + self.seconds - time.monotonic()

    def cut_off(self, doing: str) -> str:
        """Return the sentence that says why this must end now, or "" if it may go on."""
        if self.stop.signal:
            return f"Cut off by {self.stop.signal.name} while {doing}."
        if self.left() > 0:
            return ""
        hint = "A slow server needs a higher --timeout."
        return f"Cut off after {self.seconds:g} s while {doing}. {hint}"

    def refuse_if_over(self, doing: str) -> None:
        """Raises Trouble if this must end now."""
        sentence = self.cut_off(doing)
        if sentence:
            raise Trouble(sentence)

    def sleep(self, seconds: float) -> None:
        """Wait, but no longer than there is time."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at and not self.cut_off("waiting"):
            time.sleep(min(TICK, seconds))

    def call(
        self, doing: str, function: Callable[[], T], discard: Callable[[T], object] | None = None
    ) -> T:
        """Return what the function returns; raises what it raises, or Trouble at a cut-off.

        The function is one blocking call, in a thread of its own that goes on to nothing else. So
        a call that never returns holds nothing up, and one that returns late has no effect; what
        it returns is then discarded.
        """
        self.refuse_if_over(doing)
        future = start(function)
        try:
            while not concurrent.futures.wait([future], TICK).done:
                self.refuse_if_over(doing)
        except Trouble:
            if discard:
                future.add_done_callback(lambda late: late.exception() or discard(late.result()))
            raise
        return future.result()


def start(function: Callable[[], T]) -> Future[T]:
    """Run the function in a thread, which the end of the run does not wait for."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


class Turn(NamedTuple):
    """What one server's turn needs."""

    server: Server
    access: Access
    clock: Clock
    report: Report


# ---- One connection, to a server whose host key is known -----------------------------------------


def connect_once(turn: Turn, seconds: float) -> tuple[paramiko.Transport, paramiko.PKey]:
    """Return a connection, and the host key that it showed, not yet verified; raises Trouble."""
    server, clock = turn.server, turn.clock
    known_types = {key.get_name() for key in turn.access.keys_of(server)}
    connection = clock.call("connecting", lambda: dial(server, seconds), socket.socket.close)
    transport = paramiko.Transport(connection)
    try:
        # paramiko's own limits must not end anything: they follow a clock that can be set.
        transport.banner_timeout = transport.handshake_timeout = NEVER
        transport.auth_timeout = transport.channel_timeout = NEVER
        # The known types first, as ssh does: a key of another type would prove nothing.
        security = transport.get_security_options()
        security.key_types = sorted(
            security.key_types, key=lambda name: KNOWN_NAMES.get(name, name) not in known_types
        )
        host_key = clock.call("connecting", lambda: shake_hands(transport, server, seconds))
        return transport, host_key
    except Exception:
        hang_up(transport)
        raise


def connect(turn: Turn) -> tuple[paramiko.Transport, paramiko.PKey]:
    """Return what connect_once does; tries again while there is time for a try."""
    seconds = turn.clock.seconds * TRY_SHARE
    for _ in range(1, CONNECT_TRIES):
        try:
            return connect_once(turn, seconds)
        except Transient:
            if turn.clock.left() < SECONDS_BETWEEN_TRIES + seconds:
                raise
            turn.clock.sleep(SECONDS_BETWEEN_TRIES)
    return connect_once(turn, seconds)


def hang_up(transport: paramiko.Transport) -> None:
    transport.close()
    transport.sock.close()  # which paramiko leaves open if the handshake failed


def is_alive(transport: paramiko.Transport) -> bool:
    """Return whether the connection lives; paramiko's thread ends a moment after it."""
    for _ in range(round(HANG_UP_SECONDS / TICK)):  # a suspension of this process takes one of them
        transport.join(TICK)
    return transport.is_active()


def describe(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.fingerprint}"


def store_host_key(key: paramiko.PKey, turn: Turn) -> None:
    """Store a new host key, so that it is known from now on, and tell it; raises Trouble."""
    access, name = turn.access, turn.server.known_as
    try:
        append(access.known_hosts_file, f"{name} {key.get_name()} {key.get_base64()}\n")
    except OSError as error:
        reason = f"Cannot write to {access.known_hosts_file}: {explain_file(error)}"
        raise Trouble(f"{reason} No password was sent.") from None
    access.known_hosts.append(KnownHost(0, [name], key))
    turn.report.say(f"Server {turn.server}: new host key stored: {describe(key)}")


def verify_host_key(key: paramiko.PKey, turn: Turn) -> None:
    """Raises Trouble unless this is a known host key of the server, or the first and accepted."""
    server, access = turn.server, turn.access
    known, file = access.keys_of(server), access.known_hosts_file
    if key in known:
        return
    if access.accept_new_host_keys and not known:
        store_host_key(key, turn)
        return
    not_sent = "The password was not sent to it."
    skipped = ", ".join(str(line.line) for line in access.lines_of(server) if not line.key)
    unusable = f" (line {skipped} has a marker or a type that cannot be used)" if skipped else ""
    if not known:
        raise Trouble(
            f"New host key, not trusted yet: {describe(key)}. It is not in {file}{unusable}. "
            f"{not_sent} Compare the fingerprint with the server's own, then store the "
            f"key with {STORE_KEY_OPTIONS}."
        )
    same_type = ", ".join(describe(each) for each in known if each.get_name() == key.get_name())
    types = ", ".join(sorted({each.get_name() for each in known}))
    what = f"The server has no host key of a known type: {types}{unusable}."
    if same_type:
        what = f"The host key has CHANGED. Known: {same_type}."
    raise Trouble(
        f"{what} Shown: {describe(key)}. {not_sent} This may be an attack. Only if you know that "
        f'the server has a new key, delete the old one (ssh-keygen -R "{server.known_as}" -f '
        f'"{file}"), then store the new one with {STORE_KEY_OPTIONS}.'
    )


# ---- One login -----------------------------------------------------------------------------------


@contextlib.contextmanager
def log_in(turn: Turn) -> Iterator[paramiko.Transport]:
    """Yield a connection that is logged in, and hang up at its end; raises Trouble.

    Each connection carries the password once, after its host key was verified. There is a second
    one only if the server says that it accepts no passwords as such, but may ask a question for
    one. It is a new one, because many servers hang up at a second request to log in. (Only a server
    that first judges the password and then says so judges it twice.)
    """
    for as_answer in (False, True):
        transport, host_key = connect(turn)
        try:
            verify_host_key(host_key, turn)
            if send_password(turn, transport, as_answer):
                yield transport
                return
        finally:
            hang_up(transport)
    raise Trouble("The server does not accept this answer.")


def answer_from(unused: list[str]) -> Callable[[str, str, list[tuple[str, bool]]], list[str]]:
    """Return what answers one question with the password, which it takes out of the list."""

    def answer(_title: str, _text: str, questions: list[tuple[str, bool]]) -> list[str]:
        shows_what_is_typed = any(echo for _, echo in questions)  # so it asks for something else
        if shows_what_is_typed or len(questions) > len(unused):
            raise paramiko.SSHException  # which paramiko passes on to who waits for the login
        return [unused.pop() for _ in questions]

    return answer


def send_password(turn: Turn, transport: paramiko.Transport, as_answer: bool) -> bool:
    """Log in, and return True, or False if the server wants an answer instead; raises Trouble.

    Only this uses the password.
    """
    if not transport.is_active():
        raise Trouble("The connection broke off before the login.")
    name, password = MMP_USERNAME, turn.access.password
    # paramiko's fallback would send the password again, as the answer to any question.
    login = functools.partial(transport.auth_password, name, password, fallback=False)
    unused = [password]
    if as_answer:
        login = functools.partial(transport.auth_interactive, name, answer_from(unused))
    by_hand = f"ssh -p {turn.server.port} {name}@{turn.server.host}"
    try:
        still_wanted = turn.clock.call("logging in", login)
    except (paramiko.AuthenticationException, OSError, EOFError, ValueError) as error:
        named: list[str] = getattr(error, "allowed_types", [])  # of BadAuthenticationType
        methods = [method for method in named if method]  # paramiko takes an empty list for [""]
        if "keyboard-interactive" in methods:
            return False
        if methods and "password" not in methods:
            only = show(", ".join(methods))
            hint = "Use an account that logs in with a password."
            raise Trouble(f"The server accepts no password, only {only}. {hint}") from None
        sent = "once" if unused else "twice, the second time as an answer,"
        raise Trouble(
            f"Login refused. The password was sent {sent} and is not sent again. Check it "
            f"({turn.access.password_source}), then try once by hand ({by_hand}). Other causes: a "
            "locked account, an MMP 'user host' or 'user duty' rule, or the server hung up."
        ) from None
    except paramiko.SSHException:
        still_wanted = ["something, for this was neither yes nor no"]
    if still_wanted:
        raise Trouble(
            "The server did not let this script in with the password alone. The password may have "
            f"expired, or the server asks for more. Log in once by hand: {by_hand}"
        )
    return True


# ---- One command ---------------------------------------------------------------------------------

REPLY_LINE = re.compile(SUCCESS + rb"|FAILURE:", re.MULTILINE)


def has_whole_reply_line(text: bytes | bytearray) -> bool:
    """Return whether a line of a reply has come to its end."""
    return bool(REPLY_LINE.search(text, 0, text.rfind(b"\n") + 1))


def ask(turn: Turn, command: str) -> Answer:
    """Log in, send the command, once, and return the answer; raises Trouble if it was not sent."""
    with log_in(turn) as transport:
        # recv() sends, and so may block, after a tenth of the window: hear() never takes so much.
        open_session = functools.partial(transport.open_session, window_size=32 * MAX_ANSWER_BYTES)
        try:
            channel = turn.clock.call("opening a session", open_session)
        except paramiko.ChannelException as error:
            reason = f"The server refused to open a session (code {error.code})."
            raise Trouble(f"{reason} Too many sessions may be open.") from None
        except CONNECTION_ERRORS:
            raise Trouble("The connection broke off while opening a session.") from None
        channel.set_combine_stderr(True)
        turn.clock.refuse_if_over("opening a session")
        # In a thread of its own, because the answer can come before the reply to this request.
        sending = start(lambda: channel.exec_command(command))
        return hear(channel, sending, turn.clock)


def hear(channel: paramiko.Channel, sending: Future[None], clock: Clock) -> Answer:
    """Return all that comes until the answer's end, or until the clock is over."""
    channel.settimeout(0)  # paramiko's own waits follow a clock that can be set
    text = bytearray()
    heard_at = time.monotonic()
    half_ended_at = math.inf  # not yet
    we_ended = False
    cut: str | None = None  # as find_end returns it
    while cut is None:
        # Looked at before what came is read: a FAILURE of the last moment counts.
        over = clock.cut_off("waiting for the answer")
        try:
            piece: bytes | None = channel.recv(MAX_ANSWER_BYTES)
        except socket.timeout:
            piece = None
        now = time.monotonic()
        if piece:
            text += piece.replace(b"\r", b"\n")
            heard_at = now
        else:
            time.sleep(TICK)
        if piece == b"" or channel.exit_status != -1:
            half_ended_at = min(half_ended_at, now)
        cut = find_end(channel, piece == b"", now - half_ended_at, we_ended)
        if channel.recv_ready():
            cut = None  # for more came meanwhile
        if cut is None and len(text) > MAX_ANSWER_BYTES:
            cut = "The answer is longer than any command's, so the rest was not heard."
        if cut is None and over:
            cut = over
        is_quiet = piece is None and now - heard_at > SECONDS_OF_SILENCE
        if is_quiet and not we_ended and has_whole_reply_line(text):
            we_ended = True  # some servers wait for our end of file before they end their answer
            start(channel.shutdown_write)
    if not cut:
        concurrent.futures.wait([sending], HANG_UP_SECONDS)
    accepted = sending.done() and not sending.exception()
    status = None if channel.exit_status == -1 else channel.exit_status
    return Answer(bytes(text), status, accepted, cut)


def find_end(
    channel: paramiko.Channel, output_ended: bool, since_half: float, we_ended: bool
) -> str | None:
    """Return "" at the answer's end, why the end will never come, or None to hear on.

    The end has two halves, which come in any order: the exit status, and the server's end of file.
    Where one half is missing, its close of the channel is the end, or some seconds without it.
    """
    has_status = channel.exit_status != -1
    if output_ended and channel.eof_received and has_status:
        return ""
    if output_ended and channel.closed:
        # paramiko answers a close with its own end of file; a lost connection gets none. If we have
        # sent ours, only a connection that lives on tells.
        is_close = is_alive(channel.get_transport()) if we_ended else channel.eof_sent
        return "" if is_close else "The connection broke off before the end of the answer."
    is_late = since_half > (LATE_OUTPUT_SECONDS if has_status else LATE_STATUS_SECONDS)
    return "" if is_late and is_alive(channel.get_transport()) else None


# ---- One server after another --------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What is known before the first connection."""

    servers: Sequence[Server]  # to restart or to check
    counters: dict[Server, set[str]]  # which counters the log of each server should have
    access: Access
    options: argparse.Namespace


def take_turns(
    servers: Collection[Server], plan: Plan, stop: Stop, report: Report, pause: float = 0
) -> Iterator[Turn]:
    """Yield each server's turn, until a signal comes; then tell who was not attempted."""
    waiting = list(servers)
    while waiting and not stop.signal:
        server = waiting.pop(0)
        report.say_on_terminal(f"Waiting for server {server} ...")
        clock = Clock(stop, plan.options.timeout, time.monotonic())
        yield Turn(server, plan.access, clock, report)
        if waiting and pause:
            report.say_on_terminal(f"Pausing {pause:g} s before server {waiting[0]} ...")
            Clock(stop, pause, time.monotonic()).sleep(pause)
    if stop.signal:
        names = ", ".join(server.address for server in waiting) or "none"
        report.fail(f"Ended by {stop.signal.name}. Not attempted: {names}")


def send(turn: Turn, command: str, judge: Callable[[Answer], Verdict]) -> Verdict:
    """Send one command to one server, once, and return what became of it."""
    try:
        return judge(ask(turn, command))
    except Trouble as trouble:  # nothing was sent
        return Verdict(False, str(trouble), advice=trouble.advice)
    except Exception as error:  # one server's trouble of any kind must not stop the others
        may_be_sent = command == RESTART_COMMAND  # nobody foresaw this, so nobody knows
        return Verdict(False, f"{type(error).__name__}: {show(str(error))}.", may_be_sent)


def tell(turn: Turn, verdict: Verdict, done: str, verbose: bool) -> None:
    """Print what became of one server."""
    took = f"{time.monotonic() - turn.clock.began:.1f} s"
    if not verdict.is_success:
        reason = f"{verdict.explain()}{verdict.advice}"
        turn.report.complain(f"Server {turn.server} FAILED after {took}: {reason}")
        return
    turn.report.say(f"Server {turn.server} {done} in {took}")
    if verbose:
        turn.report.say(f"  answered: {verdict.reason}")


def restart_all(plan: Plan, stop: Stop, report: Report) -> bool:
    """Restart the servers, log and print each result; return whether all were restarted."""
    restarted = 0
    for turn in take_turns(plan.servers, plan, stop, report, plan.options.pause):
        verdict = send(turn, RESTART_COMMAND, judge_restart)
        address = turn.server.address
        if verdict.is_success:
            restarted += 1
            report.log(f"Webbridge on server: {address} restarted successfully")
        else:  # these, too, are the words of Cisco's script
            begin = f"Failed to restart webbridge on server {address}. Error:"
            report.log(begin, verdict.explain())
        tell(turn, verdict, "restarted", plan.options.verbose)
    report.say(f"Restarted {restarted} of {counted(len(plan.servers), 'server')}.")
    return restarted == len(plan.servers)


# ---- Checking ------------------------------------------------------------------------------------

CHECK_COMMAND = "webbridge"  # prints the settings and changes nothing
ENABLED_LINE = re.compile(rb"^[ \t]*Enabled[ \t]*:[ \t]*true\b", re.MULTILINE | re.IGNORECASE)


def judge_check(answer: Answer) -> Verdict:
    """Return whether the answer says that the Web Bridge is enabled."""
    failure = judge_failure(answer)
    if failure:
        return failure
    said = show(answer.text)
    if answer.cut:
        return Verdict(False, f"{answer.cut} It had answered: {said}.")
    if ENABLED_LINE.search(answer.text):
        return Verdict(True, said)
    return Verdict(False, f"The server does not say that its Web Bridge is enabled, but: {said}")


def check_all(plan: Plan, stop: Stop, report: Report) -> bool:
    """Check the servers and print each result; return whether all are ready."""
    ready = 0
    for turn in take_turns(plan.servers, plan, stop, report):
        verdict = send(turn, CHECK_COMMAND, judge_check)
        ready += verdict.is_success
        tell(turn, verdict, "OK (Web Bridge enabled)", plan.options.verbose)
    report.say(f"{ready} of {counted(len(plan.servers), 'server')} ready.")
    return ready == len(plan.servers)


# ---- Counters in a log ---------------------------------------------------------------------------

# Only --sessions, --if-leaked and --max-active need this part and the next two.

WEB = "Web Bridge"
CALL = "Call Bridge"  # it logs CMA: users of the Cisco Meeting App, those with WebRTC among them
SEARCHED = f"the last {LOG_STEPS[-1] // MIB} MiB of the log"
MAX_COUNTER_AGE = {WEB: MAX_WEB_BRIDGE_AGE, CALL: MAX_CALL_BRIDGE_AGE}
COUNTER_EXAMPLE = {
    WEB: '"webbridge": INFO : [DEBUGGING] Stats 149, c:3477, d:3170',
    CALL: 'host:server: INFO : STATS: {"callLegsPS": 1, "CMA": "14/17"}',
}
COUNTER_HINT = {
    WEB: " Check that this server runs a Web Bridge 2.",
    CALL: " CMS 2.8 and newer log it. If other servers run the Call Bridges, list all of those in "
    "CALLBRIDGES.",
}
TIMED_LINE = re.compile(
    rb"(?P<time>(?:[A-Z][a-z]{2} {1,2}\d{1,2}|\d{4}-\d\d-\d\d)[ T]\d\d:\d\d:\d\d)"
    rb"(?:[.,]\d{1,9})?(?P<zone>Z|[+-]\d\d:?\d\d)?"
)
# Jun 20 21:14:00 user.info cms1 "webbridge": INFO : [DEBUGGING] Stats 149, c:3477, d:3170
# Jun 20 21:14:00 user.info cms1 host:server: INFO : STATS: {"callLegsPS": 1, "CMA": "14/17"}
# Jun 20 02:00:00 user.info cms1 cli: User x from y issued command <...>: permission granted
# After the time come facility.level, the host and perhaps another word. The first word that ends
# with a colon is the process. What a client sends comes later, so only this beginning counts.
BEFORE_PROCESS = rb"\S*[ \t]{1,99}(?:\S+(?<!:)[ \t]{1,99}){0,3}?[^\w\s]{0,3}(?:host:)?"
AFTER_PROCESS = rb"[^\w\s]{0,3}(?:[ \t]?\[\d+\])?[ \t]*:[ \t]*"
INFO = AFTER_PROCESS + rb"INFO[ \t]*:[ \t]*"
WEB_STATS = rb"\[DEBUGG?ING\][ \t]*Stats[ \t]+(\d{1,9})[ \t]*,"
CALL_STATS = rb'STATS[ \t]*:.*?"CMA"[ \t]*:[ \t]*"(\d{1,9}/\d{1,9})"'
TYPED = rb"<[ \t]*webbridge[ \t]+restart[ \t]*>:[ \t]*permission granted"
RESTART = rb"User \S+ from \S+ issued command " + TYPED
COUNTER_LINE = {
    WEB: re.compile(BEFORE_PROCESS + rb"webbridge" + INFO + WEB_STATS),
    CALL: re.compile(BEFORE_PROCESS + rb"server" + INFO + CALL_STATS),
}
RESTART_LINE = re.compile(BEFORE_PROCESS + rb"cli" + AFTER_PROCESS + RESTART)
WORDS = (b"Stats", b"STATS", b"issued command")  # each of these lines has one of them


class Counter(NamedTuple):
    """The newest counter of one kind in a log."""

    active: int
    shown: str
    age: datetime.timedelta  # up to the log's last line


class Reading(NamedTuple):
    """What the end of a log says."""

    end: datetime.datetime | None  # the time of its last line
    counters: dict[str, Counter]
    problem: str = ""  # why it is of no use

    def end_shown(self) -> str:
        return f"{self.end:%Y-%m-%d %H:%M:%S}" if self.end else "-"


Readings = dict[Server, Reading]


def format_span(span: datetime.timedelta) -> str:
    """Return a span of time in its largest useful unit, without its sign."""
    minutes = round(abs(span).total_seconds() / 60)
    if minutes < 120:
        return f"{minutes} min"
    return counted(minutes // 60, "hour") if minutes < 2880 else counted(minutes // 1440, "day")


def parse_time(found: re.Match[bytes], near: datetime.datetime) -> datetime.datetime | None:
    """Return the time of a line, or None for a date that does not exist.

    A time without a year is in the year that brings it nearest to the other time. A time without a
    zone is taken for UTC.
    """
    text = found["time"].decode().replace("T", " ") + (found["zone"] or b"Z").decode()
    candidates, layout = [text], "%Y-%m-%d %H:%M:%S%z"
    if text[0].isalpha():
        years = range(near.year - 4, near.year + 5)  # so that one of them has a February 29
        candidates, layout = [f"{year} {text}" for year in years], "%Y %b %d %H:%M:%S%z"
    moments = []
    for candidate in candidates:
        with contextlib.suppress(ValueError):
            moments.append(datetime.datetime.strptime(candidate, layout))
    return min(moments, key=lambda moment: abs(moment - near), default=None)


def lines_from_end(text: bytes) -> Iterator[bytes]:
    """Yield the lines of a text, the last one first, without a copy of all of them."""
    end = len(text)
    while end >= 0:
        start = text.rfind(b"\n", 0, end) + 1
        yield text[start:end]
        end = start - 1


def parse_log(text: bytes, wanted: Collection[str], now: datetime.datetime) -> Reading:
    """Return when a log ends, and the newest readable counter of each wanted kind."""
    end = None
    counters: dict[str, Counter] = {}
    was_restarted = False  # the Web Bridge, after the lines that are still to come
    for line in lines_from_end(text):
        if end and not any(word in line for word in WORDS):
            continue
        found = TIMED_LINE.match(line)
        moment = found and parse_time(found, end or now)
        if not found or not moment:
            continue
        end = end or moment
        was_restarted = was_restarted or bool(RESTART_LINE.match(line, found.end()))
        for bridge in wanted - counters.keys():
            counter = COUNTER_LINE[bridge].match(line, found.end())
            if counter:
                shown = counter[1].decode()
                if was_restarted and bridge == WEB:  # which ended all sessions
                    shown = "0 (restarted since)"
                active = int(re.split("[ /]", shown)[0])
                counters[bridge] = Counter(active, shown, end - moment)
        if len(counters) == len(wanted):
            break
    return Reading(end, counters)


def find_problem(reading: Reading, wanted: Collection[str], now: datetime.datetime) -> str:
    """Return why the counters of a log are of no use, or "" if they are fit to count."""
    if reading.end is None:
        return f"No line in {SEARCHED} begins with a time."
    if abs(now - reading.end) > MAX_LOG_AGE:
        when = "ago" if reading.end < now else "from now; check both clocks"
        return f"The log ends on {reading.end_shown()}, {format_span(now - reading.end)} {when}."
    for bridge in sorted(wanted, reverse=True):  # the Web Bridge first
        counter = reading.counters.get(bridge)
        if counter is None:
            missing = f"No {bridge} counter in {SEARCHED}"
            hint = "" if CALLBRIDGES and bridge == CALL else COUNTER_HINT[bridge]
            return f"{missing} (such a line has: {COUNTER_EXAMPLE[bridge]}).{hint}"
        if abs(counter.age) > MAX_COUNTER_AGE[bridge]:
            when = "before" if counter.age > datetime.timedelta(0) else "after"
            age = f"{format_span(counter.age)} {when} the log's end"
            return f"The newest {bridge} counter is too old: it was logged {age}."
    return ""


# ---- Reading the logs ----------------------------------------------------------------------------

READING = "reading the server's log"


def read_end(file: paramiko.SFTPFile, limit: int) -> bytes:
    """Return whole lines, at most so many bytes, from a log's end; raises Trouble, or as SFTP."""
    size = file.stat().st_size or 0  # 0 is no empty log: a virtual file does not tell its size
    start = max(0, size - limit)
    file.seek(start)
    file.prefetch(size, max_concurrent_requests=32)  # of 32 KiB; some servers take no more at once
    text, length = b"", 0
    while True:
        piece = file.read(MIB)
        text, length = (text + piece)[-limit:], length + len(piece)
        if len(piece) < MIB:  # the end, which paramiko tells once: another read could wait for ever
            break
    if start + length < size:
        raise Trouble("The log became shorter while it was read. Try again.")
    if start > 0 or length > limit:  # what is left of a line can look like a line of its own
        text = text.partition(b"\n")[2]
    return text


def read_counters(
    file: paramiko.SFTPFile, limit: int, wanted: Collection[str], now: datetime.datetime
) -> Reading:
    """Return what so many bytes from the end of the log say; a strange log can take long."""
    return parse_log(read_end(file, limit), wanted, now)


def read_log(turn: Turn, wanted: Collection[str]) -> Reading:
    """Read no more of the end of the server's log than it takes to find the wanted counters."""
    now = datetime.datetime.now(datetime.timezone.utc)
    with log_in(turn) as transport:
        try:
            file = turn.clock.call(READING, lambda: transport.open_sftp_client().open("log"))
            for limit in LOG_STEPS:
                read = functools.partial(read_counters, file, limit, wanted, now)
                reading = turn.clock.call(READING, read)
                if len(reading.counters) == len(wanted):
                    break
            return reading._replace(problem=find_problem(reading, wanted, now))
        except (*CONNECTION_ERRORS, paramiko.SFTPError) as error:
            if not is_alive(transport):
                raise Trouble(f"The connection broke off while {READING}.") from None
            said = show(str(error))
            hint = f"Check what {MMP_USERNAME} may do."
            raise Trouble(f"The server does not show its log over SFTP: {said}. {hint}") from None


# ---- Leaked sessions -----------------------------------------------------------------------------

CAUTIONS = """\
Age: how long before the log's end the counter was logged.
The leaked sessions are right only if nobody uses the CMA desktop or iOS client.
In a cluster, only the sum of all servers means something."""
NOT_COUNTED = (
    "Until each server can be counted, take those that cannot out of the script's lists, or "
    "restart servers by their numbers, without conditions."
)


class Figures(NamedTuple):
    """The sums of a deployment."""

    web_bridge: int
    active: int

    @property
    def leaked(self) -> int:
        return max(0, self.web_bridge - self.active)


def read_logs(plan: Plan, stop: Stop, report: Report) -> Readings:
    """Return what the logs of all servers say."""
    readings = dict.fromkeys(plan.counters, Reading(None, {}, "The run ended before its turn."))
    for turn in take_turns(plan.counters, plan, stop, report):
        try:
            reading = read_log(turn, plan.counters[turn.server])
        except Trouble as trouble:
            reading = Reading(None, {}, f"{trouble}{trouble.advice}")
        except Exception as error:  # one server's trouble of any kind must not stop the others
            reading = Reading(None, {}, f"{type(error).__name__}: {show(str(error))}.")
        readings[turn.server] = reading
    return readings


def is_full(reading: Reading) -> bool:
    return WEB in reading.counters and reading.counters[WEB].active >= HARD_LIMIT


def draw_table(readings: Readings) -> str:
    """Return the table of all counters."""
    table = [["Server", "Web Bridge", "Age", "CMA", "Age", "Log ends", ""]]
    for server, reading in readings.items():
        cells = [str(server)]
        for bridge in (WEB, CALL):
            counter = reading.counters.get(bridge)
            cells += [counter.shown, format_span(counter.age)] if counter else ["-", "-"]
        if is_full(reading):
            cells[1] += " FULL"
        problem = f"Not counted: {reading.problem}" if reading.problem else ""
        table.append([*cells, reading.end_shown(), problem])
    widths = [max(map(len, column)) for column in zip(*table)]
    return "\n".join("  ".join(map(str.ljust, cells, widths)).rstrip() for cells in table)


def explain_full(readings: Readings) -> str:
    """Return which Web Bridges are full and what to do, or ""."""
    full = [server for server, reading in readings.items() if is_full(reading)]
    if not full:
        return ""
    names = ", ".join(f"server {server}" for server in full)
    numbers = " ".join(str(server.number) for server in full)
    return (
        f"FULL: {names}. At {HARD_LIMIT} sessions a Web Bridge accepts no more, so nobody else can "
        f"join there. To restart it now, which ends its meetings: {SCRIPT.name} {numbers}"
    )


def tell_count(readings: Readings, is_asked_for: bool, report: Report) -> Figures | None:
    """Print the table and the sums; return the sums, or None if a figure is missing."""
    missing = sum(bool(reading.problem) for reading in readings.values())
    if missing:
        servers = counted(len(readings), "server")
        report.complain(draw_table(readings))
        report.complain(f"Cannot count: {missing} of {servers}, see above.")
        return None
    sums = {WEB: 0, CALL: 0}
    for reading in readings.values():
        for bridge, counter in reading.counters.items():
            sums[bridge] += counter.active
    figures = Figures(sums[WEB], sums[CALL])
    report.say(draw_table(readings), is_asked_for)
    report.say(CAUTIONS)
    full = explain_full(readings)
    if full and is_asked_for:
        report.say(full, even_if_quiet=True)
    leaked = counted(figures.leaked, "session")
    details = f"{figures.web_bridge} Web Bridge, {figures.active} active CMA"
    report.say(f"Leaked: {leaked} ({details}).", is_asked_for)
    return figures


def decide(figures: Figures, if_leaked: int | None, max_active: int | None) -> tuple[bool, str]:
    """Return whether to restart, and the figures, with each condition that says no."""
    is_busy = max_active is not None and figures.active > max_active
    is_clean = if_leaked is not None and figures.leaked < if_leaked
    active = counted(figures.active, "active session")
    leaked = counted(figures.leaked, "leaked session")
    if is_busy:
        active += f", more than --max-active {max_active}"
    if is_clean:
        leaked += f", fewer than --if-leaked {if_leaked}"
    return not is_busy and not is_clean, f"{active}; {leaked}."


def rehearse(plan: Plan, stop: Stop, report: Report) -> bool:
    """Check, count, and say what a run with conditions would do; return whether all went well."""
    if not check_all(plan, stop, report) or stop.signal:
        return False
    figures = tell_count(read_logs(plan, stop, report), True, report)
    if figures is None:
        report.complain("A run now would restart nothing.")
        return False
    is_yes, words = decide(figures, plan.options.if_leaked, plan.options.max_active)
    what = counted(len(plan.servers), "server") if is_yes else "nothing"
    report.say(f"A run now would restart {what}: {words}", even_if_quiet=True)
    return True


def restart_if_needed(plan: Plan, stop: Stop, report: Report) -> bool:
    """Restart the servers if the conditions call for it; return whether all went well."""
    readings = read_logs(plan, stop, report)
    if stop.signal:
        report.fail("Nothing was restarted.")
        return False
    figures = tell_count(readings, False, report)
    if figures is None:
        unfit = [f"{server}: {each.problem}" for server, each in readings.items() if each.problem]
        why = f"Cannot count: {' '.join(unfit)} {NOT_COUNTED} {explain_full(readings)}".rstrip()
        report.fail(f"Nothing was restarted. {why}")
        return False
    is_yes, words = decide(figures, plan.options.if_leaked, plan.options.max_active)
    restarted = plan.servers if is_yes else []
    full = explain_full({each: readings[each] for each in readings if each not in restarted})
    words = f"Restarting: {words}" if is_yes else f"Not restarted: {words}"
    if full:
        report.fail(f"{words} {full}")
    else:
        report.log(words)
        report.say(words)
    went_well = restart_all(plan, stop, report) if is_yes else True
    return went_well and not full


# ---- The command line ----------------------------------------------------------------------------


def full_path(text: str) -> Path:
    """Return the path as messages name it; an argparse type."""
    with contextlib.suppress(OSError, RuntimeError):  # no current folder, no such user's home
        return Path(text).expanduser().absolute()
    return Path(text)


LOG_FILE = SCRIPT.with_name("webbridge_restart_logs.txt")
KNOWN_HOSTS_FILE = SCRIPT.with_name("webbridge_known_hosts")


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; exits as argparse does if they do not go together."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    flag: dict[str, Any] = {"action": "store_true"}
    file: dict[str, Any] = {"type": full_path, "metavar": "FILE"}
    count: dict[str, Any] = {"type": int, "metavar": "N"}
    group = parser.add_argument_group("what to do")
    add, add_mode = group.add_argument, group.add_mutually_exclusive_group().add_argument
    text = "number or address of a server in WEBBRIDGES (default: all of them)"
    add("servers", nargs="*", metavar="SERVER", help=text)
    text = """log in and ask each Web Bridge for its settings; restart nothing, log nothing. With
        --if-leaked or --max-active, also count, and say what a run would do now"""
    add_mode("--check", **flag, help=text)
    text = "count the leaked sessions of all servers; restart nothing, log nothing"
    add_mode("--sessions", **flag, help=text)
    add("--if-leaked", **count, help="restart only if at least N sessions are leaked")
    add("--max-active", **count, help="restart only if at most N sessions are active")
    text = """wait so long between two servers of a restart, so that one Web Bridge is up again
        before the next one goes down (default: 0)"""
    add("--pause", type=float, metavar="SECONDS", default=0.0, help=text)

    add = parser.add_argument_group("access to the servers").add_argument
    add("--password-file", **file, help="a UTF-8 file whose first line is the password")
    text = """ask for the password on the terminal, whatever else is set. After it come
        --password-file, the environment variable MMP_PASSWORD, and MMP_PASSWORD in the script"""
    add("--ask-password", **flag, help=text)
    text = f"the stored host keys (default: {KNOWN_HOSTS_FILE.name} beside the script)"
    add("--known-hosts", **file, default=KNOWN_HOSTS_FILE, help=text)
    text = """store and trust the host key of each server that has none stored, and send it the
        password; never replace a key. Meant for --check: without --check, the run then goes on
        and restarts"""
    add("--accept-new-host-keys", **flag, help=text)
    text = f"time for each server, in total (default: {SECONDS_PER_SERVER:g})"
    add("--timeout", type=float, metavar="SECONDS", default=SECONDS_PER_SERVER, help=text)

    group = parser.add_argument_group("what to say")
    add, add_amount = group.add_argument, group.add_mutually_exclusive_group().add_argument
    text = f"the log to append to (default: {LOG_FILE.name} beside the script)"
    add("--log-file", **file, default=LOG_FILE, help=text)
    text = "print only failures, and the figures that you asked for"
    add_amount("-q", "--quiet", **flag, help=text)
    add_amount("-v", "--verbose", **flag, help="also print what each server answered")
    add("--version", action="version", version=f"%(prog)s {__version__}")

    options = parser.parse_args(argv)
    options.has_conditions = options.if_leaked is not None or options.max_active is not None
    if not 0 < options.timeout <= 86400:
        parser.error("--timeout must be more than 0 and at most 86400 seconds")
    if not 0 <= options.pause <= 86400:
        parser.error("--pause must be from 0 to 86400 seconds")
    if min(options.if_leaked or 0, options.max_active or 0) < 0:
        parser.error("--if-leaked and --max-active must be 0 or more sessions")
    if options.sessions and (options.servers or options.has_conditions):
        parser.error("SERVER, --if-leaked and --max-active are not allowed with --sessions")
    return options


# ---- The run -------------------------------------------------------------------------------------


def refuse_unwritable_log(path: Path) -> None:
    """Raises Trouble if the log could not be written; leaves no new file behind."""
    try:
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.resolve().parent).close()
    except OSError as error:
        raise Trouble(f"Cannot write to {path}: {explain_file(error)}") from None


def make_plan(options: argparse.Namespace) -> Plan:
    """Return what is known before the first connection; raises Trouble or OSError."""
    refuse_repeated_numbers()
    web_bridges = read_inventory("WEBBRIDGES", WEBBRIDGES)
    call_bridges = read_inventory("CALLBRIDGES", CALLBRIDGES) if CALLBRIDGES else web_bridges
    counters: dict[Server, set[str]] = {}  # a server that stands in both inventories is read once
    for bridge, servers in ((WEB, web_bridges), (CALL, call_bridges)):
        for server in servers:
            counters.setdefault(server, set()).add(bridge)
    chosen = choose_servers(web_bridges, options.servers)
    password, source = find_password(options)
    known = read_known_hosts(options.known_hosts)
    access = Access(password, source, options.known_hosts, known, options.accept_new_host_keys)
    return Plan(chosen, counters, access, options)


def carry_out(plan: Plan, stop: Stop, report: Report) -> bool:
    """Do what the options ask for; return whether all went well."""
    if plan.options.sessions:
        return tell_count(read_logs(plan, stop, report), True, report) is not None
    if plan.options.check and plan.options.has_conditions:
        return rehearse(plan, stop, report)
    if plan.options.check:
        return check_all(plan, stop, report)
    if plan.options.has_conditions:
        return restart_if_needed(plan, stop, report)
    return restart_all(plan, stop, report)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the whole job and return the exit status, which the top of this file explains."""
    # paramiko and its threads print tracebacks of errors that are handled here.
    logging.getLogger("paramiko").setLevel(sys.maxsize)
    threading.excepthook = lambda _: None
    options = parse_options(argv)
    report = Report(options.quiet)
    try:
        if not options.sessions:
            refuse_unwritable_log(options.log_file)
        if not (options.sessions or options.check):
            report.log_file = options.log_file  # what goes wrong from here on is logged
        plan = make_plan(options)
    except Trouble as trouble:
        report.fail(str(trouble))
        return 2
    except OSError as error:
        report.fail(f"Cannot read {error.filename or 'a file'}: {explain_file(error)}")
        return 2
    except KeyboardInterrupt:  # at the question for the password, for example
        return 130
    stop = Stop()
    stop.listen()
    succeeded = carry_out(plan, stop, report)
    if stop.signal:
        return 128 + stop.signal
    return 0 if succeeded and not report.has_lost_lines else 1


if __name__ == "__main__":
    raise SystemExit(main())
