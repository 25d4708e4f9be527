"""The script as a child process, as cron and Task Scheduler run it: in poor surroundings.

Nobody looks at 2 am. Whatever is wrong with the environment, the streams or the log's disk, and
whenever a signal comes: the servers are restarted, and the log and the exit status are right. What
a server can do wrong is not for this file, and what only Windows has is in test_windows.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import demo
import webbridge_restart
from conftest import (
    DOUBT,
    RIGHTS,
    STAMP,
    Ran,
    address_of,
    failed,
    refused,
    restarted,
    unstamped,
    with_advice,
)
from mmp import MMP, PASSWORD
from steps import Raw, answer, end_with_reset, ends, hold, in_turn, refusing_address, says

COMMAND = "webbridge restart"
BARE = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}  # for Windows
PATIENCE = 60.0  # seconds for a child, on a busy computer
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX: signals, limits, shells, links")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /dev/full")

# ---- A copy of the script, and a run of it -------------------------------------------------------


class Installed:
    """A copy of the script in a folder of its own, which knows the servers' host keys."""

    def __init__(self, folder: Path, servers: Sequence[MMP | str], pause: float) -> None:
        self.servers = servers
        self.script = demo.script_for([address_of(server) for server in servers], folder, pause)
        self.log_file = folder / demo.LOG_NAME
        self.password_file = folder / "password"
        self.password_file.write_text(f"{PASSWORD}\n")
        self.password_file.chmod(0o600)
        lines = [f"{mmp.known_hosts_line}\n" for mmp in servers if isinstance(mmp, MMP)]
        (folder / "webbridge_known_hosts").write_text("".join(lines))
        self.children: list[subprocess.Popen[bytes]] = []

    def start(
        self, *options: str, launcher: Sequence[str] = (), flags: Sequence[str] = (), **how: Any
    ) -> subprocess.Popen[bytes]:
        """Start it with an empty environment. A launcher becomes the script in the end."""
        command = [*launcher, sys.executable, *flags, str(how.pop("script", self.script))]
        command += ["--password-file", str(self.password_file), *options]
        how["env"] = {**BARE, **how.get("env", {})}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.children.append(subprocess.Popen(command, **{**pipes, **how}))
        return self.children[-1]

    def end(self, child: subprocess.Popen[bytes], encoding: str = "utf-8") -> Ran:
        """Wait for its end. Durations read "N s", and the log is the whole file."""
        out, err = (
            re.sub(r"\b\d+\.\d s\b", "N s", text.decode(encoding)).replace("\r\n", "\n")
            for text in child.communicate(timeout=PATIENCE)
        )
        assert "Traceback" not in err
        return Ran(child.returncode, out, err, unstamped(self.logged()), 0)

    def logged(self) -> str:
        return self.log_file.read_text("utf-8") if self.log_file.is_file() else ""

    def run(self, *options: str, encoding: str = "utf-8", **how: Any) -> Ran:
        return self.end(self.start(*options, **how), encoding)


Install = Callable[..., Installed]


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Install the script for these servers. No child is left behind."""
    (tmp_path / "installed").mkdir()
    made: list[Installed] = []

    def copy(*servers: MMP | str, pause: float = 0.01) -> Installed:
        made.append(Installed(tmp_path / "installed", servers, pause))
        return made[-1]

    yield copy
    for child in made[0].children:
        with child:
            child.kill()


@pytest.fixture
def mmp() -> Iterator[MMP]:
    with MMP() as server:
        yield server


@pytest.fixture
def usual(install: Install, mmp: MMP) -> Iterator[Installed]:
    """The script for a server that behaves well, and one that refuses connections."""
    with refusing_address() as refusing:
        yield install(mmp, refusing)


# ---- What a run is expected to say ---------------------------------------------------------------


def good(number: int, server: MMP) -> str:
    """Return what stdout says of a success."""
    return f"Server {number} ({server.address}) restarted in N s\n"


def bad(number: int, server: MMP | str, reason: str) -> str:
    """Return what stderr says of a failure."""
    return f"Server {number} ({address_of(server)}) FAILED after N s: {with_advice(reason)}\n"


def total(restarted: int, servers: int) -> str:
    """Return the last line of stdout."""
    return f"Restarted {restarted} of {servers} {'server' if servers == 1 else 'servers'}.\n"


def log_of(usual: Installed) -> list[str]:
    first, second = usual.servers
    return [restarted(first), *failed(second, refused(address_of(second)))]


def assert_both_told(usual: Installed, ran: Ran, seen: str = "out, err") -> None:
    """The log and the streams that are seen say: one server was restarted, the next refused."""
    first, second = usual.servers
    assert (ran.status, ran.log) == (1, log_of(usual))
    assert ran.out == (good(1, first) + total(1, 2) if "out" in seen else "")
    assert ran.err == (bad(2, second, refused(address_of(second))) if "err" in seen else "")
    assert (first.commands, first.passwords) == ([COMMAND], [PASSWORD])


# ---- Launchers -----------------------------------------------------------------------------------


def in_shell(before: str = "", redirections: str = "") -> Sequence[str]:
    return "/bin/sh", "-c", f'{before} exec "$@" {redirections}', "sh"


def after(code: str) -> Sequence[str]:
    """Return what runs the code first: a preexec_fn is unsafe in a process with threads."""
    return sys.executable, "-c", f"import os, sys\n{code}\nos.execv(sys.argv[1], sys.argv[1:])"


def with_limit(name: str, limit: int) -> Sequence[str]:
    """Return what sets a resource limit first."""
    return after(f"import resource\nresource.setrlimit(resource.{name}, ({limit}, {limit}))")


# What makes it hear signals, also where these tests run under nohup or with &.
HEARING = after(
    "from signal import *\nfor each in SIGINT, SIGTERM, SIGHUP:\n    signal(each, SIG_DFL)"
)

# ---- The environment, the current folder, the interpreter ----------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        {"env": {}},
        {"env": {"HOME": "/nonexistent", "USER": "", "PATH": "", "TZ": "Asia/Tokyo"}},
        *({"flags": flags.split()} for flags in ("-O", "-OO", "-W error", "-bb -I", "-X dev")),
    ],
    ids=str,
)
def test_environment_and_flags(how: dict[str, Any], usual: Installed) -> None:
    assert_both_told(usual, usual.run(**how))


def test_other_folder(usual: Installed, tmp_path: Path) -> None:
    """Nothing is read from the current folder, not even a module, and nothing is written to it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("paramiko.py", "argparse.py", "webbridge_known_hosts"):
        (elsewhere / name).write_text("this is no Python, and no host key\n")
    before = sorted(elsewhere.rglob("*"))
    assert_both_told(usual, usual.run(cwd=elsewhere))
    assert sorted(elsewhere.rglob("*")) == before


@POSIX
def test_deleted_folder(usual: Installed, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    assert_both_told(usual, usual.run(launcher=in_shell("rmdir ../gone &&"), cwd=gone))
    assert not gone.exists()


@POSIX
def test_symbolic_link(usual: Installed, tmp_path: Path) -> None:
    """Its files stand beside the target: a link in /usr/local/bin must not spread them there."""
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin" / "restart-webbridges"
    link.symlink_to(Path("..", "installed", usual.script.name))
    assert_both_told(usual, usual.run(script=link, cwd=link.parent))
    assert list(link.parent.iterdir()) == [link]


@pytest.mark.parametrize(
    ("module", "found"),
    [
        ("raise ImportError(\"No module named 'paramiko'\")", "No module named 'paramiko'"),
        ("__version__ = '3.5.1'", "found paramiko 3.5.1"),
    ],
)
def test_no_paramiko(module: str, found: str, install: Install, tmp_path: Path) -> None:
    """One sentence says which of a computer's many Pythons lacks it, and which one to use."""
    (tmp_path / "paramiko.py").write_text(module)
    ran = install("127.0.0.1").run(env={"PYTHONPATH": str(tmp_path)})
    assert ran.err == (
        f"paramiko 4.0 or newer is not installed for {sys.executable} ({found}). "
        "Run this script with the Python of its virtual environment (see README.md).\n"
    )
    assert (ran.status, ran.out, ran.log) == (2, "", [])


@POSIX
@pytest.mark.parametrize(
    ("env", "encoding"),
    [
        ({"LANG": "C"}, "utf-8"),  # which Python takes for UTF-8
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii"),
        ({"PYTHONIOENCODING": "latin-1:strict"}, "latin-1"),
    ],
)
def test_encodings(env: dict[str, str], encoding: str, install: Install) -> None:
    """The log is UTF-8 wherever it is written; the terminal shows what it can."""
    said, complaint = "SUCCESS: Brücke neu gestartet · 再起動", "FAILURE: Brücke gestört · 障害"
    reason = f"The server answered: {complaint}"
    answers = [answer(f"{text}\n".encode()) for text in (said, complaint)]
    with MMP(restart=answers[0]) as first, MMP(restart=answers[1]) as second:
        ran = install(first, second).run("-v", env=env, encoding=encoding)
    assert (ran.status, ran.log) == (1, [restarted(first), *failed(second, reason)])
    out, err = good(1, first) + f"  answered: {said}\n" + total(1, 2), bad(2, second, reason)
    shown = [text.encode(encoding, "backslashreplace").decode(encoding) for text in (out, err)]
    assert [ran.out, ran.err] == shown


# ---- The three streams ---------------------------------------------------------------------------

WITHOUT_STREAMS = (
    "import sys; sys.stdin = sys.stdout = sys.stderr = None; del sys.argv[0]; "
    "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
)
NO_READER = "reader, target = os.pipe()\nos.close(reader)\nos.dup2(target, 1)\nos.dup2(target, 2)"
STREAMS = [  # what is wrong with them, and which of them can still be seen
    pytest.param({"launcher": in_shell("", "<&- >&-")}, "err", id="no stdout", marks=POSIX),
    pytest.param({"launcher": in_shell("", "2>&-")}, "out", id="no stderr", marks=POSIX),
    pytest.param({"launcher": in_shell("", "<&- >&- 2>&-")}, "", id="none", marks=POSIX),
    pytest.param({"launcher": in_shell("", ">/dev/full")}, "err", id="full stdout", marks=LINUX),
    pytest.param({"launcher": in_shell("", "2>/dev/full")}, "out", id="full stderr", marks=LINUX),
    pytest.param({"launcher": after(NO_READER)}, "", id="without reader", marks=POSIX),
    pytest.param({"flags": ["-c", WITHOUT_STREAMS]}, "", id="as under pythonw"),
]


@pytest.mark.parametrize(("how", "seen"), STREAMS)
def test_streams_that_are_gone(how: dict[str, Any], seen: str, usual: Installed, mmp: MMP) -> None:
    """What cannot be printed stops no work and spoils no exit status; the log has it all.

    First nothing can be attempted, then all goes well, then a server fails.
    """
    message = f"No server 9. WEBBRIDGES has 1 ({mmp.address}), 2 ({usual.servers[1]})."
    told = good(1, mmp) + total(1, 1)
    for server, status, logged, out, err in (
        ("9", 2, message, "", f"{message}\n"),
        ("1", 0, restarted(mmp), told, ""),
    ):
        ran = usual.run(server, **how)
        assert (ran.status, ran.log) == (status, [logged])
        assert [ran.out, ran.err] == [out if seen == "out" else "", err if seen == "err" else ""]
        usual.log_file.unlink()
    mmp.commands.clear()
    mmp.passwords.clear()
    assert_both_told(usual, usual.run(**how), seen)


# ---- The log -------------------------------------------------------------------------------------


def lost_lines(ran: Ran) -> list[str]:
    """Return the stamped lines of stderr, without their stamps: what the log did not take."""
    return [STAMP.sub("", line) for line in ran.err.splitlines() if STAMP.match(line)]


def cannot_write(log_file: Path | str, number: int) -> str:
    hint = f" {RIGHTS}." if number == errno.EACCES else ""
    return f"Cannot write to {log_file}: {os.strerror(number)}.{hint}"


def test_log_that_cannot_be_opened(install: Install, mmp: MMP) -> None:
    """Said before the first connection: no restart goes unrecorded through a lasting mistake."""
    installed = install(mmp)
    installed.log_file.mkdir()
    ran = installed.run()
    number = errno.EISDIR if os.name == "posix" else errno.EACCES
    assert ran.err == cannot_write(installed.log_file, number) + "\n"
    assert (ran.status, ran.out, mmp.connections) == (2, "", 0)


@LINUX
def test_full_device(usual: Installed, mmp: MMP) -> None:
    """The run goes on. What the log should hold is on stderr, which cron mails."""
    limit = with_limit("RLIMIT_AS", 2**30)  # who reads this device to its end takes all memory
    ran = usual.run("--log-file", "/dev/full", launcher=limit)
    assert (ran.status, ran.out, mmp.commands) == (1, good(1, mmp) + total(1, 2), [COMMAND])
    assert lost_lines(ran) == log_of(usual)
    assert ran.err.count(cannot_write("/dev/full", errno.ENOSPC) + " Not logged:\n") == 2
    assert bad(2, usual.servers[1], log_of(usual)[2]) in ran.err
    ran = usual.run("1", "--log-file", "/dev/full", launcher=limit, flags=["-c", WITHOUT_STREAMS])
    assert (ran.status, ran.out, ran.err) == (1, "", "")  # only the status is left to say it


def lines_of(*messages: str) -> bytes:
    """Return lines as the log has them."""
    stamp = "2001-02-03 04:05:06.000000+00:00"
    return "".join(f"{stamp} {each}{os.linesep}" for each in messages).encode()


@POSIX
@pytest.mark.parametrize("whole_lines", [0, 1, 2])
def test_log_that_fills_up(whole_lines: int, usual: Installed, mmp: MMP) -> None:
    """The work goes on, stderr has what is lost, and the exit status is 1.

    A failure and its reason are both on stderr then: neither means anything alone.
    """
    messages = log_of(usual)
    size = len(lines_of(*messages[:whole_lines])) + 40  # in the middle of the next one
    # With -B, or the caches of modules are cut too.
    child = usual.start(flags=["-B"], launcher=with_limit("RLIMIT_FSIZE", size))
    child.wait(PATIENCE)
    whole, line_end, torn = usual.log_file.read_bytes().rpartition(b"\n")
    assert len(whole + line_end + torn) == size
    usual.log_file.write_bytes(whole + line_end)
    ran = usual.end(child)
    assert (ran.status, ran.log, mmp.commands) == (1, messages[:whole_lines], [COMMAND])
    assert lost_lines(ran) == messages[min(whole_lines, 1) :]
    assert torn.decode() in ran.err
    assert cannot_write(usual.log_file, errno.EFBIG) + " Not logged:\n" in ran.err
    assert bad(2, usual.servers[1], messages[2]) in ran.err
    assert ran.out == good(1, mmp) + total(1, 2)


def test_last_line_without_a_line_end(usual: Installed) -> None:
    """Somebody edited the log, or the disk was full."""
    usual.log_file.write_bytes(lines_of("Somebody was here").rstrip())
    ran = usual.run()
    assert ran.log.pop(0) == "Somebody was here"
    assert_both_told(usual, ran)


NEIGHBOUR = """\
import os, sys, time
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while True:
    os.write(log, b"2001-02-03 04:05:06.000000+00:00 Somebody else's line\\n")
    time.sleep(0.0001)
"""


@POSIX
def test_eight_runs_at_once_on_one_log(install: Install, mmp: MMP) -> None:
    """No line is lost, mixed with another, or parted from the label of its failure.

    The runs fail at their servers as fast as they can, from the same moment on. As they meet only
    by chance, a neighbour writes to the log all the time.
    """
    runs = 8
    all_here = threading.Barrier(runs)
    with contextlib.ExitStack() as stack:
        gate = stack.enter_context(MMP(restart=(hold(lambda: all_here.wait(PATIENCE)), *answer())))
        closed = [stack.enter_context(refusing_address()) for _ in range(20)]
        installed = install(gate, *closed, mmp, pause=0)
        children = [installed.start() for _ in range(runs)]
        command = [sys.executable, "-S", "-c", NEIGHBOUR, str(installed.log_file)]
        stack.callback(stack.enter_context(subprocess.Popen(command)).kill)
        for child in children:
            child.wait(PATIENCE)
        assert gate.commands == mmp.commands == [COMMAND] * runs
    # A run that looks at the log's end while another's line is half there puts an empty line.
    log = unstamped(re.sub(r"\n\n+", "\n", installed.logged()))
    assert log.count(restarted(gate)) == log.count(restarted(mmp)) == runs
    assert sum("Somebody else" not in line for line in log) == runs * (2 * len(closed) + 2)
    labels = [place for place, line in enumerate(log) if line.startswith("Failed")]
    pairs = Counter((log[place], log[place + 1]) for place in labels)
    assert pairs == {tuple(failed(address, refused(address))): runs for address in closed}


# ---- paramiko's threads --------------------------------------------------------------------------


@pytest.mark.parametrize("end", [ends, end_with_reset], ids=["ends", "resets"])
def test_server_that_talks_nonsense(end: Raw, install: Install, mmp: MMP) -> None:
    """One line on stderr, not the tracebacks that paramiko's threads print by themselves."""
    with MMP(raw=says(b"SSH-2.0-x\r\n" + b"\xff" * 4096, end)) as broken:
        ran = install(broken, mmp).run()
        assert broken.connections == webbridge_restart.CONNECT_TRIES
    assert (ran.status, ran.log) == (1, [*failed(broken, ran.log[1]), restarted(mmp)])
    assert ran.err == bad(1, broken, ran.log[1])
    assert ran.out == good(2, mmp) + total(1, 2)


# ---- Signals -------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[MMP]:
    """A server that never answers."""
    with MMP(restart=in_turn()) as server:
        yield server


def cut_off(silent: MMP, name: str) -> list[str]:
    """Return what the log says of a run that a signal ended while it waited for this server."""
    return failed(silent, f"Cut off by {name} while waiting for the answer. {DOUBT}")


@POSIX
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signal(name: str, status: int, install: Install, mmp: MMP, silent: MMP) -> None:
    """The run ends at once, and the log says of every server what is known."""
    with MMP() as never, refusing_address() as refusing:
        installed = install(mmp, silent, never, refusing)
        child = installed.start(launcher=HEARING)
        silent.wait_for_commands()
        child.send_signal(signal.Signals[name])
        ran = installed.end(child)
        assert (silent.commands, never.connections) == ([COMMAND], 0)
    ended = f"Ended by {name}. Not attempted: {never.address}, {refusing}"
    assert ran.log == [restarted(mmp), *cut_off(silent, name), ended]
    assert ran.status == status
    assert ran.out == good(1, mmp) + total(1, 4)
    assert ran.err == bad(2, silent, cut_off(silent, name)[1]) + f"{ended}\n"


@POSIX
@pytest.mark.parametrize(
    ("ignored", "launcher"),
    [("SIGHUP", ["nohup"]), ("SIGINT", in_shell('trap "" INT;'))],  # as after & in a script
)
def test_ignored_signal(ignored: str, launcher: Any, install: Install, silent: MMP) -> None:
    """What was ignored at the start stays ignored."""
    installed = install(silent)
    child = installed.start(launcher=launcher)
    silent.wait_for_commands()
    child.send_signal(signal.Signals[ignored])
    child.send_signal(signal.SIGTERM)
    ran = installed.end(child)
    ended = "Ended by SIGTERM. Not attempted: none"
    assert (ran.status, ran.log) == (143, [*cut_off(silent, "SIGTERM"), ended])


@POSIX
def test_two_signals_at_once(install: Install, silent: MMP) -> None:
    """The second one does not end the run before it has logged; timeout sends SIGTERM twice."""
    installed = install(silent)
    child = installed.start(launcher=HEARING)
    silent.wait_for_commands()
    # Two of a kind could become one. While the run is stopped, both of these wait for it.
    for each in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        child.send_signal(each)
    ran = installed.end(child)
    first = {130: "SIGINT", 143: "SIGTERM"}[ran.status]
    assert ran.log == [*cut_off(silent, first), f"Ended by {first}. Not attempted: none"]


@POSIX
def test_full_pipe(install: Install, mmp: MMP) -> None:
    """The run waits for a reader of what it prints. A second signal ends it all the same."""
    reader, target = os.pipe()
    os.set_blocking(target, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(target, b".")
    os.set_blocking(target, True)
    with MMP() as never:
        installed = install(mmp, never)
        child = installed.start(launcher=HEARING, stdout=target)
        gives_up_at = time.monotonic() + PATIENCE
        signals = 0
        while child.poll() is None:
            assert time.monotonic() < gives_up_at
            if installed.logged():  # which is written before anything is printed
                child.send_signal(signal.SIGTERM)  # more than twice, if it is slow to arrive
                signals += 1
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(1.2)
        assert never.connections == 0
    os.close(target)
    os.close(reader)
    assert signals >= 2
    assert child.returncode == -signal.SIGTERM
    assert unstamped(installed.logged()) == [restarted(mmp)]
