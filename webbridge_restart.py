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
                         restart only if it is needed, and if no session was
                         active when that was last logged (at most 15 min ago)

Exit status:
  0    every server was restarted (or is ready, or was counted), or the
       conditions did not call for a restart
  1    at least one server failed or could not be counted, the conditions left
       a full Web Bridge as it is, the computer slept or the figures grew too
       old, so that the run ended, or a line of the log was lost
  2    the set-up is wrong, and nothing was attempted
  130, 143, 129, 149   ended by Ctrl-C, SIGTERM, a closed terminal, Ctrl-Break
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import contextlib
import datetime
import errno
import functools
import getpass
import ipaddress
import itertools
import logging
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

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
MMP_PASSWORD = r""  # README.md names safer places for the password

# Only for counting sessions, and only if other servers run the Call Bridges: list all Call Bridges.
CALLBRIDGES: dict[int, str] = {}
# Only for counting sessions: True if the servers log in this computer's local time, not in UTC.
LOG_TIMES_ARE_LOCAL = False

# ---- Limits --------------------------------------------------------------------------------------

SECONDS_PER_SERVER = 60.0  # unless --timeout says otherwise: from connecting to the whole answer
SECONDS_ASLEEP = 60.0  # a step that took so much longer than allowed ends the run
CONNECT_TRIES = 3
TRY_SHARE = 0.3  # of the seconds per server, for each step of a try to connect: 18 of 60
SECONDS_BETWEEN_TRIES = 2.0
LATE_OUTPUT_SECONDS = 2.0  # output may come this long after the exit status
LATE_STATUS_SECONDS = 10.0  # the exit status may come this long after the end of the output
LOSS_SECONDS = 0.5  # paramiko notices within this time that a connection was closed or reset
NEVER = 1e6  # seconds, for paramiko's own limits
TICK = 0.005  # seconds between two looks at the clock
MAX_ANSWER_BYTES = 1 << 20  # no command of an MMP prints so much
MAX_SHOWN_CHARACTERS = 300  # of an answer, in the log and on the terminal

HARD_LIMIT = 149  # sessions of one Web Bridge. Cisco's document: "the hard limit is 149"
LOG_STEPS = (1 << 20, 16 << 20)  # bytes to read from a log's end, until it has the counters
MAX_CALL_BRIDGE_AGE = datetime.timedelta(minutes=15)  # Cisco's document: logged every 5 minutes
MAX_WEB_BRIDGE_AGE = datetime.timedelta(hours=24)  # how often it is logged is not published
MAX_AHEAD = datetime.timedelta(minutes=15)  # a server's clock may be ahead of this computer's

# ---- Nothing below needs editing -----------------------------------------------------------------

__version__ = "3.1.0"
SCRIPT = Path(__file__).resolve()  # cron and Task Scheduler start it in other folders
LOG_FILE = SCRIPT.with_name("webbridge_restart_logs.txt")
KNOWN_HOSTS_FILE = SCRIPT.with_name("webbridge_known_hosts")
RESTART_COMMAND = "webbridge restart"
T = TypeVar("T")


class Trouble(Exception):
    """What is wrong, in sentences that say what to do. Nothing was sent that restarts anything."""


# ---- Text, files, and what a run tells -----------------------------------------------------------


def escape(text: str) -> str:
    """Return the text as one line that drives no terminal: ends of lines and the like escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def one_line(sent: bytes | str) -> str:
    """Return what a server sent as one short line, its lines joined by bars."""
    text = sent.decode("utf-8", "backslashreplace") if isinstance(sent, bytes) else sent
    lines = (line.strip() for line in text.splitlines())
    joined = " | ".join(line for line in lines if line) or "nothing"
    escaped = escape(joined[: MAX_SHOWN_CHARACTERS + 1])
    is_short = len(escaped) <= MAX_SHOWN_CHARACTERS
    return escaped if is_short else f"{escaped[:MAX_SHOWN_CHARACTERS]}..."


def sentence(text: str) -> str:
    """Return the text with a full stop, so that another sentence can follow."""
    return text if text.endswith(".") else f"{text}."


def plural(number: int, noun: str) -> str:
    """Return the number with its noun: 1 server, 2 servers."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def format_span(span: datetime.timedelta) -> str:
    """Return a span of time in its largest useful unit, without its sign."""
    minutes = round(abs(span).total_seconds() / 60)
    if minutes < 120:
        return f"{minutes} min"
    return plural(minutes // 60, "hour") if minutes < 2880 else plural(minutes // 1440, "day")


def command_line(*words: object) -> str:
    """Return the words as a command that can be pasted into this system's shell.

    In a message it comes last: what follows it would be pasted, too.
    """
    if os.name == "posix":
        return shlex.join(map(str, words))
    # The Command Prompt: no Windows path holds a quotation mark.
    return " ".join(w if re.fullmatch(r"[\w:\\/.@-]+", w) else f'"{w}"' for w in map(str, words))


def explain_file(error: OSError) -> str:
    """Return why a file cannot be read or written, and what to do if a right is missing."""
    hint = " Check which account runs this, and who owns the file."
    return f"{error.strerror}.{hint if isinstance(error, PermissionError) else ''}"


def explain_error(error: Exception) -> str:
    """Return what went wrong with one server; what nobody foresaw, by its type."""
    if isinstance(error, Trouble):
        return str(error)
    return f"{type(error).__name__}: {sentence(one_line(str(error)))}"


def refuse_unless_file(path: Path, or_device: bool = False) -> None:
    """Raises Trouble if the path is a folder, or a pipe, which would hold the run."""
    if path.exists() and not path.is_file() and not (or_device and path.is_char_device()):
        raise Trouble(f"{path} is not a file.")


def append(path: Path, lines: str) -> None:
    """Append whole lines to a file; raises OSError."""
    data = lines.encode()
    with contextlib.suppress(PermissionError):  # a file to which one may only append is right
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
        text = "\n".join(map(escape, text.split("\n")))
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
        now = utc_now().isoformat(" ", "microseconds")
        # Escaped, so that one message is one line: nothing can forge another.
        lines = "".join(f"{now} {escape(message)}{os.linesep}" for message in messages)
        try:
            append(self.log_file, lines)
        except OSError as error:
            self.has_lost_lines = True
            reason = f"Cannot write to {self.log_file}: {explain_file(error)}"
            self.complain(f"{reason} Not logged:\n{lines.rstrip()}")

    def log_and_complain(self, message: str) -> None:
        """Log and print why the run did not do all of its work."""
        self.log(message)
        self.complain(message)


# ---- The block to edit ---------------------------------------------------------------------------

BLOCK = ("WEBBRIDGES", "MMP_USERNAME", "MMP_PASSWORD", "CALLBRIDGES", "LOG_TIMES_ARE_LOCAL")
LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
ADDRESS = re.compile(
    rf"(?:\[(?P<ipv6>[^]\s]+)\]|(?P<host>{LABEL}(\.{LABEL})*)\.?)(:(?P<port>[0-9]+))?"
)


@dataclass(frozen=True)
class Server:
    """One line of an inventory."""

    number: int = field(compare=False)
    address: str = field(compare=False)  # as the inventory has it
    host: str
    port: int
    is_web_bridge: bool = field(compare=False, default=True)  # False: only in CALLBRIDGES

    @property
    def known_as(self) -> str:
        """The name in a known-hosts file."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"

    def __str__(self) -> str:
        inventory = "" if self.is_web_bridge else " of CALLBRIDGES"
        return f"{self.number}{inventory} ({self.address})"


def check_this_file() -> None:
    """Raises Trouble for a mistake near the top of this file that Python finds late or never."""
    tree = ast.parse(SCRIPT.read_bytes())
    values: dict[str, ast.expr] = {}
    for statement in tree.body:
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or statement.value is None:
            continue
        target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
        name, value = ast.unparse(target), statement.value
        if name in values:  # Python keeps the last of them
            place = f"line {statement.lineno} of {SCRIPT.name}"
            raise Trouble(f"{name} is set a second time, in {place}. Delete one of the two.")
        values[name] = value
        keys = value.keys if isinstance(value, ast.Dict) else []
        numbers = [key.value for key in keys if isinstance(key, ast.Constant)]
        for number in numbers:
            if numbers.count(number) > 1:  # Python keeps the last of them
                raise Trouble(f"{name} uses the number {number!r} twice. Give each server its own.")
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id.isupper() and node.id not in values:
            block = "Edit these" if node.id in BLOCK else "Limits"
            place = f'the block "{block}" of {SCRIPT.name}'
            hint = "Write it there, at the left edge, as a new copy of the script has it."
            raise Trouble(f"{node.id} is missing from {place}. {hint}")
    for name in itertools.takewhile(lambda name: name != "__version__", values):
        value = values[name]
        if name not in BLOCK and isinstance(value, ast.Constant) and isinstance(value.value, str):
            raise Trouble(f"{name} in {SCRIPT.name} is text. Write it without quotation marks.")


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
            host, port = parse_address(address.strip())
        except ValueError:
            raise Trouble(
                f"{entry} is not an address. Write an IP address or a host name, and :PORT after "
                "it if the port is not 22. Put an IPv6 address in brackets."
            ) from None
        server = Server(number, address.strip(), host, port, name == "WEBBRIDGES")
        if server.known_as in servers:
            twice = f"twice, as {servers[server.known_as].number} and as {number}"
            raise Trouble(f"{name} lists {server.address} {twice}. Delete one of the two lines.")
        servers[server.known_as] = server
    return list(servers.values())


def choose_servers(servers: list[Server], names: list[str]) -> list[Server]:
    """Return the servers of these numbers or addresses, or all of them; raises Trouble."""
    for name in names:
        if not any(name in (str(server.number), server.address) for server in servers):
            raise Trouble(f"No server {name}. WEBBRIDGES has {', '.join(map(str, servers))}.")
    return [s for s in servers if not names or str(s.number) in names or s.address in names]


# ---- Access: the password and the known host keys ------------------------------------------------


@dataclass(frozen=True)
class Access:
    """What a login needs. It is the same for every server."""

    username: str
    password: str = field(repr=False)
    password_source: str
    known_hosts_file: Path
    known_hosts: paramiko.HostKeys  # grows where a new host key is stored
    accept_new_host_keys: bool
    options: Sequence[str]  # for a run by hand that needs the same access

    def command(self, *words: object) -> str:
        """Return a command that runs this script by hand, as a message prints it."""
        return command_line(sys.executable, SCRIPT, *words, *self.options)


def refuse_if_others_can_read(path: Path) -> None:
    """Raises Trouble if a file that holds the password is open to others (not on Windows).

    As ssh does with keys: what the group can read is all right if the file is somebody else's, for
    example root's, who gave it to the group of this account.
    """
    if os.name != "posix":
        return
    status, account = path.stat(), os.geteuid()
    if status.st_mode & (0o077 if status.st_uid == account else 0o007):
        close = command_line("chmod", "go-rwx", path)
        if account not in (status.st_uid, 0):  # it could not read the file any more
            close = f"{command_line('sudo', 'chown', account, path)} && sudo {close}"
        raise Trouble(f"Others can read the password in {path}. Run: {close}")


def read_password_file(path: Path) -> str:
    """Return the first line of the file; raises Trouble or OSError."""
    refuse_unless_file(path)
    text = path.read_bytes()
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
    control = re.search(r"[\0-\x08\n-\x1f\x7f-\x9f]", password)  # a tab may be meant
    if control:
        name = ascii(control[0])
        raise Trouble(f"The password {source} has a control character, {name}. Write it again.")
    return password, source


def add_known_host(known: paramiko.HostKeys, fields: list[str]) -> None:
    """Add what a line of a known-hosts file says; raises many types of error."""
    names, key_type, base64 = fields[:3]
    if names.startswith("@") or re.search(r"[*?!]", names):
        raise ValueError(names)  # a line that forbids a key, for example
    entry = paramiko.hostkeys.HostKeyEntry.from_line(f"{names} {key_type} {base64}")
    if entry is None:
        return  # a type of key that paramiko lacks: as if the line were not there
    if entry.key.get_base64() != base64:
        raise ValueError(base64)  # cut short
    for name in entry.hostnames:
        known.add(name if name.startswith("|") else name.lower(), key_type, entry.key)
    known.lookup("")  # fails now if a hashed name is damaged


def read_known_hosts(path: Path) -> paramiko.HostKeys:
    """Return the keys of a known-hosts file, which need not exist; raises Trouble or OSError."""
    known = paramiko.HostKeys()
    refuse_unless_file(path)
    text = b""
    with contextlib.suppress(FileNotFoundError):
        text = path.read_bytes()
    # Line by line: HostKeys.load() passes over what it cannot read, and over what a line forbids.
    for number, line in enumerate(text.decode("utf-8-sig", "replace").split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            add_known_host(known, line.split())
        except Exception:  # paramiko raises eight types of error for a damaged line
            raise Trouble(
                f"{path}, line {number}, has a marker (@), a pattern (*, ?, !) or a damaged key, "
                "which this script cannot use. Delete the line if you know that it forbids no key. "
                "Then --check names the servers whose keys you must store."
            ) from None
    return known


# ---- The clock: no server holds the run ----------------------------------------------------------

# From here to "Checking" stands what to verify before trusting the script:
#   Who gets the password?   log_in: connect, verify_host_key, and only then send_password. (A new
#                            key passes only with --accept-new-host-keys.)
#   How often?               once, as a password; and once more, as the answer to one question, if
#                            the server then wants that and no password. No login is tried again.
#   Who gets the command?    send_command: each server of the run, once
#   When is it "restarted"?  judge_restart, of what hear_to_end heard to the answer's end: has_ended
#                            says what counts as the end, and is_lost when a closed channel is none
#   What ends each step?     Clock.call; and hear_to_end, which looks at the same clock. All other
#                            calls of paramiko wait for nothing; is_alive, for a second. (A disk or
#                            a terminal that blocks holds the run until a second Ctrl-C: Stop.note.)
#   What stops a restart?    Clock.refuse_if_over, before each step, and why_end between servers
# Elsewhere stand: what is logged (Report.log, escape), the known host keys (read_known_hosts), what
# is done at all (carry_out), and whether the figures call for it (restart_if_needed). To count,
# read_log logs in, too, by log_in. If that fails on one server, no server is restarted.


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


class Clock:
    """The time that one server has, or one pause; and until when the figures may decide."""

    def __init__(
        self, stop: Stop, seconds: float, valid_until: datetime.datetime | None = None
    ) -> None:
        self.stop, self.seconds, self.valid_until = stop, seconds, valid_until
        self.began, self.began_by_wall_clock = time.monotonic(), time.time()

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.began + self.seconds - time.monotonic()

    def why_over(self, doing: str) -> str:
        """Return the sentence that says that a signal came or that no time is left, or ""."""
        if self.stop.signal:
            return f"Cut off by {self.stop.signal.name} while {doing}."
        if self.left() > 0:
            return ""
        hint = "A slow server needs a higher --timeout."
        return f"Cut off after {self.seconds:g} s while {doing}. {hint}"

    def why_asleep(self) -> str:
        """Return the sentence that says that the computer slept since this began, or "".

        The wall clock tells it: on Linux, the other one stands still while a computer sleeps.
        """
        elapsed = time.time() - self.began_by_wall_clock  # below 0 if the clock was set back
        beyond = max(elapsed - self.seconds, -elapsed)
        if beyond <= SECONDS_ASLEEP:
            return ""
        span = format_span(datetime.timedelta(seconds=beyond))
        return f"The computer slept for {span}, or its clock was set, so the run ends."

    def why_too_late(self) -> str:
        """Return the sentence that says why no restart may begin any more, or ""."""
        reason = self.why_asleep()
        if not reason and self.valid_until and utc_now() > self.valid_until:
            reason = "The figures are too old now, so the run ends."
        return reason

    def refuse_if_over(self, doing: str) -> None:
        """Raises Trouble if nothing more may be sent, for any of these reasons."""
        reason = self.why_over(doing) or self.why_too_late()
        if reason:
            raise Trouble(reason)

    def sleep(self, seconds: float) -> None:
        """Wait, unless a signal comes."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at and not self.stop.signal:
            time.sleep(min(TICK, seconds))

    def call(self, doing: str, function: Callable[[], T]) -> T:
        """Return what the function returns; raises what it raises, or Trouble at a cut-off.

        The function is one step, in a thread of its own. If it never returns, it holds nothing up.
        If it returns too late, what it returns is dropped, and no other step follows it.
        """
        self.refuse_if_over(doing)
        future = in_thread(function)
        while not concurrent.futures.wait([future], TICK).done:
            self.refuse_if_over(doing)
        return future.result()


def in_thread(function: Callable[[], T]) -> Future[T]:
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
    overheard: Overheard


# ---- Reaching a server: no password yet, and no command ------------------------------------------

# RSA keys have one name in a known-hosts file, but sign under three (RFC 8332, section 3).
KNOWN_NAMES = {"rsa-sha2-512": "ssh-rsa", "rsa-sha2-256": "ssh-rsa"}
# What paramiko raises where a connection breaks, or where what comes makes no sense.
CONNECTION_ERRORS = (OSError, EOFError, ValueError, paramiko.SSHException)
# How paramiko logs a line before the SSH banner, a login's banner (as bytes), and a goodbye.
SAID = re.compile(
    r"(?:Banner: |Auth banner: b['\"]|Disconnect \(code \d+\): )(.+?)['\"]?$", re.DOTALL
)


class Transient(Trouble):
    """There is no connection yet, and another try may succeed."""


class Overheard(logging.Handler):
    """Keeps paramiko's own log of a connection: some words of a server stand only there."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=200)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage()[:1000])

    def quote(self) -> str:
        """Return a sentence with what the server said, or ""."""
        said = [found[1] for found in map(SAID.match, list(self.lines)) if found]
        text = "\n".join(said).replace(r"\r", "").replace(r"\n", "\n")
        return f" The server said: {sentence(one_line(text))}" if said else ""


def dial(server: Server, seconds: float) -> socket.socket:
    """Return a TCP connection to the first address of the host that accepts; raises Transient."""
    place = f"{server.host} port {server.port}"
    try:
        connection = socket.create_connection((server.host, server.port), seconds)
        # As ssh does. Otherwise small packets wait for the acknowledgement of the one before.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    except socket.gaierror:
        reason = f"Cannot resolve {server.host}. Check how it is written, and DNS."
    except socket.timeout:
        reason = f"Timed out after {seconds:g} s while connecting to {place}."
    except OSError as error:
        reason = f"Cannot connect to {place}: {error.strerror or error}."
        if error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH):  # the words of Cisco's script
            reason = f"[Errno None] Unable to connect to port {server.port} on {server.host}"
    raise Transient(reason)


def explain_incompatible(transport: paramiko.Transport, said: str) -> str:
    """Return why the server and paramiko have no language in common, and what to do."""
    if not transport.remote_version.startswith(("SSH-2.0-", "SSH-1.99-")):  # RFC 4253, section 5.1
        offer = sentence(one_line(transport.remote_version))
        return f"The server does not speak SSH 2, which this script needs. It offers: {offer}"
    version = paramiko.__version__
    reason = f"The server and paramiko {version} have no algorithm in common: {said}."
    # paramiko 5 dropped SHA-1 from the key exchange and the host keys, which come first.
    if not version.startswith("4.") and not transport.host_key_type:
        install = command_line(sys.executable, "-m", "pip", "install", "paramiko<5")
        reason += f" If the server offers nothing newer than SHA-1, run: {install}"
    return reason


def shake_hands(transport: paramiko.Transport, turn: Turn, seconds: float) -> paramiko.PKey:
    """Return the host key that the server proved to have; raises Trouble, or Transient."""
    place = f"{turn.server.host} port {turn.server.port}"
    try:
        transport.start_client(timeout=seconds)
        return transport.get_remote_server_key()  # raises SSHException if the time ran out
    except paramiko.ssh_exception.IncompatiblePeer as error:
        raise Trouble(explain_incompatible(transport, one_line(str(error)))) from None
    except CONNECTION_ERRORS as error:
        reason = f"No usable SSH answer from {place}: {sentence(one_line(str(error)))}"
        if transport.is_active():
            reason = f"Timed out after {seconds:g} s in the SSH handshake with {place}."
        hint = "Is it an MMP? Is the server overloaded?"
        raise Transient(f"{reason}{turn.overheard.quote()} {hint}") from None


def hang_up(transport: paramiko.Transport) -> None:
    """End a connection, so that the server knows it at once."""
    # No step waits for the server, or for paramiko's thread (Transport.stop_thread). close() alone
    # leaves the socket open for the 0.1 s that this thread still reads; for good, if no handshake
    # began.
    shut_down = functools.partial(transport.sock.shutdown, socket.SHUT_RDWR)
    for step in (shut_down, transport.close, transport.sock.close):
        with contextlib.suppress(Exception):  # what was heard stays heard, whatever happens here
            step()


def connect_once(turn: Turn, seconds: float) -> tuple[paramiko.Transport, paramiko.PKey]:
    """Return a connection, and its host key, not yet compared with known ones; raises Trouble."""
    server, clock = turn.server, turn.clock
    known_types: Collection[str] = turn.access.known_hosts.lookup(server.known_as) or ()
    turn.overheard.lines.clear()
    transport = paramiko.Transport(clock.call("connecting", lambda: dial(server, seconds)))
    try:
        transport.logger = logging.Logger("this connection")
        transport.logger.addHandler(turn.overheard)
        # paramiko's own limits must not end anything: they follow a clock that can be set.
        transport.banner_timeout = transport.handshake_timeout = NEVER
        transport.auth_timeout = transport.channel_timeout = transport.clear_to_send_timeout = NEVER
        # The known types first, as ssh does: else the server may show a key of another type.
        security = transport.get_security_options()
        security.key_types = sorted(
            security.key_types, key=lambda name: KNOWN_NAMES.get(name, name) not in known_types
        )
        key = clock.call("connecting", lambda: shake_hands(transport, turn, seconds))
        return transport, key
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


def fingerprint(key: paramiko.PKey) -> str:
    """Return the type and the fingerprint of a host key, as ssh prints them."""
    return f"{key.get_name()} {key.fingerprint}"


def explain_host_key(key: paramiko.PKey, known: Mapping[str, paramiko.PKey], turn: Turn) -> str:
    """Return why a host key is not trusted, and what to do."""
    file, name, shown = turn.access.known_hosts_file, turn.server.known_as, fingerprint(key)
    server = turn.server
    way = ["--check", server.number] if server.is_web_bridge else ["--sessions"]
    store = turn.access.command(*way, "--accept-new-host-keys")
    if not known:
        return (
            f"New host key, not trusted yet: {shown}. It is not in {file}. The password was not "
            "sent to it. Compare the fingerprint with the server's own, then store the key with: "
            f"{store}"
        )
    what = f"The server has no host key of a known type: {', '.join(sorted(known))}."
    if key.get_name() in known:
        what = f"The host key has CHANGED. Known: {fingerprint(known[key.get_name()])}."
    forget = command_line("ssh-keygen", "-R", name, "-f", file)
    return (
        f"{what} Shown: {shown}. The password was not sent to it. This may be an attack. Only if "
        "you know that the server has a new key, delete the old one and store the new one with: "
        f"{forget} && {store}"
    )


def login_by_hand(turn: Turn) -> str:
    """Return the command that logs in as this script does."""
    account = f"{turn.access.username}@{turn.server.host}"
    return command_line("ssh", "-p", turn.server.port, account)


def explain_refusal(turn: Turn) -> str:
    """Return why a login may have been refused, the server's own words first."""
    access = turn.access
    odd = ""
    if access.password != access.password.strip(" \t") or "\xa0" in access.password:
        odd = " Mind that it has a space at its beginning or end, or a no-break space."
    return (
        f"Login refused.{turn.overheard.quote()} It is not tried again. Check the "
        f"password ({access.password_source}).{odd} Other causes: an expired password, a locked "
        "account, an MMP 'user host' or 'user duty' rule, or the server hung up. Log in once by "
        f"hand: {login_by_hand(turn)}"
    )


# ---- Judging an answer ---------------------------------------------------------------------------

# What the answer to the restart command means. The first of these that is true counts:
#   a line of failure (FAILURE), an exit status above 0, or the command refused   failed
#   its end was not seen, or nothing came, not even the reply to the request      failed, in doubt
#   a SUCCESS line that says enabled, restarted or started of the Web Bridge,
#   and after the first such line none about a half-done restart                  restarted
#   exit status 0, SUCCESS lines, and none about a half-done restart (HALF_DONE)  restarted
#   exit status 0, no text at all, and the server accepted the command            restarted
#   anything else                                                                 failed, in doubt
# The reply to `webbridge restart` is published nowhere. Cisco's lab guide has this one to
# `webbridge enable`, which is the second half of a restart. The first lines tell of certificates:
#   SUCCESS: Key and certificate pair match
#   SUCCESS: certificate verified against CA bundle
#   SUCCESS: Webbridge enabled

DOUBT = "The restart may or may not have happened: check the Web Bridge before you run this again."


class Answer(NamedTuple):
    """What came after a command was sent."""

    text: bytes
    status: int | None  # the exit status, None if none came
    accepted: bool  # whether the server replied that it runs the command
    cut: str  # why its end was not seen, or why it is no answer, or ""


class Verdict(NamedTuple):
    """What became of a command."""

    is_success: bool
    reason: str  # of a success: what the server answered
    in_doubt: bool = False  # whether the restart may have happened all the same

    def explain(self) -> str:
        """Return what the log says of a failure."""
        return f"{sentence(self.reason)} {DOUBT}" if self.in_doubt else self.reason


# One FAILURE line means failure, whatever else is said (Cisco's MMP reference).
FAILURE = re.compile(
    rb"FAILURE:|^[ \t]*(?:(?i:failure:|failed:|error:)|ERROR\b|(?P<unknown>Unknown command)\b)",
    re.MULTILINE,
)
SUCCESS = rb"^[ \t]*SUCCESS:"  # what begins a line of success
SUCCESS_LINE = re.compile(SUCCESS, re.MULTILINE)
# It counts behind a line that says disabled, which may be how the first half of a restart is told.
RESTART_CONFIRMED = re.compile(
    SUCCESS + rb"[^\n]*(?i:web ?bridge (?:is |was )?(?:enabled|restarted|started)\b)", re.MULTILINE
)
HALF_DONE = re.compile(SUCCESS + rb"[^\n]*(?i:not|disabled|stopped|failed)\b", re.MULTILINE)


def judge_failure(answer: Answer) -> Verdict | None:
    """Return the verdict on a failure, even if the connection broke later; None if it is none."""
    failure = FAILURE.search(answer.text)
    if failure or answer.status:
        said = one_line(answer.text[failure.start() :] if failure else answer.text)
        if answer.status:
            said += f" (exit status {answer.status})"
        if failure and failure["unknown"]:
            said += ". CMS 3.0 and newer have no Web Bridge 2. Take this server out of WEBBRIDGES."
        is_contradicted = bool(answer.status and RESTART_CONFIRMED.search(answer.text))
        return Verdict(False, f"The server answered: {said}", in_doubt=is_contradicted)
    nothing_came = not answer.text.strip() and answer.status is None
    # A command that runs was replied to before, even if it prints nothing (RFC 4254, section 6.5).
    if nothing_came and not answer.accepted and not answer.cut:
        return Verdict(False, "The server refused to run the command.")
    return None


def is_confirmed(answer: Answer) -> bool:
    """Return whether an answer that came to its end, without a failure, confirms the restart."""
    confirmed = RESTART_CONFIRMED.search(answer.text)
    if confirmed:
        return not HALF_DONE.search(answer.text, confirmed.end())
    if answer.status is None:
        return False
    # Exit status 0 vouches that the whole command ran, so it may say anything of a success, or
    # nothing.
    if not answer.text.strip():
        return answer.accepted
    return bool(SUCCESS_LINE.search(answer.text)) and not HALF_DONE.search(answer.text)


def judge_restart(answer: Answer) -> Verdict:
    """Return what the answer to the restart command means. Nothing else decides about it."""
    failure = judge_failure(answer)
    if failure:
        return failure
    said = one_line(answer.text)
    if answer.cut:
        heard = f" It had answered: {said}." if answer.text.strip() else ""
        return Verdict(False, f"{answer.cut}{heard}", in_doubt=True)
    if is_confirmed(answer):
        return Verdict(True, said)
    status = "no exit status" if answer.status is None else "exit status 0"
    reason = f"The answer does not confirm the restart: {said} ({status})."
    return Verdict(False, reason, in_doubt=True)


# ---- One login, to a server whose host key is known ----------------------------------------------


def store_host_key(key: paramiko.PKey, turn: Turn) -> None:
    """Store a new host key, so that it is known from now on, and tell it; raises Trouble."""
    access, name = turn.access, turn.server.known_as
    turn.clock.refuse_if_over("connecting")
    try:
        access.known_hosts_file.touch(mode=0o600)  # if it is new: whatever the umask is
        append(access.known_hosts_file, f"{name} {key.get_name()} {key.get_base64()}\n")
    except OSError as error:
        reason = f"Cannot write to {access.known_hosts_file}: {explain_file(error)}"
        raise Trouble(f"{reason} No password was sent.") from None
    access.known_hosts.add(name, key.get_name(), key)
    stored = f"Server {turn.server}: new host key stored: {fingerprint(key)}"
    turn.report.log(stored)
    turn.report.say(stored, even_if_quiet=True)


def verify_host_key(key: paramiko.PKey, turn: Turn) -> None:
    """Raises Trouble unless this is a known host key of the server, or the first and accepted."""
    known: Mapping[str, paramiko.PKey]
    known = turn.access.known_hosts.lookup(turn.server.known_as) or {}
    if known.get(key.get_name()) == key:
        return
    if known or not turn.access.accept_new_host_keys:
        raise Trouble(explain_host_key(key, known, turn))
    store_host_key(key, turn)


def answer_once(password: str) -> Callable[[str, str, list[tuple[str, bool]]], list[str]]:
    """Return what answers one hidden question with the password, and refuses all others."""
    unused = [password]

    def answer(_title: str, _text: str, questions: list[tuple[str, bool]]) -> list[str]:
        shows_what_is_typed = any(echo for _, echo in questions)  # so it asks for something else
        if shows_what_is_typed or len(questions) > len(unused):
            raise paramiko.SSHException  # auth_interactive raises it, too, so the login ends
        return [unused.pop() for _ in questions]

    return answer


def send_password(turn: Turn, transport: paramiko.Transport) -> list[str]:
    """Give the password, and return what the server still wants; raises as paramiko does.

    Only this function sends the password. It goes out as a password. If the server then names
    questions, and no password, as ways to log in, it goes out as the answer to one question. So one
    that judged it the first time, too, judges it twice. Nobody can tell such a server apart.
    """
    name, password = turn.access.username, turn.access.password
    # paramiko's own fallback would answer every question with it, however many there are.
    as_password = functools.partial(transport.auth_password, name, password, fallback=False)
    as_answer = functools.partial(transport.auth_interactive, name, answer_once(password))
    try:
        return turn.clock.call("logging in", as_password)
    except paramiko.BadAuthenticationType as error:  # it names ways to log in, and no password
        if "keyboard-interactive" not in error.allowed_types:
            raise
    return turn.clock.call("logging in", as_answer)


def authenticate(turn: Turn, transport: paramiko.Transport) -> None:
    """Log in, on a connection whose host key was verified; raises Trouble."""
    if not transport.is_active():
        raise Trouble("The connection broke off before the login.")
    try:
        is_in = not send_password(turn, transport)
    except (paramiko.AuthenticationException, OSError, EOFError, ValueError) as error:
        methods = [name for name in getattr(error, "allowed_types", []) if name]
        if methods and "keyboard-interactive" not in methods:
            only = one_line(", ".join(methods))
            hint = "Use an account that logs in with a password."
            raise Trouble(f"The server accepts no password, only {only}. {hint}") from None
        raise Trouble(explain_refusal(turn)) from None
    except paramiko.SSHException:  # neither yes nor no: it asked for something else
        is_in = False
    if not is_in:
        raise Trouble(
            "The server did not let this script in with the password alone. The password may have "
            f"expired, or the server asks for more. Log in once by hand: {login_by_hand(turn)}"
        )


@contextlib.contextmanager
def log_in(turn: Turn) -> Iterator[paramiko.Transport]:
    """Yield a connection that is logged in, and hang up at its end; raises Trouble."""
    transport, host_key = connect(turn)
    try:
        verify_host_key(host_key, turn)
        authenticate(turn, transport)
        yield transport
    finally:
        hang_up(transport)


# ---- One command ---------------------------------------------------------------------------------


def is_alive(transport: paramiko.Transport) -> bool:
    """Return whether the connection lives: neither closed nor reset, as far as paramiko knows."""
    for _ in range(2):  # if this process was suspended in one wait, the other gives paramiko time
        transport.join(LOSS_SECONDS)
    return transport.is_active()


def receive(channel: paramiko.Channel) -> tuple[bytes, bool]:
    """Return what has come since the last look, and whether the output is at its end."""
    try:
        piece = channel.recv(MAX_ANSWER_BYTES)
    except socket.timeout:
        return b"", False
    return piece.replace(b"\r", b"\n"), not piece


def has_ended(
    channel: paramiko.Channel, output_ended: bool, half_seen_at: float, clock: Clock
) -> bool:
    """Return whether the answer is at its end, whose first half was seen at that time.

    The end has two halves, which come in any order: the exit status, and the server's end of file.
    On a channel that is closed nothing more can come. Whether that is the end, says is_lost.
    """
    has_status = channel.exit_status != -1
    if output_ended and channel.eof_received and has_status:
        return True
    if output_ended and channel.closed:  # by the server, or because the connection is lost
        return True
    if clock.why_asleep():  # what the server sent meanwhile may still be on its way
        return False
    # Half of the end is missing. Some servers never send it: some seconds after the other half (not
    # after the last output), what came counts as the whole answer, if the connection lives.
    patience = LATE_OUTPUT_SECONDS if has_status else LATE_STATUS_SECONDS
    return time.monotonic() > half_seen_at + patience and is_alive(channel.get_transport())


def is_lost(channel: paramiko.Channel) -> bool:
    """Return whether the connection broke off before both halves of the end had come."""
    has_both = channel.eof_received and channel.exit_status != -1
    # The server closed the channel or refused the command: paramiko then sent an end of file
    # (Channel._close_internal). The connection was lost: it sent none. Nothing else here sends one.
    return channel.closed and not has_both and not channel.eof_sent


def hear_to_end(
    channel: paramiko.Channel, sending: Future[None], text: bytearray, clock: Clock
) -> str:
    """Add what comes to the text; return "" at the answer's end, or why its end was not seen."""
    channel.settimeout(0)  # so recv() waits for nothing: paramiko's waits follow a settable clock
    half_seen_at: float | None = None
    while True:
        # The clock first, and then one more look at what came: a FAILURE that came in time counts.
        why_over = clock.why_over("waiting for the answer")
        piece, output_ended = receive(channel)
        text += piece
        if len(text) > MAX_ANSWER_BYTES:
            return "The answer is longer than any command's, so the rest was not heard."
        if output_ended or channel.exit_status != -1:
            half_seen_at = half_seen_at or time.monotonic()
            ended = has_ended(channel, output_ended, half_seen_at, clock)
            if ended and not channel.recv_ready():  # else more came meanwhile
                broke_off = "The connection broke off before the end of the answer."
                return broke_off if is_lost(channel) else ""
        elif not text and not sending.done():
            # It may not be sent yet: paramiko sends nothing while the server changes session keys.
            why_over = why_over or clock.why_too_late()
        if why_over:
            return why_over
        if not piece:
            time.sleep(TICK)


def hear(channel: paramiko.Channel, sending: Future[None], clock: Clock) -> Answer:
    """Return the answer to the command that was sent, or is still being sent."""
    text = bytearray()
    try:
        cut = hear_to_end(channel, sending, text, clock)
    except Exception as error:  # nobody foresaw it, and the command may have been sent
        cut = explain_error(error)
    if not cut:
        concurrent.futures.wait([sending], LOSS_SECONDS)
        if not text.strip() and not sending.done():
            cut = "The server did not reply to the command."
    accepted = sending.done() and not sending.exception()
    status = None if channel.exit_status == -1 else channel.exit_status
    return Answer(bytes(text), status, accepted, cut)


def open_channel(turn: Turn, transport: paramiko.Transport) -> paramiko.Channel:
    """Return a channel for one command; raises Trouble."""
    # recv() sends, and so may block, once it took a tenth of the window. All that hear_to_end takes
    # of an answer, at most two times MAX_ANSWER_BYTES, is less.
    open_session = functools.partial(transport.open_session, window_size=32 * MAX_ANSWER_BYTES)
    try:
        channel = turn.clock.call("opening a session", open_session)
    except paramiko.ChannelException as error:
        reason = f"The server refused to open a session (code {error.code})."
        raise Trouble(f"{reason} Too many sessions may be open.") from None
    except CONNECTION_ERRORS:
        raise Trouble("The connection broke off while opening a session.") from None
    channel.set_combine_stderr(True)  # waits for nothing
    return channel


def send_command(turn: Turn, command: str) -> Answer:
    """Log in, send the command, once, and return the answer; raises if it was surely not sent."""
    with log_in(turn) as transport:
        channel = open_channel(turn, transport)
        turn.clock.refuse_if_over("opening a session")
        # In a thread of its own, because the answer can come before the reply to this request.
        sending = in_thread(lambda: channel.exec_command(command))
        return hear(channel, sending, turn.clock)


# ---- One server after another --------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a run needs to know, and where it tells what it does."""

    servers: Sequence[Server]  # to restart or to check
    counters: dict[Server, set[Bridge]]  # which counters the log of each server should have
    access: Access
    seconds: float  # that each server has
    options: argparse.Namespace
    stop: Stop
    report: Report


def why_end(last_step: Clock) -> str:
    """Return why no other server may have its turn after the last step, or ""."""
    if last_step.stop.signal:
        return f"Ended by {last_step.stop.signal.name}."
    return last_step.why_too_late()


def take_turns(
    servers: Collection[Server], job: Job, last_step: Clock | None = None, pause: float = 0
) -> Iterator[Turn]:
    """Yield a turn for each server, until a signal comes or why_end has another reason.

    Then say which servers were not attempted. The last step is what came before the first turn.
    """
    waiting, last_step = list(servers), last_step or Clock(job.stop, 0)  # which began now
    while waiting and not why_end(last_step):
        server = waiting.pop(0)
        # The clock first: Ctrl-S on a terminal can hold the line that follows.
        last_step = Clock(job.stop, job.seconds, last_step.valid_until)
        job.report.say_on_terminal(f"Waiting for server {server} ...")
        yield Turn(server, job.access, last_step, job.report, Overheard())
        if waiting and pause and not why_end(last_step):
            last_step = Clock(job.stop, pause)  # no figure of --max-active allows a pause
            job.report.say_on_terminal(f"Pausing {pause:g} s before server {waiting[0]} ...")
            last_step.sleep(pause)
    if waiting or job.stop.signal:
        names = ", ".join(server.address for server in waiting) or "none"
        job.report.log_and_complain(f"{why_end(last_step)} Not attempted: {names}")


def try_command(turn: Turn, command: str, judge: Callable[[Answer], Verdict]) -> Verdict:
    """Send one command to one server, once, and return what became of it."""
    try:
        answer = send_command(turn, command)
    except Exception as error:  # one server's trouble of any kind must not stop the others
        return Verdict(False, explain_error(error))  # the command was not sent
    return judge(answer)


def tell_verdict(turn: Turn, verdict: Verdict, done: str, verbose: bool) -> None:
    """Print what became of one server."""
    took = f"{time.monotonic() - turn.clock.began:.1f} s"
    if not verdict.is_success:
        turn.report.complain(f"Server {turn.server} FAILED after {took}: {verdict.explain()}")
        return
    turn.report.say(f"Server {turn.server} {done} in {took}")
    if verbose:
        turn.report.say(f"  answered: {verdict.reason}")


def restart_all(job: Job, last_step: Clock | None = None) -> bool:
    """Restart the servers, log and print each result; return whether all were restarted."""
    restarted = 0
    for turn in take_turns(job.servers, job, last_step, job.options.pause):
        verdict = try_command(turn, RESTART_COMMAND, judge_restart)
        address = turn.server.address
        if verdict.is_success:
            restarted += 1
            job.report.log(f"Webbridge on server: {address} restarted successfully")
        else:  # these, too, are the words of Cisco's script
            begin = f"Failed to restart webbridge on server {address}. Error:"
            job.report.log(begin, verdict.explain())
        tell_verdict(turn, verdict, "restarted", job.options.verbose)
    job.report.say(f"Restarted {restarted} of {plural(len(job.servers), 'server')}.")
    return restarted == len(job.servers)


# ---- Checking ------------------------------------------------------------------------------------

CHECK_COMMAND = "webbridge"  # prints the settings and changes nothing
ENABLED_LINE = re.compile(rb"^[ \t]*Enabled[ \t]*:[ \t]*true\b", re.MULTILINE | re.IGNORECASE)


def judge_check(answer: Answer) -> Verdict:
    """Return whether the answer says that the Web Bridge is enabled."""
    failure = judge_failure(answer)
    if failure:
        return failure._replace(in_doubt=False)  # nothing was restarted
    said = one_line(answer.text)
    if answer.cut:
        return Verdict(False, f"{answer.cut} It had answered: {said}.")
    if ENABLED_LINE.search(answer.text):
        return Verdict(True, said)
    return Verdict(False, f"The server does not say that its Web Bridge is enabled, but: {said}")


def check_all(job: Job) -> bool:
    """Check the servers and print each result; return whether all are ready."""
    ready = 0
    for turn in take_turns(job.servers, job):
        verdict = try_command(turn, CHECK_COMMAND, judge_check)
        ready += verdict.is_success
        tell_verdict(turn, verdict, "OK (Web Bridge enabled)", job.options.verbose)
    job.report.say(f"{ready} of {plural(len(job.servers), 'server')} ready.")
    return ready == len(job.servers)


# ---- Counters in a log ---------------------------------------------------------------------------

# Only --sessions, --if-leaked and --max-active need this part and the next two.

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
RESTART_LOGGED = re.compile(BEFORE_PROCESS + rb"cli" + AFTER_PROCESS + RESTART)
WORDS = (b"Stats", b"STATS", b"issued command")  # each of these lines has one of them


class Bridge(NamedTuple):
    """A process that logs a counter."""

    name: str
    line: re.Pattern[bytes]  # from behind the time
    example: str
    hint: str  # where there is no such line


WEB = Bridge(
    "Web Bridge",
    re.compile(BEFORE_PROCESS + rb"webbridge" + INFO + WEB_STATS),
    '"webbridge": INFO : [DEBUGGING] Stats 149, c:3477, d:3170',
    " Check that this server runs a Web Bridge 2.",
)
CALL = Bridge(  # its CMA are users of the Cisco Meeting App, those with WebRTC among them
    "Call Bridge",
    re.compile(BEFORE_PROCESS + rb"server" + INFO + CALL_STATS),
    'host:server: INFO : STATS: {"callLegsPS": 1, "CMA": "14/17"}',
    " CMS 2.8 and newer log it. If other servers run the Call Bridges, list all of those in "
    "CALLBRIDGES.",
)


class Counter(NamedTuple):
    """The newest counter of one kind in a log."""

    sessions: int
    shown: str
    logged: datetime.datetime
    has_zone: bool  # False: LOG_TIMES_ARE_LOCAL decided it


def with_zone(moment: datetime.datetime, is_local: bool) -> datetime.datetime | None:
    """Return the moment of a time without a zone, which is local, or UTC.

    Of the hour that the end of summer time repeats, it is the first: so no counter seems too young.
    None: this computer has no local time so long ago, or so far ahead.
    """
    if not is_local:
        return moment.replace(tzinfo=datetime.timezone.utc)
    try:
        return moment.astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def parse_time(found: re.Match[bytes], now: datetime.datetime) -> datetime.datetime | None:
    """Return when a line was logged; None for a date that does not exist.

    A time without a year is in the year nearest to now.
    """
    text = found["time"].decode().replace("T", " ") + (found["zone"] or b"").decode()
    candidates, layout = [text], "%Y-%m-%d %H:%M:%S" + ("%z" if found["zone"] else "")
    if text[0].isalpha():
        years = range(now.year - 4, now.year + 5)  # so that one of them has a February 29
        candidates, layout = [f"{y} {text}" for y in years], layout.replace("%Y-%m-%d", "%Y %b %d")
    moments: list[datetime.datetime] = []
    for candidate in candidates:
        with contextlib.suppress(ValueError):
            moment = datetime.datetime.strptime(candidate, layout)
            known = moment if found["zone"] else with_zone(moment, LOG_TIMES_ARE_LOCAL)
            moments += [known] if known else []
    return min(moments, key=lambda moment: abs(moment - now), default=None)


def lines_from_end(text: bytes) -> Iterator[bytes]:
    """Yield the lines of a text, the last one first, without a copy of all of them."""
    end = len(text)
    while end >= 0:
        begin = text.rfind(b"\n", 0, end) + 1
        yield text[begin:end]
        end = begin - 1


def parse_log(text: bytes, wanted: Set[Bridge], now: datetime.datetime) -> dict[Bridge, Counter]:
    """Return the newest readable counter of each wanted kind."""
    counters: dict[Bridge, Counter] = {}
    was_restarted = False  # the Web Bridge, after the lines that are still to come
    for line in lines_from_end(text):
        found = TIMED_LINE.match(line) if any(word in line for word in WORDS) else None
        if not found:
            continue
        is_restart = RESTART_LOGGED.match(line, found.end())
        stats = {each: each.line.match(line, found.end()) for each in wanted - counters.keys()}
        moment = parse_time(found, now) if is_restart or any(stats.values()) else None
        if not moment:
            continue
        was_restarted = was_restarted or bool(is_restart)
        for bridge, counter in stats.items():
            if counter:
                shown = counter[1].decode()
                if was_restarted and bridge == WEB:  # which ended all sessions
                    shown = "0 (restarted since)"
                sessions = int(re.split("[ /]", shown)[0])
                counters[bridge] = Counter(sessions, shown, moment, bool(found["zone"]))
        if len(counters) == len(wanted):
            break
    return counters


# ---- Reading the logs ----------------------------------------------------------------------------


def read_end(file: paramiko.SFTPFile, limit: int) -> bytes:
    """Return whole lines, at most so many bytes, from a log's end; raises Trouble, or as SFTP."""
    size = file.stat().st_size or 0
    end = size or sys.maxsize  # 0 is no empty log: a virtual file does not tell its size
    begin = max(0, size - limit)
    file.seek(begin)
    file.prefetch(size, max_concurrent_requests=32)  # of 32 KiB; some servers take no more at once
    text, length = b"", 0
    while begin + length < end:  # what is logged from now on does not count
        size_wanted = min(1 << 20, end - begin - length)
        piece = file.read(size_wanted)
        text, length = (text + piece)[-limit:], length + len(piece)
        if len(piece) < size_wanted:  # the end, which paramiko tells once
            break
    if begin + length < size:
        raise Trouble("The log became shorter while it was read. Try again.")
    if begin > 0 or length > limit:  # what is left of a line can look like a line of its own
        text = text.partition(b"\n")[2]
    return text


def fetch(turn: Turn, transport: paramiko.Transport, function: Callable[[], T]) -> T:
    """Return what a step of reading the log returns; raises Trouble."""
    doing = "reading the server's log"
    try:
        return turn.clock.call(doing, function)
    except (Trouble, paramiko.SFTPError, *CONNECTION_ERRORS) as error:
        if not is_alive(transport):
            raise Trouble(f"The connection broke off while {doing}.") from None
        if isinstance(error, Trouble):
            raise
        said = sentence(one_line(str(error)))
        hint = f"Check what {turn.access.username} may do."
        raise Trouble(f"The server does not show its log over SFTP: {said} {hint}") from None


def read_log(turn: Turn, wanted: Set[Bridge]) -> dict[Bridge, Counter]:
    """Return the wanted counters that the end of the server's log has; raises Trouble.

    Reads no more than it takes to find them.
    """
    counters: dict[Bridge, Counter] = {}
    with log_in(turn) as transport:
        file = fetch(turn, transport, lambda: transport.open_sftp_client().open("log"))
        for limit in LOG_STEPS:
            text = fetch(turn, transport, functools.partial(read_end, file, limit))
            # A call of its own: to search a strange log can take long.
            search = functools.partial(parse_log, text, wanted, utc_now())
            counters = turn.clock.call("searching the server's log", search)
            if len(counters) == len(wanted):
                break
    return counters


# ---- Leaked sessions -----------------------------------------------------------------------------


class Reading(NamedTuple):
    """What one server contributes to the count."""

    counters: dict[Bridge, Counter]
    ages: dict[Bridge, datetime.timedelta]  # by this computer's clock, when all logs were read
    problem: str = ""  # why it does not count


def is_of_now(bridge: Bridge, age: datetime.timedelta) -> bool:
    """Return whether a counter of this age may decide."""
    max_age = MAX_WEB_BRIDGE_AGE if bridge == WEB else MAX_CALL_BRIDGE_AGE
    return -MAX_AHEAD <= age <= max_age


def explain_age(bridge: Bridge, reading: Reading) -> str:
    """Return when a counter of the wrong age was logged, and what to do."""
    counter, age = reading.counters[bridge], reading.ages[bridge]
    is_old, zone = age > datetime.timedelta(0), f"{counter.logged:UTC%z}"
    fault, when, runs = "of the future", "from now", ""
    if is_old:
        fault, when, runs = "too old", "ago", f"that the {bridge.name} runs, and "
    hint = f" Check {runs}both clocks."
    if not counter.has_zone:
        zone = "taken for this computer's local time" if LOG_TIMES_ARE_LOCAL else "taken for UTC"
        otherwise = with_zone(counter.logged.replace(tzinfo=None), not LOG_TIMES_ARE_LOCAL)
        fits = otherwise and is_of_now(bridge, age + (counter.logged - otherwise))
        # A Call Bridge counter of now, in the same log, shows that the setting is right.
        if fits and not (CALL in reading.ages and is_of_now(CALL, reading.ages[CALL])):
            log = "UTC" if LOG_TIMES_ARE_LOCAL else "this computer's local time"
            setting = f"LOG_TIMES_ARE_LOCAL = {not LOG_TIMES_ARE_LOCAL} in {SCRIPT.name}"
            hint = f"{hint} If that server logs in {log}, set {setting}."
    return (
        f"The newest {bridge.name} counter is {fault}: it was logged {format_span(age)} {when}, at "
        f"{counter.logged:%Y-%m-%d %H:%M:%S} ({zone}).{hint}"
    )


def why_unfit(reading: Reading, wanted: Set[Bridge]) -> str:
    """Return why the counters of a log are not fit to count, and what to do, or ""."""
    for bridge in (WEB, CALL):
        if bridge in wanted and bridge not in reading.counters:
            hint = "" if CALLBRIDGES and bridge == CALL else bridge.hint
            searched = f"the last {LOG_STEPS[-1] >> 20} MiB of the log"
            example = f"such a line has: {bridge.example}"
            return f"No {bridge.name} counter in {searched} ({example}).{hint}"
        if bridge in wanted and not is_of_now(bridge, reading.ages[bridge]):
            return explain_age(bridge, reading)
    return ""


def is_full(reading: Reading) -> bool:
    """Return whether the Web Bridge accepts nobody any more."""
    has_counter = WEB in reading.counters and is_of_now(WEB, reading.ages[WEB])
    return has_counter and reading.counters[WEB].sessions >= HARD_LIMIT


def read_logs(job: Job) -> dict[Server, Reading]:
    """Return what the logs of all servers say, and why a server does not count."""
    found: dict[Server, dict[Bridge, Counter]] = {}
    problems = dict.fromkeys(job.counters, "The run ended before its turn.")
    for turn in take_turns(job.counters, job):
        try:
            found[turn.server] = read_log(turn, job.counters[turn.server])
        except Exception as error:  # one server's trouble of any kind must not stop the others
            problems[turn.server] = explain_error(error)
    now, readings = utc_now(), {}
    for server, wanted in job.counters.items():
        counters = found.get(server, {})
        ages = {bridge: now - counter.logged for bridge, counter in counters.items()}
        reading = Reading(counters, ages)
        problem = why_unfit(reading, wanted) if server in found else problems[server]
        readings[server] = reading._replace(problem=problem)
    return readings


class Figures(NamedTuple):
    """The sums of a deployment."""

    web_bridge: int
    active: int

    @property
    def leaked(self) -> int:
        return max(0, self.web_bridge - self.active)


def sum_up(readings: dict[Server, Reading]) -> Figures:
    """Return the sums of all counters, which must be fit to count."""
    counters = [reading.counters for reading in readings.values()]
    web_bridge, active = (
        sum(each[bridge].sessions for each in counters if bridge in each) for bridge in (WEB, CALL)
    )
    return Figures(web_bridge, active)


def draw_table(readings: dict[Server, Reading]) -> str:
    """Return the table of all counters."""
    table = [["Server", "Web Bridge", "Age", "CMA", "Age", ""]]
    for server, reading in readings.items():
        cells = [str(server)]
        for bridge in (WEB, CALL):
            counter = reading.counters.get(bridge)
            cells += [counter.shown, format_span(reading.ages[bridge])] if counter else ["-", "-"]
        if is_full(reading):
            cells[1] += " FULL"
        table.append([*cells, f"Not counted: {reading.problem}" if reading.problem else ""])
    widths = [max(map(len, column)) for column in zip(*table)]
    return "\n".join("  ".join(map(str.ljust, cells, widths)).rstrip() for cells in table)


def explain_full(readings: dict[Server, Reading], job: Job, restarted: Sequence[Server]) -> str:
    """Return which Web Bridges are full and not restarted, and what to do, or ""."""
    full = [each for each in readings if is_full(readings[each]) and each not in restarted]
    if not full:
        return ""
    names = [f"server {each} {format_span(readings[each].ages[WEB])} ago" for each in full]
    return (
        f"FULL: {', '.join(names)}. At {HARD_LIMIT} sessions a Web Bridge accepts no more, so "
        "nobody else can join there. To restart it now, which ends its WebRTC sessions: "
        f"{job.access.command(*(server.number for server in full))}"
    )


CAUTIONS = """\
Age: how long ago the counter was logged.
The leaked sessions are right only if nobody uses the CMA desktop or iOS client.
In a cluster, only the sum of all servers means something."""


def tell_sessions(job: Job) -> Figures | None:
    """Count, and print what was asked for; return the sums, or None if a figure is missing."""
    readings, report = read_logs(job), job.report
    missing = sum(bool(reading.problem) for reading in readings.values())
    if missing:
        report.complain(draw_table(readings))
        servers = plural(len(readings), "server")
        report.complain(f"Cannot count: {missing} of {servers}, see above.")
        return None
    report.say(draw_table(readings), even_if_quiet=True)
    report.say(CAUTIONS)
    full = explain_full(readings, job, [])
    if full:
        report.say(full, even_if_quiet=True)
    figures = sum_up(readings)
    leaked = plural(figures.leaked, "session")
    details = f"{figures.web_bridge} Web Bridge, {figures.active} active CMA"
    report.say(f"Leaked: {leaked} ({details}).", even_if_quiet=True)
    return figures


def decide(figures: Figures, if_leaked: int | None, max_active: int | None) -> tuple[bool, str]:
    """Return whether to restart, and the figures, with each condition that says no."""
    is_busy = max_active is not None and figures.active > max_active
    is_clean = if_leaked is not None and figures.leaked < if_leaked
    active = plural(figures.active, "active session")
    leaked = plural(figures.leaked, "leaked session")
    if is_busy:
        active += f", more than --max-active {max_active}"
    if is_clean:
        leaked += f", fewer than --if-leaked {if_leaked}"
    return not is_busy and not is_clean, f"{active}; {leaked}."


def rehearse(job: Job) -> bool:
    """Check, count, and say what a run with conditions would do; return whether all went well."""
    if not check_all(job) or job.stop.signal:
        return False
    figures = tell_sessions(job)
    if figures is None:
        job.report.complain("A run now would restart nothing.")
        return False
    is_yes, words = decide(figures, job.options.if_leaked, job.options.max_active)
    what = plural(len(job.servers), "server") if is_yes else "nothing"
    job.report.say(f"A run now would restart {what}: {words}", even_if_quiet=True)
    return True


def restart_if_needed(job: Job) -> bool:
    """Restart the servers if the conditions call for it; return whether all went well."""
    counting = Clock(job.stop, job.seconds * len(job.counters))
    readings = read_logs(job)
    asleep = counting.why_asleep()
    if job.stop.signal or asleep:
        job.report.log_and_complain(f"{asleep} Nothing was restarted.".lstrip())
        return False
    unfit = [f"{each}: {reading.problem}" for each, reading in readings.items() if reading.problem]
    if unfit:
        hint = (
            f"A server that is down can come out of the lists at the top of {SCRIPT.name}. "
            "One whose log is of no use: restart it by its number, without conditions."
        )
        parts = [*unfit, hint, explain_full(readings, job, [])]
        # Bars, because a command can be the end of a part: a full stop would be pasted, too.
        words = " | ".join(part for part in parts if part)
        job.report.log_and_complain(f"Nothing was restarted. Cannot count: {words}")
        return False
    is_yes, words = decide(sum_up(readings), job.options.if_leaked, job.options.max_active)
    words = f"{'Restarting' if is_yes else 'Not restarted'}: {words}"
    full = explain_full(readings, job, job.servers if is_yes else [])
    if full:
        job.report.log_and_complain(f"{words} {full}")
    else:
        job.report.log(words)
        job.report.say(words)
    if not is_yes:
        return not full
    if job.options.max_active is not None:
        logged = (r.counters[CALL].logged for r in readings.values() if CALL in r.counters)
        counting.valid_until = min(logged) + MAX_CALL_BRIDGE_AGE
    return restart_all(job, counting) and not full


# ---- The command line ----------------------------------------------------------------------------


def full_path(text: str) -> Path:
    """Return the path as messages name it; an argparse type."""
    with contextlib.suppress(OSError, RuntimeError):  # no current folder, no such user's home
        return Path(text).expanduser().absolute()
    return Path(text)


def number_of_seconds(text: str) -> float:
    """Return a span of time in seconds, a day at the most; an argparse type."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 86400:
            return float(text)
    raise argparse.ArgumentTypeError("must be from 0 to 86400 seconds")


def number_of_sessions(text: str) -> int:
    """Return a number of sessions; an argparse type."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("must be a whole number of sessions, 0 or more")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser. A new option is one more call of add_argument.

    See also parse_options, for what does not go together, and access_options, for a run by hand.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    work = parser.add_argument_group("what to do")
    work.add_argument(
        "servers",
        nargs="*",
        metavar="SERVER",
        help="number or address of a server in WEBBRIDGES (default: all of them)",
    )
    mode = work.add_mutually_exclusive_group()
    mode.add_argument(
        "--check",
        action="store_true",
        help="log in and ask each Web Bridge for its settings; restart nothing, log nothing. With "
        "--if-leaked or --max-active, also count, and say what a run would do now",
    )
    mode.add_argument(
        "--sessions",
        action="store_true",
        help="count the leaked sessions of all servers; restart nothing, log nothing",
    )
    work.add_argument(
        "--if-leaked",
        type=number_of_sessions,
        metavar="N",
        help="restart only if at least N sessions leaked",
    )
    work.add_argument(
        "--max-active",
        type=number_of_sessions,
        metavar="N",
        help="restart only if at most N sessions are active, as the Call Bridges logged it at most "
        "15 minutes ago; not together with --pause",
    )
    work.add_argument(
        "--pause",
        type=number_of_seconds,
        metavar="SECONDS",
        default=0.0,
        help="wait so long between two servers of a restart, so that one Web Bridge is up again "
        "before the next one goes down (default: 0)",
    )

    access = parser.add_argument_group("access to the servers")
    access.add_argument(
        "--password-file",
        type=full_path,
        metavar="FILE",
        help="a UTF-8 file whose first line is the password",
    )
    access.add_argument(
        "--ask-password",
        action="store_true",
        help="ask for the password on the terminal, whatever else is set. After it come "
        "--password-file, the environment variable MMP_PASSWORD, and MMP_PASSWORD in the script",
    )
    access.add_argument(
        "--known-hosts",
        type=full_path,
        metavar="FILE",
        default=KNOWN_HOSTS_FILE,
        help=f"the stored host keys (default: {KNOWN_HOSTS_FILE.name} beside the script)",
    )
    access.add_argument(
        "--accept-new-host-keys",
        action="store_true",
        help="store and trust the host key of each server that has none stored, and send it the "
        "password; never replace a key. Meant for --check and --sessions: without them, the run "
        "then goes on and restarts",
    )
    access.add_argument(
        "--timeout",
        type=number_of_seconds,
        metavar="SECONDS",
        help="time for each server, in total (default: SECONDS_PER_SERVER in the script)",
    )

    output = parser.add_argument_group("what to say")
    output.add_argument(
        "--log-file",
        type=full_path,
        metavar="FILE",
        default=LOG_FILE,
        help=f"the log to append to (default: {LOG_FILE.name} beside the script)",
    )
    amount = output.add_mutually_exclusive_group()
    amount.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="print only failures, host keys that were stored, and figures that you asked for",
    )
    amount.add_argument(
        "-v", "--verbose", action="store_true", help="also print what each server answered"
    )
    output.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; exits as argparse does if they do not go together."""
    parser = make_parser()
    options = parser.parse_args(argv)
    options.has_conditions = options.if_leaked is not None or options.max_active is not None
    if options.sessions and (options.servers or options.has_conditions):
        parser.error("SERVER, --if-leaked and --max-active are not allowed with --sessions")
    if options.pause and options.max_active is not None:
        parser.error(
            "--pause is not allowed with --max-active: after a pause, the number of active "
            "sessions would be too old to restart the next server"
        )
    return options


# ---- The run -------------------------------------------------------------------------------------


def refuse_unwritable_log(path: Path) -> None:
    """Raises Trouble if the log could not be written; leaves no new file behind."""
    try:
        refuse_unless_file(path, or_device=True)
        if path.exists():
            path.open("ab").close()
        else:  # a log that root created by a trial, the job's account could not write
            path.resolve().open("xb").close()  # so only a file of its own is removed again
            with contextlib.suppress(OSError):
                path.resolve().unlink()
    except FileExistsError:
        pass  # another run has created it just now
    except OSError as error:
        raise Trouble(f"Cannot write to {path}: {explain_file(error)}") from None


def access_options(options: argparse.Namespace) -> list[str]:
    """Return the options with which a run by hand has the access and the log of this run."""
    words: list[str] = []
    if options.password_file and not options.ask_password:
        words += ["--password-file", str(options.password_file)]
    elif options.ask_password or os.environ.get("MMP_PASSWORD"):  # which a shell need not have
        words += ["--ask-password"]
    if options.known_hosts != KNOWN_HOSTS_FILE:
        words += ["--known-hosts", str(options.known_hosts)]
    if options.timeout is not None:
        words += ["--timeout", f"{options.timeout:g}"]
    if options.log_file != LOG_FILE:
        words += ["--log-file", str(options.log_file)]
    return words


def make_access(options: argparse.Namespace) -> Access:
    """Return what a login needs; raises Trouble or OSError."""
    password, source = find_password(options)
    known, may_store = read_known_hosts(options.known_hosts), options.accept_new_host_keys
    again = access_options(options)
    return Access(MMP_USERNAME, password, source, options.known_hosts, known, may_store, again)


def make_job(options: argparse.Namespace, stop: Stop, report: Report) -> Job:
    """Return what is known before the first connection; raises Trouble or OSError."""
    check_this_file()
    if not isinstance(LOG_TIMES_ARE_LOCAL, bool):
        raise Trouble(f"LOG_TIMES_ARE_LOCAL in {SCRIPT.name} must be True or False.")
    web_bridges = read_inventory("WEBBRIDGES", WEBBRIDGES)
    call_bridges = read_inventory("CALLBRIDGES", CALLBRIDGES) if CALLBRIDGES else web_bridges
    # A server that stands in both inventories is read once.
    counters: dict[Server, set[Bridge]] = {}
    for bridge, servers in ((WEB, web_bridges), (CALL, call_bridges)):
        for server in servers:
            counters.setdefault(server, set()).add(bridge)
    chosen = choose_servers(web_bridges, options.servers)
    seconds = SECONDS_PER_SERVER if options.timeout is None else options.timeout
    return Job(chosen, counters, make_access(options), seconds, options, stop, report)


def carry_out(job: Job) -> bool:
    """Do what the options ask for; return whether all went well."""
    if job.options.sessions:
        return tell_sessions(job) is not None
    if job.options.check and job.options.has_conditions:
        return rehearse(job)
    if job.options.check:
        return check_all(job)
    if job.options.has_conditions:
        return restart_if_needed(job)
    return restart_all(job)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the whole job and return the exit status, which the top of this file explains."""
    # paramiko and its threads print tracebacks of errors that are handled here.
    logging.getLogger("paramiko").setLevel(sys.maxsize)
    threading.excepthook = lambda _: None
    options = parse_options(argv)
    stop, report = Stop(), Report(options.quiet)
    try:
        if not options.sessions:
            refuse_unwritable_log(options.log_file)
        if not (options.sessions or options.check):
            report.log_file = options.log_file  # what goes wrong from here on is logged
        job = make_job(options, stop, report)
    except Trouble as trouble:
        report.log_and_complain(str(trouble))
        return 2
    except OSError as error:
        report.log_and_complain(f"Cannot read {error.filename or 'a file'}: {explain_file(error)}")
        return 2
    except KeyboardInterrupt:  # at the question for the password, for example
        return 130
    stop.listen()
    succeeded = carry_out(job)
    if stop.signal:
        return 128 + stop.signal
    return 0 if succeeded and not report.has_lost_lines else 1


if __name__ == "__main__":
    raise SystemExit(main())
