"""The script as a child process, as cron and Task Scheduler run it: in poor surroundings.

Nobody looks at 2 am. Whatever is wrong with the environment, the streams or the log's disk, and
whenever a signal comes: the servers are restarted, and the log and the exit status are right. What
a server can do wrong is not for this file, and what only Windows has is in test_windows.py.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import demo
import webbridge_restart
from conftest import (
    DOUBT,
    STAMP,
    Ran,
    Run,
    address_of,
    failed,
    refused,
    restarted,
    unstamped,
    with_advice,
)
from mmp import MMP, PASSWORD
from steps import answer, end_with_reset, refusing_address, says

COMMAND = "webbridge restart"
PATIENCE = 60.0  # seconds for a child, on a busy computer
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX: signals, limits, links")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /dev/full")

# ---- A copy of the script, and a run of it -------------------------------------------------------


class Installed:
    """A copy of the script in a folder of its own, which knows the servers' host keys."""

    def __init__(self, folder: Path, *servers: MMP | str) -> None:
        self.servers = servers
        self.script = demo.script_for([address_of(each) for each in servers], folder, pause=0.01)
        self.log_file = folder / demo.LOG_NAME
        lines = [f"{server.known_hosts_line}\n" for server in servers if isinstance(server, MMP)]
        (folder / "webbridge_known_hosts").write_text("".join(lines))

    @contextlib.contextmanager
    def started(
        self, *options: str, before: str = "", flags: Sequence[str] = (), **how: Any
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start it with an empty environment, in a process that runs some code before it."""
        command = [sys.executable, *flags, str(how.pop("script", self.script)), *options]
        if before:  # a preexec_fn is unsafe in a process with threads
            code = f"import os, sys\n{before}\nos.execv(sys.argv[1], sys.argv[1:])"
            command = [sys.executable, "-S", "-c", code, *command]
        needed = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
        how["env"] = {**needed, "MMP_PASSWORD": PASSWORD, **how.get("env", {})}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, **{**pipes, **how}) as child:
            try:
                yield child
            finally:
                child.kill()

    def end(self, child: subprocess.Popen[bytes]) -> Ran:
        """Wait for its end. Durations read "N s", and the log is the whole file."""
        out, err = (
            re.sub(r"\b\d+\.\d s\b", "N s", text.decode()).replace("\r\n", "\n")
            for text in child.communicate(timeout=PATIENCE)
        )
        return Ran(child.returncode, out, err, unstamped(self.logged()), 0)

    def logged(self) -> str:
        return self.log_file.read_text("utf-8") if self.log_file.is_file() else ""

    def run(self, *options: str, **how: Any) -> Ran:
        with self.started(*options, **how) as child:
            return self.end(child)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "Program Files (x86)  Brücken · 橋, it's $HOME; %TEMP%"
    folder.mkdir()
    return folder


@pytest.fixture
def mmp() -> Iterator[MMP]:
    with MMP() as server:
        yield server


@pytest.fixture
def usual(folder: Path, mmp: MMP) -> Iterator[Installed]:
    """The script for a server that behaves well, and one that refuses connections."""
    with refusing_address() as refusing:
        yield Installed(folder, mmp, refusing)


def expected(*results: tuple[MMP | str, str], more: int = 0) -> tuple[str, str, list[str]]:
    """Return what is printed and logged of servers, each with why it failed, and of some more."""
    out, err, log = "", "", list[str]()
    for number, (server, reason) in enumerate(results, 1):
        name = f"Server {number} ({address_of(server)})"
        out += "" if reason else f"{name} restarted in N s\n"
        err += f"{name} FAILED after N s: {with_advice(reason)}\n" if reason else ""
        log += failed(server, reason) if reason else [restarted(server)]
    good = [reason for _, reason in results].count("")
    return f"{out}Restarted {good} of {len(results) + more} servers.\n", err, log


def expected_of(usual: Installed) -> tuple[str, str, list[str]]:
    mmp, refusing = usual.servers
    return expected((mmp, ""), (refusing, refused(address_of(refusing))))


def assert_both_told(usual: Installed, ran: Ran, seen: str = "out, err") -> None:
    """The log and the streams that are seen say: one server was restarted, the next refused."""
    out, err, log = expected_of(usual)
    assert (ran.status, ran.log) == (1, log)
    assert (ran.out, ran.err) == (out if "out" in seen else "", err if "err" in seen else "")
    assert (usual.servers[0].commands, usual.servers[0].passwords) == ([COMMAND], [PASSWORD])


# ---- The environment, the current folder, the interpreter ----------------------------------------


def test_environment_flags_and_other_folder(usual: Installed, tmp_path: Path) -> None:
    """Nothing is read from the current folder, not even a module, and nothing is written to it.

    Notepad saved the script, with a byte order mark and Windows' line ends.
    """
    text = usual.script.read_text("utf-8").replace("\n", "\r\n")
    usual.script.write_bytes(codecs.BOM_UTF8 + text.encode())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("paramiko.py", "argparse.py", "webbridge_known_hosts"):
        (elsewhere / name).write_text("this is no Python, and no host key\n")
    before = sorted(elsewhere.rglob("*"))
    flags = ["-OO", "-bb", "-X", "dev", "-W", "error"]
    poor = {"HOME": "/nonexistent", "USER": "", "PATH": "", "TZ": "Asia/Tokyo"}
    assert_both_told(usual, usual.run(flags=flags, env=poor, cwd=elsewhere))
    assert sorted(elsewhere.rglob("*")) == before


@POSIX
def test_symbolic_link_and_deleted_folder(usual: Installed, tmp_path: Path) -> None:
    """Its files stand beside the target: a link in /usr/local/bin must not spread them there."""
    gone, link = tmp_path / "gone", tmp_path / "bin" / "restart-webbridges"
    gone.mkdir()
    link.parent.mkdir()
    link.symlink_to(Path("..", usual.script.parent.name, usual.script.name))
    how: dict[str, Any] = {"script": link, "cwd": gone, "before": "os.rmdir('../gone')"}
    assert_both_told(usual, usual.run(flags=["-I"], **how))
    assert list(link.parent.iterdir()) == [link]
    assert not gone.exists()


def test_no_paramiko(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence says which of a computer's many Pythons lacks it, and which one to use."""
    for module, found in (
        (None, "import of paramiko halted; None in sys.modules"),
        (SimpleNamespace(__version__="3.5.1"), "found paramiko 3.5.1"),
    ):
        monkeypatch.setitem(sys.modules, "paramiko", module)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(webbridge_restart.SCRIPT), run_name="__main__")
        sentence = (
            f"paramiko 4.0 or newer is not installed for {sys.executable} ({found}). "
            "Run this script with the Python of its virtual environment (see README.md).\n"
        )
        assert (ended.value.code, *capsys.readouterr()) == (2, "", sentence)


@POSIX
def test_ascii(folder: Path) -> None:
    """The log is UTF-8 also where the locale is not; the terminal shows what it can."""
    said, complaint = "SUCCESS: Brücke neu gestartet · 再起動", "FAILURE: Brücke gestört · 障害"
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    good, bad = (MMP(restart=answer(f"{text}\n".encode())) for text in (said, complaint))
    with good, bad:
        ran = Installed(folder, good, bad).run("-v", env=ascii_only)
    out, err, log = expected((good, ""), (bad, f"The server answered: {complaint}"))
    out = out.replace("N s\n", f"N s\n  answered: {said}\n")
    shown = [text.encode("ascii", "backslashreplace").decode() for text in (out, err)]
    assert ran[:4] == (1, *shown, log)


# ---- The three streams, and the log --------------------------------------------------------------

NO_READER = "reader, target = os.pipe(); os.close(reader); os.dup2(target, 1); os.dup2(target, 2)"
STREAMS = {  # how they are lost, and which of them can still be seen
    "no stderr": ("os.close(2)", "out"),
    "none": ("os.closerange(0, 3)", ""),
    "no reader": (NO_READER, ""),
}


@POSIX
@pytest.mark.parametrize(("how", "seen"), STREAMS.values(), ids=STREAMS)
def test_streams_that_are_gone(how: str, seen: str, usual: Installed) -> None:
    """What cannot be printed stops no work and spoils no exit status; the log has it all."""
    assert_both_told(usual, usual.run(before=how), seen)


def with_limit(name: str, limit: int) -> str:
    return f"import resource\nresource.setrlimit(resource.{name}, ({limit}, {limit}))\n"


def assert_lost(usual: Installed, ran: Ran, path: object, number: int, *lost: list[str]) -> None:
    """Both servers had their turn, and stderr has these lines, which the log did not take."""
    reason = f"Cannot write to {path}: {os.strerror(number)}. Not logged:"
    told = "".join(f"{line}\n" for lines in lost for line in (reason, *lines))
    assert STAMP.sub("", ran.err) == told + expected_of(usual)[1]
    assert (ran.status, usual.servers[0].commands) == (1, [COMMAND])


@LINUX
def test_full_disk(usual: Installed) -> None:
    """The run goes on. What the log should hold is on stderr, which cron mails."""
    limit = with_limit("RLIMIT_AS", 2**30)  # who reads this device to its end takes all memory
    full_stdout = "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
    ran = usual.run("--log-file", "/dev/full", before=limit + full_stdout)
    success, *failure = expected_of(usual)[2]
    assert_lost(usual, ran, "/dev/full", errno.ENOSPC, [success], failure)
    assert ran.out == ""


@POSIX
def test_log_that_fills_up_within_a_reason(usual: Installed) -> None:
    """The failure and its reason are both on stderr then: neither means anything alone."""
    out, _, log = expected_of(usual)
    start = log[2][:7]
    stamp = len("2001-02-03 04:05:06.000000+00:00 ")
    limit = with_limit("RLIMIT_FSIZE", len("\n".join([*log[:2], start])) + 3 * stamp)
    # With -B, or the caches of modules are cut too.
    ran = usual.run(flags=["-B"], before=limit)
    assert_lost(usual, ran, usual.log_file, errno.EFBIG, log[1:])
    assert (ran.out, ran.log) == (out, [*log[:2], start])


NEIGHBOUR = """\
import os, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for number in range(10**6):
    os.write(log, b"2001-02-03 04:05:06.000000+00:00 Line %d\\n" % number)
    if not number:
        print("It writes.", flush=True)
"""


@POSIX
def test_another_run_on_the_same_log(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is lost, mixed with another, or parted from the label of its failure."""
    monkeypatch.setattr(webbridge_restart, "CONNECT_TRIES", 1)
    shared = tmp_path / "shared"
    with contextlib.ExitStack() as stack:
        closed = [stack.enter_context(refusing_address()) for _ in range(40)]
        command = [sys.executable, "-S", "-c", NEIGHBOUR, str(shared)]
        neighbour = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(neighbour.kill)
        assert neighbour.stdout.readline()
        run(closed, "--log-file", str(shared))
    # A run that looks at the log's end while another's line is half there puts an empty line.
    log = unstamped(re.sub(r"\n\n+", "\n", shared.read_text("utf-8")))
    labels = [place for place, line in enumerate(log) if line.startswith("Failed")]
    assert [log[place : place + 2] for place in labels] == [failed(a, refused(a)) for a in closed]
    others = len(log) - 2 * len(closed)
    assert [line for line in log if "Line" in line] == [f"Line {n}" for n in range(others)]


# ---- paramiko's threads --------------------------------------------------------------------------


def test_server_that_talks_nonsense(folder: Path, mmp: MMP) -> None:
    """One line on stderr, not the tracebacks that paramiko's threads print by themselves."""
    with MMP(raw=says(b"SSH-2.0-x\r\n" + b"\xff" * 4096, end_with_reset)) as broken:
        ran = Installed(folder, broken, mmp).run()
        assert broken.connections == webbridge_restart.CONNECT_TRIES
    assert ran[:4] == (1, *expected((broken, ran.log[1]), (mmp, "")))


# ---- Signals -------------------------------------------------------------------------------------

IGNORE = "from signal import *; signal(SIGHUP, SIG_IGN); signal(SIGINT, SIG_IGN)"


@POSIX
@pytest.mark.parametrize(
    ("before", "sent", "heeded"),
    [
        ("", "SIGHUP", "SIGHUP"),
        (IGNORE, "SIGHUP SIGINT SIGTERM", "SIGTERM"),  # as under nohup, and after & in a script
        # Two of a kind could become one. While the run is stopped, both of these wait for it.
        ("", "SIGSTOP SIGTERM SIGINT SIGCONT", "SIGTERM or SIGINT"),
    ],
    ids=["one", "ignored ones", "two at once"],
)
def test_signals(before: str, sent: str, heeded: str, folder: Path, mmp: MMP) -> None:
    """The run ends at once, and the log says of every server what is known.

    What was ignored at the start stays ignored. A second signal does not end the run before it has
    logged; timeout sends SIGTERM twice.
    """
    came = threading.Event()
    with MMP(restart=[lambda _: came.set()]) as silent, MMP() as never:
        installed = Installed(folder, mmp, silent, never)
        with installed.started(before=before) as child:
            assert came.wait(PATIENCE)
            for name in sent.split():
                child.send_signal(signal.Signals[name])
            ran = installed.end(child)
        assert (silent.commands, never.connections) == ([COMMAND], 0)
    first = signal.Signals(ran.status - 128).name
    assert first in heeded
    reason = f"Cut off by {first} while waiting for the answer. {DOUBT}"
    out, err, log = expected((mmp, ""), (silent, reason), more=1)
    ended = f"Ended by {first}. Not attempted: {never.address}"
    assert ran[1:4] == (out, f"{err}{ended}\n", [*log, ended])


@POSIX
def test_full_pipe(folder: Path, mmp: MMP) -> None:
    """The run waits for a reader of what it prints. A second signal ends it all the same."""
    reader, target = os.pipe()
    os.set_blocking(target, False)
    os.write(target, bytes(2**22))  # as much of it as fits
    os.set_blocking(target, True)
    signals = 0
    gives_up_at = time.monotonic() + PATIENCE
    with MMP() as never:
        installed = Installed(folder, mmp, never)
        with installed.started(stdout=target) as child:
            while child.poll() is None and time.monotonic() < gives_up_at:
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
