#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["paramiko>=4.0"]
# ///
"""Restart the Web Bridge of every Cisco Meeting Server listed below, and log what happened.

This works around CSCvt73723: Web Bridge 2 of CMS 2.x leaks WebRTC sessions until, at 149 of
them, nobody can join. A restart clears them, and ends every WebRTC session of that server.

Edit the block below, then:

    python3 webbridge_restart.py --check --accept-new-host-keys    try the set-up, restart nothing
    python3 webbridge_restart.py                                   restart every Web Bridge
    python3 webbridge_restart.py 2 cms4.example.com                restart only these

Exit status: 0 all were restarted (or checked), 1 at least one was not, 2 nothing was attempted,
130 ended by Ctrl-C, 143 ended by SIGTERM.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import datetime
import difflib
import getpass
import ipaddress
import logging
import os
import queue
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

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

# ---- Limits --------------------------------------------------------------------------------------

SECONDS_PER_SERVER = 60.0  # connecting, logging in, restarting, answering: all of it
CONNECT_TRIES = 3  # up to the login, which is tried once
SECONDS_PER_TRY = 20.0
SECONDS_BETWEEN_TRIES = 2.0
SECONDS_FOR_STATUS = 2.0  # an exit status may come so long after the end of the answer
ANSWER_KEPT = 65536  # bytes of an answer; all its lines are looked at, however many
ANSWER_SHOWN = 300  # characters of it in the log and on the terminal

# ---- End of what there is to edit ----------------------------------------------------------------

__version__ = "1.0.0"
SCRIPT = Path(__file__).resolve()  # cron and Task Scheduler start in other directories
TICK = 0.1  # seconds between two looks at the clock, and at a silent server's exit status
RESTART = "webbridge restart"
# Cisco: a reply is lines that begin SUCCESS: or FAILURE:, and one FAILURE line means failure.
REFUSED = re.compile(rb"(?im)^[^\w\n]*((?:FAILURE|ERROR|Unknown command)[^\n]*)\n")
CONFIRMED = re.compile(rb"(?m)^[ \t]*SUCCESS:[^\n]*\n")
ENABLED = re.compile(rb"(?im)^[ \t]*Enabled[ \t]*:[ \t]*(\w+)")
LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
ADDRESS = re.compile(rf"(?:\[(?P<ipv6>[^]]+)\]|(?P<host>{LABEL}(\.{LABEL})*))(:(?P<port>[0-9]+))?")


class Trouble(Exception):
    """What is wrong, with the run or with one server, in a sentence that says what to do."""


class Server(NamedTuple):
    """A line of the inventory: its number, its address as typed, and what that means."""

    number: int
    address: str
    host: str
    port: int

    @property
    def known_as(self) -> str:
        """Its name in a known-hosts file."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"


# ---- Text, log and terminal ----------------------------------------------------------------------


def printable(sent: bytes | str) -> str:
    """Return what a server sent as one short line that can forge no other and drive no terminal."""
    text = sent.decode("utf-8", "backslashreplace") if isinstance(sent, bytes) else sent
    line = " | ".join(part.strip(" ") for part in re.split(r"[\r\n]+", text) if part.strip(" "))
    cut = line[:ANSWER_SHOWN] + "..." * (len(line) > ANSWER_SHOWN)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file, at least one; raises OSError."""
    return path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")


def append(path: Path, text: str) -> None:
    """Append in one write, so that runs side by side never mix inside it; raises OSError."""
    with path.open("a+b") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        torn = file.read() not in (b"", b"\n")  # by a full disk, or an editor
        file.write(("\n" * torn + text).encode("utf-8", "backslashreplace"))


def write_log(path: Path, *messages: str) -> bool:
    """Append the messages, stamped; return whether the log took them."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(" ", "microseconds")
    text = "".join(f"{now} {message}{os.linesep}" for message in messages)
    try:
        append(path, text)
    except OSError as error:
        say("stderr", f"{path} takes no lines: {error.strerror}. Lost:\n{text}")
        return False
    return True


def say(stream: str, text: str) -> None:
    """Write to sys.stdout or sys.stderr; a missing, closed or full one must not stop the work."""
    try:
        encoding = getattr(sys, stream).encoding or "ascii"
        getattr(sys, stream).write(text.encode(encoding, "backslashreplace").decode(encoding))
        getattr(sys, stream).flush()
    except (AttributeError, OSError, ValueError):
        setattr(sys, stream, None)  # or Python tries again at its exit, and exits with 120


# ---- What is found wrong before the first connection ---------------------------------------------


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port; raises ValueError."""
    found = ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"] or 22) < 65536:
        raise ValueError(address)
    host = found["ipv6"] or found["host"].lower()
    if found["ipv6"] or host.rpartition(".")[2].isdigit():
        host = str(ipaddress.ip_address(host))
    return host, int(found["port"] or 22)


def read_inventory(name: str, inventory: object) -> list[Server]:
    """Return the servers of the dict of this name, in its order; raises Trouble."""
    edit = f'Edit {name} at the top of {SCRIPT.name}: one line a server, 1: "its MMP address",'
    if not isinstance(inventory, dict) or not inventory:
        raise Trouble(f"{name} lists no server. {edit}")
    servers: dict[tuple[str, int], Server] = {}
    for number, address in inventory.items():
        try:
            server = Server(number + 0, address.strip(), *parse_address(address.strip()))
        except (AttributeError, TypeError, ValueError):
            raise Trouble(
                f"{name} has {number!r}: {address!r}, which is no server. {edit}"
            ) from None
        other = servers.setdefault(server[2:], server)
        if other is not server:
            raise Trouble(f"{name} lists {address} as {other.number} and as {number}. {edit}")
    return list(servers.values())


def refuse_repeated_numbers() -> None:
    """Raises Trouble where a dict above has a number twice: Python drops the first in silence."""
    for node in ast.walk(ast.parse(SCRIPT.read_bytes())):
        keys = [key.value for key in getattr(node, "keys", []) if isinstance(key, ast.Constant)]
        for key in keys:
            if keys.count(key) > 1:
                raise Trouble(f"{SCRIPT.name} numbers two servers {key!r}: each needs its own.")


def choose(servers: list[Server], wanted: Sequence[str]) -> list[Server]:
    """Return those that were asked for by number or address, or all; raises Trouble."""
    names = {name: server for server in servers for name in (str(server.number), server.address)}
    for name in wanted:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
            raise Trouble(f"WEBBRIDGES has no server {name}. The nearest is {nearest}.")
    return [s for s in servers if not wanted or str(s.number) in wanted or s.address in wanted]


def find_password(options: argparse.Namespace) -> str:
    """Return the password from the first place that has one; raises Trouble or OSError."""
    if options.ask_password:
        if not (sys.stdin and sys.stdin.isatty()):
            raise Trouble("--ask-password finds no terminal to ask on.")
        return getpass.getpass(f"MMP password of {MMP_USERNAME}: ")
    if os.environ.get("MMP_PASSWORD"):
        return os.environ["MMP_PASSWORD"]
    path = options.password_file or SCRIPT
    if os.name == "posix" and path.stat().st_mode & 0o077 and (path != SCRIPT or MMP_PASSWORD):
        raise Trouble(f"Others can read the password in {path}. Run: chmod go-rwx '{path}'")
    return MMP_PASSWORD if path == SCRIPT else read_lines(path)[0]


def read_known_hosts(path: Path) -> paramiko.HostKeys:
    """Return the keys of a known-hosts file; raises OSError, or Trouble that names a line."""
    known = paramiko.HostKeys()
    for number, line in enumerate(read_lines(path) if path.exists() else [], 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            if len(fields) < 3 or fields[0].startswith("@"):
                raise ValueError(line)
            entry = paramiko.hostkeys.HostKeyEntry.from_line(" ".join(fields), number)
            for name in fields[0].split(","):
                if name.startswith("|"):
                    paramiko.HostKeys.hash_host("", name)  # else a spoilt one fails at its use
                if entry:  # None stands for a key type that paramiko does not know
                    known.add(name, entry.key.get_name(), entry.key)
        except Exception:  # of the eight types that a spoilt line raises, none is worth a name
            raise Trouble(
                f"{path}, line {number}, is no host key that can be used. Delete the line; "
                "--check --accept-new-host-keys stores that server's key again."
            ) from None
    return known


# ---- SSH -----------------------------------------------------------------------------------------

# Why a server failed, by the type of what paramiko or the socket raised, at a stage or at any. A
# base class serves where its derived class has no entry.
REASONS = {
    "NoValidConnectionsError": "{error}",
    "gaierror": "The name {host} is not found: check WEBBRIDGES, and this computer's DNS.",
    "connecting: OSError": "Cannot connect to {host} port {port}: {error}.",
    "connecting: timeout": "Nothing answers at {host} port {port}: wrong address, or a firewall?",
    "connecting: TimeoutError": "Nothing answers at {host} port {port}: wrong address, a firewall?",
    "connecting: EOFError": "The server at {host} port {port} broke the key exchange off.",
    "connecting: SSHException": "No SSH server answers at {host} port {port}: check the address.",
    "BadHostKeyException": "The host key has CHANGED. Known: {error.expected_key.algorithm_name} "
    "{error.expected_key.fingerprint}. Shown: {error.key.algorithm_name} {error.key.fingerprint}. "
    "No password was sent. Only if that is right, delete the server's lines from {known_hosts} "
    "and store the new key with --check --accept-new-host-keys.",
    "IncompatiblePeer": "The server and paramiko {paramiko} have no algorithm in common. For one "
    'that speaks only SHA-1: "{python}" -m pip install "paramiko<5"',
    "BadAuthenticationType": "The server takes no password, only: {allowed}.",
    "AuthenticationException": "The login, tried once, was refused: a wrong password, or an "
    "account that is locked, or barred from this host or hour. {by_hand}",
    "logging in: SSHException": "The server asks for more than a password: expired? {by_hand}",
    "ChannelException": "The server opens no session (code {error.code}): are too many open?",
}


class Answer:
    """What a server answers, of any length: the beginning is kept, every line is looked at."""

    def __init__(self) -> None:
        self.text = self.refusal = self.unfinished = b""
        self.confirmed = False
        self.status = -1  # which is paramiko's word for none

    def add(self, data: bytes) -> None:
        lines = self.unfinished + data.replace(b"\r", b"\n")
        refused = REFUSED.search(lines)
        self.refusal = self.refusal or (refused[1] if refused else b"")
        self.confirmed = self.confirmed or CONFIRMED.search(lines) is not None
        self.unfinished = lines[lines.rfind(b"\n") + 1 :][:ANSWER_SHOWN]
        self.text += data[: ANSWER_KEPT - len(self.text)]


class Connection:
    """An SSH connection to one MMP. Another thread may close it; nothing is sent after that."""

    def __init__(
        self, server: Server, password: str, known: paramiko.HostKeys, options: argparse.Namespace
    ) -> None:
        self.server, self.password, self.known, self.options = server, password, known, options
        self.client = paramiko.SSHClient()
        self.closed = threading.Event()
        self.stage = "connecting"
        self.new_key = ""
        self.began = 0.0  # time.monotonic()

    def enter(self, stage: str) -> None:
        """Go on to the next stage; raises EOFError where the connection was closed."""
        self.stage = stage  # before the look, so that who closes and then reads this reads right
        if self.closed.is_set():
            raise EOFError

    def close(self) -> None:
        self.closed.set()
        self.client.close()

    def open(self) -> None:
        """Connect and log in; what can pass is tried again, up to the login."""
        lasting = paramiko.BadHostKeyException, paramiko.ssh_exception.IncompatiblePeer
        for tries_left in reversed(range(CONNECT_TRIES)):
            try:
                self.open_once()
                return
            except (OSError, EOFError, paramiko.SSHException) as error:
                if self.stage != "connecting" or isinstance(error, (*lasting, socket.gaierror)):
                    raise
                time_left = self.began + self.options.timeout - time.monotonic()
                if not tries_left or time_left < 2 * SECONDS_BETWEEN_TRIES:
                    raise
                self.client.close()
                self.closed.wait(SECONDS_BETWEEN_TRIES)

    def open_once(self) -> None:
        self.enter("connecting")
        for key in (self.known.lookup(self.server.known_as) or {}).values():
            self.client.get_host_keys().add(self.server.known_as, key.get_name(), key)
        self.client.set_missing_host_key_policy(self)  # type: ignore[arg-type]
        self.client.connect(
            self.server.host,
            self.server.port,
            MMP_USERNAME,
            timeout=min(SECONDS_PER_TRY, self.options.timeout),
            auth_timeout=self.options.timeout,
            allow_agent=False,
            look_for_keys=False,
            auth_strategy=self,  # type: ignore[arg-type]
        )

    def missing_host_key(self, _: paramiko.SSHClient, name: str, key: paramiko.PKey) -> None:
        """Refuse or store an unknown key: paramiko calls this before the login."""
        shown = f"{key.get_name()} {key.fingerprint}"
        if not self.options.accept_new_host_keys:
            raise Trouble(
                f"The server's host key is not known: {shown}. Compare it with the server's "
                "own, then store it with --check --accept-new-host-keys."
            )
        try:
            append(self.options.known_hosts, f"{name} {key.get_name()} {key.get_base64()}\n")
        except OSError as error:
            raise Trouble(f"Cannot store the host key: {error.strerror}.") from None
        self.known.add(name, key.get_name(), key)
        self.new_key = shown

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Send the password, once: paramiko calls this when the host key is verified.

        Its own login answers every question with the password, and so offers one that has
        expired as the new one.
        """
        answers = [[self.password]]

        def answer(_title: str, _text: str, questions: list[tuple[str, bool]]) -> list[str]:
            if len(questions) > len(answers):
                raise paramiko.SSHException("a second question")
            return answers.pop() if questions else []

        self.enter("logging in")
        try:
            more = transport.auth_password(MMP_USERNAME, self.password, fallback=False)
        except paramiko.BadAuthenticationType as error:
            if "keyboard-interactive" not in error.allowed_types:
                raise
            more = transport.auth_interactive(MMP_USERNAME, answer)
        if more:
            raise paramiko.SSHException("a second factor")

    def run(self, command: str) -> Answer:
        """Send the command, once; return the answer when its exit status or its end is here."""
        self.enter("opening a session")
        transport = self.client.get_transport()
        if transport is None:
            raise EOFError
        channel = transport.open_session()
        channel.set_combine_stderr(True)
        channel.settimeout(TICK)
        self.enter(f"waiting for the answer to '{command}'")
        channel.exec_command(command)
        answer = Answer()
        while not channel.exit_status_ready():  # true also of a closed channel
            with contextlib.suppress(socket.timeout):
                data = channel.recv(ANSWER_KEPT)
                answer.add(data)
                if not data:
                    channel.status_event.wait(SECONDS_FOR_STATUS)
                    break
        while channel.recv_ready() and not self.closed.is_set():
            answer.add(channel.recv(ANSWER_KEPT))
        answer.add(b"\n")
        answer.status = channel.exit_status
        return answer

    def doubt(self) -> str:
        """Return what to add to a reason where nobody can know whether the server restarted."""
        unknown = " The restart may or may not have happened: look before you repeat it."
        return unknown if RESTART in self.stage else ""

    def explain(self, error: Exception) -> str:
        """Return the reason as a person can act on it, found by type and stage, never by text."""
        if isinstance(error, Trouble):
            return str(error)
        host, port = self.server.host, self.server.port
        for kind in type(error).__mro__:
            reason = REASONS.get(f"{self.stage}: {kind.__name__}", REASONS.get(kind.__name__))
            if reason:
                return reason.format(
                    error=error,
                    host=host,
                    port=port,
                    allowed=printable(", ".join(getattr(error, "allowed_types", []))),
                    by_hand=f"Log in by hand: ssh -p {port} {MMP_USERNAME}@{host}",
                    known_hosts=self.options.known_hosts,
                    paramiko=paramiko.__version__,
                    python=sys.executable,
                )
        if isinstance(error, (EOFError, OSError, paramiko.SSHException)):
            return f"The connection broke off while {self.stage}.{self.doubt()}"
        kind_and_text = f"{type(error).__name__} {printable(str(error))}"
        return f"Unforeseen while {self.stage}: {kind_and_text}.{self.doubt()}"


# ---- The job -------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """How a server's turn ended: with what was done, or with the reason why it was not."""

    connection: Connection
    reason: str
    done: str = ""
    answer: str = ""


def ask(connection: Connection, command: str) -> Answer:
    """Log in and run the command; raises Trouble where the server says that it failed."""
    connection.open()
    answer = connection.run(command)
    if answer.refusal or answer.status > 0:
        early = answer.refusal in answer.text[:ANSWER_SHOWN]
        said = printable(answer.text if early else answer.refusal) or "nothing"
        status = f" (exit status {answer.status})" * (answer.status > 0)
        unknown = answer.refusal.lower().startswith(b"unknown command")
        gone = " CMS 3.0 and newer have no Web Bridge 2." * unknown
        raise Trouble(f"The server answered: {said}{status}{gone}")
    return answer


def restart(connection: Connection) -> Outcome:
    """Restart a Web Bridge; raises Trouble and what paramiko raises."""
    answer = ask(connection, RESTART)
    said = printable(answer.text) or "nothing"
    if answer.status != 0 and not answer.confirmed:
        ended = f"The answer ended without an exit status or SUCCESS, after: {said}."
        raise Trouble(ended + connection.doubt())
    return Outcome(connection, "", "restarted", said)


def check(connection: Connection) -> Outcome:
    """Ask a Web Bridge for its settings; raises Trouble and what paramiko raises."""
    answer = ask(connection, "webbridge")
    said = printable(answer.text) or "nothing"
    enabled = ENABLED.search(answer.text)
    if enabled is None or enabled[1].lower() != b"true":
        raise Trouble(f"The Web Bridge is not enabled. The server answered: {said}")
    return Outcome(connection, "", "Enabled: true", said)


def take_turn(
    job: Callable[[Connection], Outcome],
    connection: Connection,
    ended: queue.SimpleQueue[Outcome],
) -> None:
    try:
        ended.put(job(connection))
    except Exception as error:  # one server's trouble of any kind must not stop the others
        ended.put(Outcome(connection, connection.explain(error)))
        connection.close()


def take_turns(
    job: Callable[[Connection], Outcome], connections: Sequence[Connection], report: Report
) -> Iterator[Outcome]:
    """Do the job at the servers, --parallel at a time; yield each outcome, until a signal comes.

    A turn is cut off from here, whatever it waits for: recv_exit_status() and the wait for an exec
    request heed no timeout, and a server that dribbles starts a read's anew.
    """
    waiting, under_way = list(connections), list[Connection]()
    ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    while under_way or (waiting and not report.signals):
        while waiting and len(under_way) < report.options.parallel and not report.signals:
            connection = waiting.pop(0)
            connection.began = time.monotonic()
            threading.Thread(target=take_turn, args=(job, connection, ended), daemon=True).start()
            under_way.append(connection)
        report.show_waiting(under_way)
        outcomes = []
        with contextlib.suppress(queue.Empty):
            outcomes.append(ended.get(timeout=TICK))
        for connection in under_way:
            if report.signals or time.monotonic() > connection.began + report.options.timeout:
                connection.close()  # and nothing is sent from here on
                why = f"after {report.options.timeout:g} s"
                if report.signals:
                    why = f"by {report.signals[0].name}"
                reason = f"Cut off {why} while {connection.stage}.{connection.doubt()}"
                outcomes.append(Outcome(connection, reason))
        for outcome in outcomes:
            if outcome.connection in under_way:  # else it was cut off before it ended
                under_way.remove(outcome.connection)
                outcome.connection.close()
                yield outcome


class Report:
    """What is told of a run: on the terminal and, unless it only checks, in the log."""

    def __init__(self, options: argparse.Namespace, connections: Sequence[Connection]) -> None:
        self.options = options
        self.left = [connection.server.address for connection in connections]
        total = len(connections)
        self.places = {c: f"[{n}/{total}] {c.server.address}" for n, c in enumerate(connections, 1)}
        self.good = self.failed = 0
        self.log_lost = False
        self.signals: list[signal.Signals] = []
        for number in (signal.SIGINT, signal.SIGTERM):  # noted, and heeded by take_turns()
            signal.signal(number, lambda received, _: self.signals.append(signal.Signals(received)))

    def log(self, *messages: str) -> None:
        if not self.options.check and not write_log(self.options.log_file, *messages):
            self.log_lost = True

    def print(self, text: str, stream: str = "stdout") -> None:
        self.show_waiting([])
        if stream == "stderr" or not self.options.quiet:
            say(stream, f"{text}\n")

    def show_waiting(self, connections: Sequence[Connection]) -> None:
        """On a terminal, show who is waited for; the next line takes the place of this."""
        if sys.stdout and sys.stdout.isatty() and not self.options.quiet:
            text = ", ".join(self.places[connection] for connection in connections)
            say("stdout", "\r" + text[:78].ljust(78) + "\r" * (not text))

    def tell(self, outcome: Outcome) -> None:
        connection, address = outcome.connection, outcome.connection.server.address
        self.left.remove(address)
        line = f"{self.places[connection]} {outcome.done or 'FAILED'}"
        took = f"{time.monotonic() - connection.began:.1f} s"
        if connection.new_key:
            self.print(f"Stored the new host key of {address}: {connection.new_key}")
        if outcome.reason:
            self.failed += 1
            self.log(f"Failed to restart webbridge on server {address}. Error:", outcome.reason)
            self.print(f"{line}  {took}: {outcome.reason}", "stderr")
        else:
            self.good += 1
            self.log(f"Webbridge on server: {address} restarted successfully")
            self.print(f"{line}  {took}" + f"\n  answered: {outcome.answer}" * self.options.verbose)

    def finish(self) -> int:
        """Tell of the run as a whole; return its exit status."""
        done = "checked" if self.options.check else "restarted"
        left = f", {len(self.left)} not attempted" * bool(self.left)
        total = f"{len(self.places)} servers"
        self.print(f"{total}: {self.good} {done}, {self.failed} failed{left}.")
        if self.signals:
            names = ", ".join(self.left) or "none"
            message = f"Ended by {self.signals[0].name}. Not attempted: {names}"
            self.log(message)
            self.print(message, "stderr")
            return 128 + self.signals[0]
        return int(self.failed > 0 or self.log_lost)


# ---- The command line ----------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Trouble(f"Wrong options: {message}. See --help.")


def build_parser() -> argparse.ArgumentParser:
    about, details = (__doc__ or "\n").split("\n", 1)
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=about, epilog=details, formatter_class=raw, allow_abbrev=False)
    add = parser.add_argument
    add("servers", nargs="*", metavar="SERVER", help="number or address; without any, all servers")
    add("--check", action="store_true", help="log in and ask; restart nothing, log nothing")
    add("--accept-new-host-keys", action="store_true", help="store keys of servers not yet known")
    known_hosts = SCRIPT.with_name("webbridge_known_hosts")
    add("--known-hosts", type=Path, metavar="FILE", default=known_hosts, help="their host keys")
    add("--password-file", type=Path, metavar="FILE", help="the password is its first line")
    add("--ask-password", action="store_true", help="ask for the password on the terminal")
    log_file = SCRIPT.with_name("webbridge_restart_logs.txt")
    add("--log-file", type=Path, metavar="FILE", default=log_file, help="what to append to")
    add("--timeout", type=float, metavar="SECONDS", default=SECONDS_PER_SERVER, help="per server")
    add("--parallel", type=int, metavar="N", default=1, help="servers at a time (default: 1)")
    add("-q", "--quiet", action="store_true", help="print failures only")
    add("-v", "--verbose", action="store_true", help="print also what each server answered")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def prepare(options: argparse.Namespace) -> list[Connection]:
    """Check all that can be checked before the first connection; raises Trouble or OSError."""
    version = paramiko.__version__ if paramiko else "none"
    if not paramiko or int(version.partition(".")[0]) < 4:
        install = f'"{sys.executable}" -m pip install "paramiko>=4.0"'
        raise Trouble(f"This needs paramiko 4.0 or newer, and finds {version}. Run: {install}")
    if not (0 < options.timeout <= 86400 and 0 < options.parallel <= 100):
        raise Trouble("--timeout takes up to 86400 seconds, --parallel up to 100 servers.")
    refuse_repeated_numbers()
    servers = choose(read_inventory("WEBBRIDGES", WEBBRIDGES), options.servers)
    password = find_password(options)
    for what, text in (("MMP_USERNAME", MMP_USERNAME), ("MMP_PASSWORD", password)):
        if not isinstance(text, str) or not text or re.search("[\ud800-\udfff]", text):
            raise Trouble(f"{what} is empty or no text. README.md names the ways to set it.")
    known = read_known_hosts(options.known_hosts)
    return [Connection(server, password, known, options) for server in servers]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the whole job; return the exit status, as the beginning of this file has it."""
    logger = logging.getLogger("paramiko")  # it would print tracebacks of what is handled here
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    logged = False
    try:
        options = build_parser().parse_args(argv)
        append(options.log_file, "")
        logged = not options.check
        connections = prepare(options)
    except (Trouble, OSError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename:
            text = f"Cannot use {error.filename}: {error.strerror}."
        say("stderr", f"{text}\n")
        if logged:
            write_log(options.log_file, text)
        return 2
    except KeyboardInterrupt:
        return 130
    report = Report(options, connections)
    for outcome in take_turns(check if options.check else restart, connections, report):
        report.tell(outcome)
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
