#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["paramiko>=4.0"]
# ///
"""Restart the Web Bridge of each Cisco Meeting Server that this file lists, and log the outcome.

This works around CSCvt73723: Web Bridge 2 of CMS 2.x leaks WebRTC sessions until, at 149 of
them, nobody can join. A restart clears them, and ends every WebRTC session of that server.

Edit the block below, then:

    python3 webbridge_restart.py --check --accept-new-host-keys    try the set-up, restart nothing
    python3 webbridge_restart.py                                   restart every Web Bridge
    python3 webbridge_restart.py 2 cms4.example.com                restart only these
    python3 webbridge_restart.py --sessions                        count the leaked sessions

Exit status: 0 all were restarted (checked, counted), or need not be; 1 at least one was not;
2 nothing was attempted; 130 ended by Ctrl-C, 143 by SIGTERM, 129 by a terminal that went away.
"""

from __future__ import annotations

import argparse
import ast
import collections
import contextlib
import datetime
import difflib
import getpass
import gzip
import ipaddress
import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

try:
    import paramiko
except ImportError:  # said in one sentence by prepare(), not in a traceback
    paramiko = None  # type: ignore[assignment]

# ---- Edit these ----------------------------------------------------------------------------------

# The MMP address of each server with a Web Bridge; it can differ from the Web Bridge's own.
# "10.48.79.194", "cms2.example.com", "10.48.79.195:2222" and "[2001:db8::3]:22" are all right.
WEBBRIDGES = {
    1: "127.0.0.1",
    2: "127.0.0.1",
    3: "127.0.0.1",
    4: "127.0.0.1",
}
MMP_USERNAME = "admin"
MMP_PASSWORD = ""  # README.md names safer places for it

# For counting sessions only: the servers with a Call Bridge, where they are not the same ones.
CALLBRIDGES: dict[int, str] = {}

# ---- Limits --------------------------------------------------------------------------------------

SECONDS_PER_SERVER = 60.0  # connecting, logging in, restarting, answering: all of it
CONNECT_TRIES = 3  # up to the login, which is tried once
SECONDS_PER_TRY = 18.0  # so that all of them fit into 60 seconds
SECONDS_BETWEEN_TRIES = 2.0
SECONDS_FOR_REST = 0.5  # a part of an answer may come so long after its exit status
SECONDS_FOR_STATUS = 5.0  # an exit status may come so long after the answer's end
ANSWER_MOST = 26 << 20  # bytes of an answer; who sends more is cut off
ANSWER_SHOWN = 300  # characters of it in the log and on the terminal

# ---- End of what there is to edit ----------------------------------------------------------------

__version__ = "1.0.0"
SCRIPT = Path(__file__).resolve()  # cron and Task Scheduler start in other directories
TICK = 0.1  # seconds between two looks at the clock, and at a silent server's exit status
RESTART = "webbridge restart"
STORE = "--check --accept-new-host-keys"
# Cisco: a reply is lines that begin SUCCESS: or FAILURE:, and one FAILURE line means failure.
REFUSED = re.compile(
    rb"(?im)^(?:\x1b\[[\d;]{0,9}[a-z]|[^\w\n]){0,99}"  # colours and the like; never without bound
    rb"((?:FAILURE|ERROR|Unknown command)(?s:.{0,999}))"
)
LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
ADDRESS = re.compile(rf"(?:\[(?P<ipv6>[^]]+)\]|(?P<host>{LABEL}(\.{LABEL})*))(:(?P<port>[0-9]+))?")


class Trouble(Exception):
    """What is wrong, with the run or with one server, in a sentence that says what to do."""


# ---- Text, files and terminal --------------------------------------------------------------------


def printable(sent: bytes | str) -> str:
    """Return what a server sent as one short line that can forge no other and drive no terminal."""
    text = sent.decode("utf-8", "backslashreplace") if isinstance(sent, bytes) else sent
    cut = " | ".join(filter(None, map(str.strip, text.splitlines())))[: ANSWER_SHOWN + 1]
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
    return line if len(line) <= ANSWER_SHOWN else f"{line[:ANSWER_SHOWN]}..."


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file, at least one; raises OSError."""
    return path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")


def say(stream: str, text: str) -> None:
    """Write to sys.stdout or sys.stderr; a missing, closed or full one must not stop the work."""
    try:
        encoding = getattr(sys, stream).encoding or "ascii"
        getattr(sys, stream).write(text.encode(encoding, "backslashreplace").decode(encoding))
        getattr(sys, stream).flush()
    except (AttributeError, OSError, ValueError):
        setattr(sys, stream, None)  # or Python tries again at its exit, and exits with 120


class Report:
    """Where a run tells what happens: the terminal and, once it is known to work, the log."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.log_file: Path | None = None
        self.log_lost = self.torn = False  # torn: the log ends in a part of a line
        self.signals: list[signal.Signals] = []

    def open_log(self) -> None:
        """Log from here on, unless this only checks; raises Trouble or OSError."""
        path = self.options.log_file
        if path.is_fifo():  # which can wait for its reader for ever
            raise Trouble(f"Cannot use {path}: it is a pipe.")
        path.open("ab").close()
        self.log_file = None if self.options.check else path

    def log(self, *messages: str) -> None:
        """Append the messages in one write, so that runs side by side never mix inside it."""
        if not self.log_file:
            return
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(" ", "microseconds")
        text = "".join(f"{now} {message}{os.linesep}" for message in messages)
        data = (os.linesep * self.torn + text).encode("utf-8", "backslashreplace")
        try:
            with self.log_file.open("ab", buffering=0) as file:
                while data:  # a second time only where the disk is full, to be told so
                    data = data[file.write(data) :]
                    self.torn = bool(data)
        except OSError as error:
            self.log_lost = True
            self.print(f"{self.log_file} takes no lines: {error.strerror}. Lost:\n{text}", "stderr")

    def print(self, text: str, stream: str = "stdout") -> None:
        self.show_waiting([])
        if stream == "stderr" or not self.options.quiet:
            say(stream, f"{text}\n")

    def show_waiting(self, servers: list[Server]) -> None:
        """On a terminal, show who is waited for; the next line takes the place of this."""
        if sys.stdout and sys.stdout.isatty() and not self.options.quiet:
            text = ", ".join(server.address for server in servers)[:70]
            say("stdout", f"\r{text} ...".ljust(79) if text else f"\r{'':78}\r")


# ---- What is found wrong before the first connection ---------------------------------------------


def read_inventory(name: str, inventory: object, options: argparse.Namespace) -> list[Server]:
    """Return the servers of the dict of this name; raises Trouble."""
    forms = '1: "10.48.79.194", with "cms2.example.com:2222" or "[2001:db8::3]" as well.'
    edit = f"Edit {name} at the top of {SCRIPT.name}: a line a server, such as {forms}"
    if not isinstance(inventory, dict) or not inventory:
        raise Trouble(f"{name} lists no server. {edit}")
    servers: dict[str, Server] = {}
    for number, address in inventory.items():
        try:
            number += 0  # a TypeError, where it is no number
            server = Server(number, address.strip(), options)
            server.locate()
        except (AttributeError, TypeError, ValueError):
            line = f"{number!r}: {address!r}"
            raise Trouble(f"{name} has {line}, that is no server. {edit}") from None
        other = servers.setdefault(server.known_as, server)
        if other is not server:
            raise Trouble(f"{name} lists {address} as {other.number} and as {number}. {edit}")
    return list(servers.values())


def refuse_repeated_numbers() -> None:
    """Raises Trouble where a dict above has a number twice: Python drops the first in silence."""
    for node in ast.walk(ast.parse(SCRIPT.read_bytes().partition(b"# ---- Limits")[0])):
        numbers = [key.value for key in getattr(node, "keys", []) if isinstance(key, ast.Constant)]
        if len(numbers) > len(set(numbers)):
            raise Trouble(f"{SCRIPT.name} numbers servers {numbers}: each needs its own number.")


def find_password(options: argparse.Namespace) -> str:
    """Return the password from the first place that has one; raises Trouble or OSError."""
    file = options.password_file
    for path in (file, SCRIPT if MMP_PASSWORD else None):
        if path and os.name == "posix" and path.stat().st_mode & 0o077:
            raise Trouble(f"Others can read the password in {path}. Run: chmod go-rwx '{path}'")
    password = ""
    if not options.ask_password:
        password = os.environ.get("MMP_PASSWORD") or (read_lines(file)[0] if file else MMP_PASSWORD)
    elif not (sys.stdin and sys.stdin.isatty()):
        raise Trouble("--ask-password finds no terminal to ask on.")
    else:
        with contextlib.suppress(EOFError, UnicodeDecodeError):
            password = getpass.getpass(f"MMP password of {MMP_USERNAME}: ")
    for what, text in (("MMP_USERNAME", MMP_USERNAME), (file or "MMP_PASSWORD", password)):
        if not isinstance(text, str) or not text or re.search("[\ud800-\udfff]", text):
            raise Trouble(f"{what} is empty or no text. README.md names the ways to set it.")
    return password


def read_known_hosts(path: Path) -> paramiko.HostKeys:
    """Return the keys of a known-hosts file; raises OSError, or Trouble that names a line."""
    known = paramiko.HostKeys()
    for number, line in enumerate(read_lines(path) if path.exists() else [], 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            new = paramiko.hostkeys.HostKeyEntry.from_line(" ".join(fields))
            cut_short = new and new.key.get_base64() != fields[2]
            if cut_short or len(fields) < 3 or fields[0].startswith("@"):
                raise ValueError(line)
            for name in fields[0].split(","):
                if name.startswith("|"):
                    paramiko.HostKeys.hash_host("", name)  # else a spoilt one fails at its use
                if new:  # there is none of a type that paramiko does not know
                    known.add(name, new.key.get_name(), new.key)
        except Exception:  # of the eight types that a spoilt line raises, none is worth a name
            why = f"{path}, line {number}, is no host key that can be used. Delete the line;"
            raise Trouble(f"{why} {STORE} stores that server's key again.") from None
    return known


# ---- SSH -----------------------------------------------------------------------------------------

# Why a server failed, by the type of what was raised, at one stage or at any. A base class serves
# where its derived class has no entry.
BY_HAND = "Log in by hand: ssh -p {port} {MMP_USERNAME}@{host}"
ASKS_FOR_MORE = "The server asks for more than a password: expired? " + BY_HAND
REASONS = {
    "Trouble": "{error}",
    "NoValidConnectionsError": "{text}",
    "gaierror": "The name {host} is not found: check its line, and this computer's DNS.",
    "connecting: OSError": "Cannot connect to {host} port {port}: {text}.",
    "connecting: SSHException": "No usable SSH answer from {host} port {port}: is it "
    "the MMP's address, or is the server overloaded?",
    "storing the host key: OSError": "Cannot write to {options.known_hosts}: {error.strerror}.",
    "BadHostKeyException": "The host key has CHANGED. Known: {error.expected_key.algorithm_name} "
    "{error.expected_key.fingerprint}. Shown: {error.key.algorithm_name} {error.key.fingerprint}. "
    "No password was sent. Only if that is right, delete the server's lines from "
    "{options.known_hosts} and store the new key with {STORE}.",
    "IncompatiblePeer": "The server and paramiko {paramiko.__version__} have no algorithm in "
    'common. For one that speaks only SHA-1: "{sys.executable}" -m pip install "paramiko<5"',
    "BadAuthenticationType": "The server takes no password, only {error.allowed_types!s:.300}.",
    "AuthenticationException": "The login failed, and is not tried again: the password is wrong, "
    "or the account is locked or barred from this host or hour, or the server hung up. " + BY_HAND,
    "logging in: IndexError": ASKS_FOR_MORE,
    "logging in: SSHException": ASKS_FOR_MORE,
    "ChannelException": "The server opens no session (code {error.code}): are too many open?",
    "reading the log: SSHException": "Its log cannot be read: does {MMP_USERNAME} have SFTP?",
    "reading the log: OSError": "Its log cannot be read: {text}",
    "reading the log: Exception": "Its log cannot be read: {text}",
    "reading the log: EOFError": "Its log cannot be read: it breaks off.",
    "InterruptedError": "Cut off {text} while {stage}.",
    "EOFError": "The connection broke off while {stage}.",
    "OSError": "The connection broke off while {stage}.",
    "SSHException": "The connection broke off while {stage}.",
    "Exception": "{kind} while {stage}: {text}.",
}


class Server:
    """A server and the SSH connection to its MMP, or a saved log, which stands for one server."""

    def __init__(self, number: object, address: str, options: argparse.Namespace) -> None:
        self.number, self.address, self.options = number, address, options
        self.client = paramiko.SSHClient()
        self.client.set_missing_host_key_policy(self)  # type: ignore[arg-type]
        self.closed = threading.Event()
        self.stage = "connecting"
        self.began = 0.0  # time.monotonic()
        self.done = self.reason = self.said = self.news = ""
        self.wanted: set[str] = set()  # the bridges whose counters its log should have
        self.counters: dict[str, Counter] = {}

    def locate(self) -> None:
        """Find host, port, and the name of both in a known-hosts file; raises ValueError."""
        found = ADDRESS.fullmatch(self.address)
        self.port = int((found and found["port"]) or 22)
        if found is None or not 0 < self.port < 65536:
            raise ValueError(self.address)
        self.host = found["ipv6"] or found["host"].lower()
        if found["ipv6"] or self.host.rpartition(".")[2].isdigit():
            self.host = str(ipaddress.ip_address(self.host))
        self.known_as = self.host if self.port == 22 else f"[{self.host}]:{self.port}"

    def enter(self, stage: str) -> None:
        """Go on to the next stage; raises EOFError where the connection was closed."""
        self.stage = stage  # before the look, so that who closes and then reads this reads right
        if self.closed.is_set():
            raise EOFError

    def open(self) -> None:
        """Connect and log in, once; what can pass is tried again, up to the login."""
        if self.client.get_transport():  # from the look at the log
            self.closed.wait(TICK)  # an MMP can refuse a session so soon after the one before
            return
        for key in (self.options.known_keys.lookup(self.known_as) or {}).values():
            self.client.get_host_keys().add(self.known_as, key.get_name(), key)
        give_up = self.began + self.options.timeout - 2 * SECONDS_BETWEEN_TRIES
        for tries_left in reversed(range(CONNECT_TRIES)):
            self.enter("connecting")
            try:
                self.client.connect(
                    self.host,
                    self.port,
                    MMP_USERNAME,
                    timeout=SECONDS_PER_TRY,
                    auth_timeout=self.options.timeout + 1,  # by then take_turns() has cut it off
                    allow_agent=False,
                    look_for_keys=False,
                    auth_strategy=self,  # type: ignore[arg-type]
                )
                return
            except (paramiko.BadHostKeyException, paramiko.ssh_exception.IncompatiblePeer):
                raise
            except (OSError, EOFError, paramiko.SSHException):
                if self.stage != "connecting" or not tries_left or time.monotonic() > give_up:
                    raise
            self.client.close()
            self.closed.wait(SECONDS_BETWEEN_TRIES)

    def missing_host_key(self, _: paramiko.SSHClient, name: str, key: paramiko.PKey) -> None:
        """Refuse or store an unknown key: paramiko calls this before the login."""
        shown = f"{key.get_name()} {key.fingerprint}"
        if not self.options.accept_new_host_keys:
            how = f"Compare it with the server's own, then store it with {STORE}."
            raise Trouble(f"The server's host key is not known: {shown}. {how}")
        self.enter("storing the host key")
        path = self.options.known_hosts
        torn = "\n" * bool(path.exists() and read_lines(path)[-1])  # by an editor
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{torn}{name} {key.get_name()} {key.get_base64()}\n")
        self.news = f"New host key of {self.address}: {shown}"

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Send the password, once: paramiko calls this when the host key is verified."""
        # Its own login sends it before it knows whether the server takes one, and answers every
        # question with it, so that one that has expired is offered as the new one.
        self.enter("logging in")
        transport.set_keepalive(30)  # after a look at the log, a restart may be long in coming
        answers, more = [self.options.password], []
        try:
            transport.auth_none(MMP_USERNAME)  # as ssh does, for the server to name its methods
        except paramiko.BadAuthenticationType as error:
            if "password" in error.allowed_types:
                more = transport.auth_password(MMP_USERNAME, answers.pop(), fallback=False)
            elif "keyboard-interactive" in error.allowed_types:  # an IndexError, if asked for more
                more = transport.auth_interactive(
                    MMP_USERNAME, lambda _title, _text, asked: [answers.pop() for _ in asked]
                )
            else:
                raise
        if more:
            raise paramiko.SSHException("a second factor")

    def run(self, command: str) -> tuple[bytes, int]:
        """Send the command, once; return the answer and its exit status, -1 where none came."""
        self.enter("opening a session")
        channel = self.client.get_transport().open_session()  # type: ignore[union-attr]
        channel.set_combine_stderr(True)
        channel.settimeout(TICK)
        self.enter(f"waiting for the answer to '{command}'")
        channel.exec_command(command)
        text, data, until = bytearray(), b"some", float("inf")
        while data and (time.monotonic() < until or channel.recv_ready()):
            with contextlib.suppress(socket.timeout):
                data = channel.recv(1 << 16)
                text += data
            if len(text) > ANSWER_MOST:
                raise Trouble("The answer has no end.")
            if channel.exit_status_ready():  # a child of the command may keep the channel open
                until = min(until, time.monotonic() + SECONDS_FOR_REST)
        channel.status_event.wait(SECONDS_FOR_STATUS)
        return bytes(text).replace(b"\r", b"\n"), channel.exit_status

    def fail(self, error: Exception) -> None:
        """Close it, for a reason that a person can act on, found by type and stage, not by text."""
        if self.closed.is_set() and not isinstance(error, InterruptedError):
            return  # who closes it says why, and who cuts it off in any case
        self.closed.set()  # before the look at the stage: nothing is sent from here on
        names = [kind.__name__ for kind in type(error).__mro__]
        keys = [key for name in names for key in (f"{self.stage}: {name}", name) if key in REASONS]
        more = {"error": error, "text": printable(str(error)), "kind": names[0]}
        reason = REASONS[keys[0]].format_map({**globals(), **vars(self), **more})
        doubt = " The restart may or may not have happened: look before you repeat it."
        self.reason = reason + doubt * (RESTART in self.stage)
        self.client.close()  # which ends waits that heed no timeout

    def work(self, job: Callable[[Server], str], ended: threading.Event) -> None:
        """Do a job, in a thread of its own; leave what was done, or the reason why it was not."""
        try:
            self.done = job(self)
        except Exception as error:  # one server's trouble of any kind must not stop the others
            self.fail(error)
        ended.set()


def take_turns(
    job: Callable[[Server], str], servers: list[Server], parallel: int, report: Report
) -> Iterator[Server]:
    """Do the job at so many servers at a time; yield each that has ended, until a signal comes."""
    waiting, under_way, ended = list(servers), list[Server](), threading.Event()
    seconds = report.options.timeout
    while under_way or (waiting and not report.signals):
        while waiting and len(under_way) < parallel and not report.signals:
            server = waiting.pop(0)
            server.began, server.done, server.news = time.monotonic(), "", ""
            under_way.append(server)
            try:
                threading.Thread(target=server.work, args=(job, ended), daemon=True).start()
            except RuntimeError as error:  # the system has no more threads
                server.fail(error)
        report.show_waiting(under_way)
        ended.wait(TICK)
        ended.clear()
        for server in list(under_way):
            late = time.monotonic() > server.began + seconds
            if (late or report.signals) and not (server.done or server.reason):
                why = f"by {report.signals[0].name}" if report.signals else f"after {seconds:g} s"
                server.fail(InterruptedError(why))
            if server.done or server.reason:
                under_way.remove(server)
                if server.news:
                    report.print(server.news)
                yield server


# ---- Leaked sessions -----------------------------------------------------------------------------

WEB, CALL = "Web Bridge", "Call Bridge"
HARD_LIMIT = 149  # sessions of one Web Bridge, says Cisco's document
MIB = 1 << 20
LOG_STEPS = [1, 2, 4, 8, 16]  # MiB from a log's end to look at
SECONDS_FRESH = 15 * 60  # a Call Bridge logs its counter every 5 minutes
CAUTIONS = """This holds only where neither the CMA desktop client nor the iOS client is in use.
In a cluster, a single server's difference means nothing."""
STAMP = rb"(?:<\d{1,3}> ?)?((?:[A-Z][a-z]{2} {1,2}\d{1,2}|\d{4}-\d\d-\d\d)[ T]\d\d:\d\d:\d\d)"
# After the time come facility.level, the host and perhaps another word; the first word that ends
# with a colon is the process. What a client sends comes later, and only the beginning counts.
COUNTER = re.compile(
    rb"(?m)^" + STAMP + rb"\S*[ \t]{1,99}(?:\S+(?<!:)[ \t]{1,99}){0,3}?"
    rb"(?:[^\w\s]{0,3}(?:host:)?webbridge[^\w\s]{0,3}(?:\[\d+\])?[ \t]*:[ \t]*INFO[ \t]*:[ \t]*"
    rb"\[DEBUGG?ING\][ \t]*Stats[ \t]+(?P<sessions>\d{1,9})[ \t]*,"
    rb"|(?:host:)?server(?:\[\d+\])?[ \t]*:[ \t]*INFO[ \t]*:[ \t]*STATS[ \t]*:[ \t]*"
    rb"(?P<stats>\{[^\n]*))"
)


class Counter(NamedTuple):
    """The newest counter in a log: sessions, or active and peak; and when it was logged."""

    figures: tuple[int, ...]
    stamp: str
    age: float  # seconds up to the log's last line


def moment(stamp: bytes) -> datetime.datetime | None:
    """Return when that was, in the year 2000 if it does not say; None for a date that is none."""
    text = stamp.decode()
    with contextlib.suppress(ValueError):
        if text[0].isdigit():
            return datetime.datetime.fromisoformat(text)
        return datetime.datetime.strptime(f"2000 {text}", "%Y %b %d %H:%M:%S")
    return None


def figures_of(found: re.Match[bytes]) -> tuple[int, ...]:
    """Return a counter's figures; raises ValueError where it is cut short or cannot be."""
    if found["sessions"]:
        return (int(found["sessions"]),)
    stats = json.loads(found["stats"].decode("utf-8", "replace"))
    cma = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", str(stats.get("CMA")))
    if cma is None or int(cma[1]) > int(cma[2]):
        raise ValueError(stats)
    return int(cma[1]), int(cma[2])


def parse_log(text: bytes, cut: bool = False) -> dict[str, Counter]:
    """Return the newest readable counter of each kind of bridge; cut: it begins inside a line."""
    if cut:
        text = text.partition(b"\n")[2]  # what is left of a line can look like one
    last = next(filter(None, map(moment, reversed(re.findall(rb"(?m)^" + STAMP, text)))), None)
    counters = {}
    for found in COUNTER.finditer(text):
        logged, year = moment(found[1]), 366 * 86400  # of 2000, where the log has no year
        with contextlib.suppress(ValueError, RecursionError):
            figures = figures_of(found)
            if logged and last:
                age = (last - logged).total_seconds()
                counter = Counter(figures, found[1].decode(), min(abs(age), abs(age + year)))
                counters[WEB if found["sessions"] else CALL] = counter
    return counters


def read_log(server: Server) -> str:
    """Read the newest counters from an MMP's log, a job; each step back is one round trip."""
    server.open()
    server.enter("reading the log")
    with server.client.open_sftp() as sftp, sftp.open("log") as file:
        size = start = file.stat().st_size or 0
        text = b""
        for mebibytes in LOG_STEPS:
            end, start = start, max(0, size - mebibytes * MIB)
            text = b"".join(file.readv([(start, end - start)])) + text
            server.counters = parse_log(text, cut=start > 0)
            if not start or server.wanted <= server.counters.keys():
                break
    return trusted(server)


def read_saved_log(server: Server) -> str:
    """Read the newest counters from the end of a saved log, plain or .gz, a job."""
    server.enter("reading the log")
    path = Path(server.address)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        end = collections.deque(iter(lambda: file.read(MIB), b""), LOG_STEPS[-1] + 1)
    server.counters = parse_log(b"".join(end), cut=len(end) > LOG_STEPS[-1])
    server.wanted = set(server.counters) or {WEB, CALL}
    return trusted(server)


def trusted(server: Server) -> str:
    """Return what was done, if the log's counters can be counted on; raises Trouble."""
    for bridge in sorted(server.wanted - server.counters.keys()):
        elsewhere = " If the Call Bridges are other servers, list them in CALLBRIDGES."
        hint = elsewhere * (bridge == CALL and not (CALLBRIDGES or server.options.from_logs))
        raise Trouble(f"Its log has no readable {bridge} counter.{hint}")
    if CALL in server.wanted and server.counters[CALL].age > SECONDS_FRESH:
        raise Trouble(f"Its newest Call Bridge counter, {server.counters[CALL].stamp}, is too old.")
    return "read"


def count_leaked(servers: list[Server], report: Report) -> tuple[int, int]:
    """Print a table and return the leaked and the active sessions; raises Trouble."""
    rows = [["Server", WEB, "logged", "CMA", "logged"]]
    sums = {WEB: 0, CALL: 0}
    for server in servers:
        rows.append([server.address])
        for bridge in sums:
            counted = server.counters if bridge in server.wanted else {}
            figures, stamp, age = counted.get(bridge, Counter((), "", 0))
            full = " FULL" * (bridge == WEB and figures >= (HARD_LIMIT,))
            sums[bridge] += sum(figures[:1])
            rows[-1].append("/".join(map(str, figures)) + full or "-")
            rows[-1].append(f"{stamp} ({age / 60:.0f} min old)" if stamp else "-")
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        report.print("  ".join(map(str.ljust, row, widths)).rstrip())
    uncounted = [server for server in servers if server.reason or not server.done]
    wrong = [f"{s.address}: {s.reason or 'It was not reached.'}" for s in uncounted]
    if not wrong and len({bridge for s in servers for bridge in s.counters}) < len(sums):
        wrong = ["It takes a Web Bridge's log and a Call Bridge's."]
    if wrong:
        why = "Nothing was restarted: the leaked sessions cannot be counted. "
        raise Trouble(why + " ".join(wrong))
    leaked = max(0, sums[WEB] - sums[CALL])
    report.print(f"Leaked: {leaked} ({sums[WEB]} Web Bridge, {sums[CALL]} active CMA sessions).")
    report.print(CAUTIONS)
    return leaked, sums[CALL]


# ---- The job -------------------------------------------------------------------------------------


def restart(server: Server) -> str:
    """Restart a Web Bridge, or where this only checks, ask for its settings: a job."""
    checks = server.options.check
    server.open()
    text, status = server.run("webbridge" if checks else RESTART)
    server.client.close()
    said = server.said = printable(text[: ANSWER_SHOWN * 4]) or "nothing"
    refused = REFUSED.search(text)
    if refused or status > 0:
        server.stage = "reading the answer"  # which leaves no doubt
        said = printable(refused[1]) if refused else said
        code = f" (exit status {status})" * (status > 0)
        unknown = said.lower().startswith("unknown command")
        gone = " CMS 3.0 and newer have no Web Bridge 2." * unknown
        raise Trouble(f"The server answered: {said}{code}{gone}")
    if checks and not re.search(rb"(?im)^[ \t]*Enabled[ \t]*:[ \t]*true\b", text):
        raise Trouble(f"The server does not say that its Web Bridge is enabled, but: {said}")
    if not checks and status != 0 and not re.search(rb"(?m)^[ \t]*SUCCESS:", text):
        raise Trouble(f"The answer ended without exit status or SUCCESS, after: {said}.")
    return "Enabled: true" if checks else "restarted"


def restart_all(servers: list[Server], report: Report) -> int:
    """Restart or check all servers, tell how each ends, and return the exit status."""
    left, good, total = list(servers), 0, len(servers)
    for server in take_turns(restart, servers, report.options.parallel, report):
        left.remove(server)
        reason = server.reason
        place = f"[{servers.index(server) + 1}/{total}] {server.address}"
        took = f"{time.monotonic() - server.began:.1f} s"
        if reason:
            report.log(f"Failed to restart webbridge on server {server.address}. Error:", reason)
            report.print(f"{place} FAILED  {took}: {reason}", "stderr")
        else:
            good += 1
            report.log(f"Webbridge on server: {server.address} restarted successfully")
            said = f"\n  answered: {server.said}" * report.options.verbose
            report.print(f"{place} {server.done}  {took}{said}")
    report.print(f"{'Checked' if report.options.check else 'Restarted'}: {good} of {total}.")
    if report.signals:
        names = ", ".join(server.address for server in left) or "none"
        raise Trouble(f"Ended by {report.signals[0].name}. Not attempted: {names}")
    return int(good < total or report.log_lost)


def look_first(servers: list[Server], report: Report) -> bool:
    """Count the leaked sessions; return whether to restart; raises Trouble where none can say."""
    options = report.options
    job, parallel = (read_saved_log, 1) if options.from_logs else (read_log, len(servers))
    for _ in take_turns(job, servers, parallel, report):
        pass  # the table tells of them all
    leaked, active = count_leaked(servers, report)
    if options.sessions or options.from_logs:
        return False
    busy = options.max_active is not None and active > options.max_active
    if busy or leaked < (options.if_leaked or 0):
        why = f"Nothing was restarted: {leaked} sessions are leaked, and {active} people are in."
        report.log(why)
        report.print(why)
        return False
    return True


# ---- The command line ----------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    known_hosts = SCRIPT.with_name("webbridge_known_hosts")
    log_file = SCRIPT.with_name("webbridge_restart_logs.txt")
    add = parser.add_argument
    add("servers", nargs="*", metavar="SERVER", help="number or address; without any, all servers")
    either = parser.add_mutually_exclusive_group().add_argument
    either("--check", action="store_true", help="log in and ask; restart nothing, log nothing")
    either("--sessions", action="store_true", help="count the leaked sessions, restart nothing")
    add("--accept-new-host-keys", action="store_true", help="store keys of servers not yet known")
    add("--known-hosts", type=Path, metavar="FILE", default=known_hosts, help="their host keys")
    add("--password-file", type=Path, metavar="FILE", help="the password is its first line")
    add("--ask-password", action="store_true", help="ask for the password on the terminal")
    add("--log-file", type=Path, metavar="FILE", default=log_file, help="what to append to")
    add("--timeout", type=float, metavar="SECONDS", default=SECONDS_PER_SERVER, help="per server")
    add("--parallel", type=int, metavar="N", default=1, help="servers at a time (default: 1)")
    add("--from-logs", type=Path, metavar="FILE", nargs="+", help="count them in saved logs")
    add("--if-leaked", type=int, metavar="N", help="restart only if at least N sessions leaked")
    add("--max-active", type=int, metavar="N", help="restart only if at most N people are in")
    add("-q", "--quiet", action="store_true", help="print failures only")
    add("-v", "--verbose", action="store_true", help="print also what each server answered")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def prepare(options: argparse.Namespace) -> tuple[list[Server], list[Server]]:
    """Return the servers to restart, and those to count in; raises Trouble or OSError."""
    version = paramiko.__version__ if paramiko else "none"
    if not paramiko or int(version.partition(".")[0]) < 4:
        install = f'"{sys.executable}" -m pip install "paramiko>=4.0"'
        raise Trouble(f"This needs paramiko 4.0 or newer, and finds {version}. Run: {install}")
    if not (0 < options.timeout <= 86400 and 0 < options.parallel <= 100):
        raise Trouble("--timeout takes up to 86400 seconds, --parallel up to 100 servers.")
    if min(options.if_leaked or 0, options.max_active or 0) < 0:
        raise Trouble("--if-leaked and --max-active take no number below 0.")
    if options.from_logs:
        return [], [Server(0, str(path), options) for path in dict.fromkeys(options.from_logs)]
    web = read_inventory("WEBBRIDGES", WEBBRIDGES, options)
    refuse_repeated_numbers()
    call = read_inventory("CALLBRIDGES", CALLBRIDGES, options) if CALLBRIDGES else web
    everywhere: dict[str, Server] = {}
    for bridge, server in [(WEB, one) for one in web] + [(CALL, one) for one in call]:
        everywhere.setdefault(server.known_as, server).wanted.add(bridge)
    names = {name: server for server in web for name in (str(server.number), server.address)}
    for name in options.servers:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
            raise Trouble(f"WEBBRIDGES has no server {name}. The nearest is {nearest}.")
    wanted = [names[name] for name in options.servers] or web
    options.password = find_password(options)
    options.known_keys = read_known_hosts(options.known_hosts)
    return [server for server in web if server in wanted], list(everywhere.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the whole job; return the exit status, as the beginning of this file has it."""
    logging.getLogger("paramiko").setLevel(sys.maxsize)  # it has tracebacks of what is handled here
    options = build_parser().parse_args(argv)
    report = Report(options)
    status = 2
    try:
        if not (options.sessions or options.from_logs):
            report.open_log()
        chosen, everywhere = prepare(options)
        status = 1
        hang_up = hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        for number in [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if hang_up else []):
            signal.signal(number, lambda number, _: report.signals.append(signal.Signals(number)))
        conditions = options.if_leaked, options.max_active
        look = options.sessions or options.from_logs or conditions != (None, None)
        if look and not look_first(everywhere, report):
            return int(report.log_lost)
        return restart_all(chosen, report)
    except (Trouble, OSError) as error:
        why = str(error)
        if isinstance(error, OSError) and error.filename:
            why = f"Cannot use {error.filename}: {error.strerror}."
        report.log(why)
        report.print(why, "stderr")
        return 128 + report.signals[0] if report.signals else status
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
