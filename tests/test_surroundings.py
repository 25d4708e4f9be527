"""The script as a child process, as cron and Task Scheduler run it: in poor surroundings.

Nobody looks at 2 am. Whatever is wrong with the environment, the streams or the log's disk, and
whenever a signal comes: the servers are restarted, and the log and the exit status are right. What
a server can do wrong is not for this file. What only Windows has is imitated where that can be.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import demo
import webbridge_restart
from conftest import DOUBT, STAMP, Ran, failed, restarted, unstamped
from mmp import MMP, PASSWORD
from remote import Remote
from steps import answer, end_with_reset, says

SAID, COMPLAINT = "SUCCESS: Brücke neu gestartet · 再起動", "FAILURE: Brücke gestört · 障害"
COMMAND = "webbridge restart"
Child = subprocess.Popen[bytes]
PATIENCE = 120.0  # seconds for a child, on a busy computer
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX: signals, limits, links")
PYTHONW = Path(sys.executable).with_name("pythonw.exe")
WITH_PYTHONW = pytest.mark.skipif(not PYTHONW.exists(), reason="only Windows has pythonw.exe")

# ---- A copy of the script, and a run of it -------------------------------------------------------


class Installed:
    """A copy of the script in a folder with an odd name, which knows the servers' host keys."""

    def __init__(self, parent: Path, *servers: MMP) -> None:
        folder = parent / "Program Files (x86)  Brücken · 橋, it's $HOME; %TEMP%"
        folder.mkdir()
        self.servers, self.python = servers, sys.executable
        self.script = demo.script_for([server.address for server in servers], folder)
        self.log_file = folder / demo.LOG_NAME
        lines = [f"{server.known_hosts_line}\n" for server in servers]
        (folder / "webbridge_known_hosts").write_text("".join(lines))

    @contextlib.contextmanager
    def started(self, flags: Sequence[str] = (), before: str = "", **how: Any) -> Iterator[Child]:
        """Start it with an empty environment, in a process that runs some code before it."""
        command = [self.python, *flags, str(self.script), "--verbose"]
        if before:  # a preexec_fn is unsafe in a process with threads
            code = f"import os, sys\n{before}\nos.execv(sys.argv[1], sys.argv[1:])"
            command = [self.python, "-S", "-c", code, *command]
        needed = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
        how["env"] = {**needed, "MMP_PASSWORD": PASSWORD, **how.get("env", {})}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, **{**pipes, **how}) as child:
            try:
                yield child
            finally:
                child.kill()

    def end(self, child: Child) -> Ran:
        """Wait for its end; the log is the whole file."""
        printed = child.communicate(timeout=PATIENCE)
        out, err = ((text or b"").decode().replace("\r\n", "\n") for text in printed)
        return Ran(child.returncode, out, err, unstamped(self.logged()), 0)

    def logged(self) -> str:
        return self.log_file.read_text("utf-8") if self.log_file.is_file() else ""

    def run(self, *flags: str, **how: Any) -> Ran:
        with self.started(flags, **how) as child:
            return self.end(child)


@pytest.fixture
def usual(tmp_path: Path) -> Iterator[Installed]:
    """The script for a server that restarts its Web Bridge, and one that does not."""
    good, bad = (MMP(restart=answer(f"{text}\n".encode())) for text in (SAID, COMPLAINT))
    with good, bad:
        yield Installed(tmp_path, good, bad)


def usual_log(usual: Installed) -> list[str]:
    good, bad = usual.servers
    return [restarted(good), *failed(bad, f"The server answered: {COMPLAINT}")]


def assert_told(usual: Installed, ran: Ran, seen: str = "out, err") -> None:
    """Each server had its turn, and the log and the streams that are seen tell of it."""
    assert (ran.status, ran.log) == (1, usual_log(usual))
    assert ran.out.count("\n") == (3 if "out" in seen else 0)
    assert ran.err.count("\n") == (1 if "err" in seen else 0)
    assert [server.commands for server in usual.servers] == [[COMMAND], [COMMAND]]


def as_shown(text: str, encoding: str) -> str:
    """Return the text as a terminal of this encoding shows it: other letters as numbers."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


# ---- The environment, the current folder, the interpreter ----------------------------------------


def test_environment_flags_and_other_folder(usual: Installed, tmp_path: Path) -> None:
    """Nothing is read from the current folder, not even a module, and nothing is written to it.

    Notepad saved the script, with a byte order mark and Windows' line ends. The terminal has only
    ASCII, and the log is UTF-8 all the same.
    """
    text = usual.script.read_text("utf-8").replace("\n", "\r\n")
    usual.script.write_bytes(codecs.BOM_UTF8 + text.encode())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("paramiko.py", "argparse.py", "webbridge_known_hosts"):
        (elsewhere / name).write_text("this is no Python, and no host key\n")
    before = sorted(elsewhere.rglob("*"))
    flags = ["-OO", "-bb", "-X", "dev", "-W", "error"]
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    poor = {"HOME": "/nonexistent", "USER": "", "PATH": "", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    ran = usual.run(*flags, env={**poor, **ascii_only}, cwd=elsewhere)
    assert_told(usual, ran)
    assert ran.out.splitlines()[1] == as_shown(f"  answered: {SAID}", "ascii")
    assert ran.err.endswith(as_shown(f" s: The server answered: {COMPLAINT}\n", "ascii"))
    assert sorted(elsewhere.rglob("*")) == before


@POSIX
def test_symbolic_link_and_deleted_folder(usual: Installed, tmp_path: Path) -> None:
    """Its files stand beside the target: a link in /usr/local/bin must not spread them there."""
    gone, link = tmp_path / "gone", tmp_path / "bin" / "restart-webbridges"
    gone.mkdir()
    link.parent.mkdir()
    link.symlink_to(Path("..", usual.script.parent.name, usual.script.name))
    usual.script = link
    assert_told(usual, usual.run("-I", cwd=gone, before="os.rmdir('../gone')"))
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


# ---- The three streams, and the log --------------------------------------------------------------

FULL = "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
NO_READER = "reader, target = os.pipe(); os.close(reader); os.dup2(target, 1); os.dup2(target, 2)"
STREAMS = {  # how they are lost, and which of them can still be seen
    "no stderr": ("os.close(2)", "out"),
    "none": ("os.closerange(0, 3)", ""),
    "no reader": (NO_READER, ""),
}
if sys.platform == "linux":
    STREAMS["full stdout"] = (FULL, "err")


@POSIX
@pytest.mark.parametrize(("how", "seen"), STREAMS.values(), ids=STREAMS)
def test_streams_that_are_gone(how: str, seen: str, usual: Installed) -> None:
    """What cannot be printed stops no work and spoils no exit status; the log has it all."""
    assert_told(usual, usual.run(before=how), seen)


@WITH_PYTHONW
def test_pythonw_which_has_no_streams(usual: Installed) -> None:
    handles = subprocess.STARTUPINFO(dwFlags=subprocess.STARTF_USESTDHANDLES)  # none of them
    none: dict[str, Any] = {"startupinfo": handles, "stdin": None, "stdout": None, "stderr": None}
    usual.python = str(PYTHONW)
    code = "import sys; sys.exit(any([sys.stdin, sys.stdout, sys.stderr]))"
    assert usual.run("-c", code, **none).status == 0  # otherwise this would prove nothing
    assert_told(usual, usual.run(**none), seen="")


def test_console_whose_code_page_lacks_a_letter_of_the_answer(
    remote: Remote, log_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The console shows the letter's number; the log has the letter, and Windows' line ends.

    Each line ends once, also where one write holds two lines.
    """
    console = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(console, "cp932", "strict"))
    monkeypatch.setattr(os, "linesep", "\r\n")
    mmp = remote.at("10.48.79.194", answer=[COMPLAINT.encode(), 0, "end"])
    remote.run()
    reason = f"The server answered: {COMPLAINT}"
    lines = [STAMP.sub("", line) for line in log_file.read_bytes().decode().split("\r\n")]
    assert lines == [*failed(mmp, reason), ""]
    printed = console.getvalue().decode("cp932").rstrip("\r\n")
    assert printed.endswith(f" s: {as_shown(reason, 'cp932')}")


@POSIX
def test_log_that_fills_up_within_a_reason(usual: Installed) -> None:
    """The failure and its reason are both on stderr then: neither means anything alone."""
    log = usual_log(usual)
    logged = [*log[:2], log[2][:7]]
    stamps = 3 * len("2001-02-03 04:05:06.000000+00:00 ")
    limit = len("\n".join(logged)) + stamps
    before = f"from resource import *; setrlimit(RLIMIT_FSIZE, ({limit}, {limit}))"
    ran = usual.run("-B", before=before)  # or the caches of modules are cut too
    reason = f"Cannot write to {usual.log_file}: {os.strerror(errno.EFBIG)}. Not logged:"
    told = [STAMP.sub("", line) for line in ran.err.splitlines()]
    assert told[:-1] == [reason, *log[1:]]
    assert told[-1].startswith("Server 2 ")
    assert (ran.status, ran.log) == (1, logged)


def test_another_run_on_the_same_log(
    remote: Remote, log_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is lost, or parted from the label of its failure."""
    real_open = Path.open

    class Shared(io.FileIO):
        def write(self, data: Any) -> int:
            with real_open(log_file, "ab") as file:  # as the other run does at this moment
                file.write(b"2001-02-03 04:05:06.000000+00:00 Another\n")
            return super().write(data)

    def open_shared(path: Path, mode: str = "r", *others: Any, **named: Any) -> Any:
        return real_open(path, mode, *others, **named) if mode == "rb" else Shared(path, mode)

    bad = remote.at("10.48.79.194", answer=[b"FAILURE: b\n", 0, "end"])
    monkeypatch.setattr(Path, "open", open_shared)
    result = failed(bad, "The server answered: FAILURE: b")
    assert remote.run().log == ["Another", *result]


# ---- paramiko's threads --------------------------------------------------------------------------


def test_server_that_talks_nonsense(tmp_path: Path) -> None:
    """One line on stderr, not the tracebacks that paramiko's threads print by themselves."""
    nonsense = says(b"SSH-2.0-x\r\n" + b"\xff" * 4096, end_with_reset)
    with MMP(raw=nonsense) as broken, MMP() as mmp:
        ran = Installed(tmp_path, broken, mmp).run()
        assert broken.connections == webbridge_restart.CONNECT_TRIES
    reason = ran.log[1]
    assert ran.log == [*failed(broken, reason), restarted(mmp)]
    assert (ran.status, ran.err.count("\n")) == (1, 1)


# ---- Signals -------------------------------------------------------------------------------------


@POSIX
def test_two_signals_at_once(tmp_path: Path) -> None:
    """The second does not end the run before it has logged; timeout sends SIGTERM twice."""
    came = threading.Event()
    with MMP(restart=[lambda _: came.set()]) as silent, MMP() as never:
        installed = Installed(tmp_path, silent, never)
        with installed.started() as child:
            assert came.wait(PATIENCE)
            # Two of a kind could become one. While the run is stopped, both of them wait for it.
            for name in ("SIGSTOP", "SIGTERM", "SIGINT", "SIGCONT"):
                child.send_signal(signal.Signals[name])
            ran = installed.end(child)
        assert (silent.commands, never.connections) == ([COMMAND], 0)
    first = signal.Signals(ran.status - 128).name
    assert first in ("SIGTERM", "SIGINT")
    reason = f"Cut off by {first} while waiting for the answer. {DOUBT}"
    ended = f"Ended by {first}. Not attempted: {never.address}"
    assert ran.err.endswith(f" s: {reason}\n{ended}\n")
    assert ran.log == [*failed(silent, reason), ended]


FULL_PIPE = "os.set_blocking(1, False); os.write(1, bytes(2**22)); os.set_blocking(1, True)"


@POSIX
def test_full_pipe(tmp_path: Path) -> None:
    """The run waits for a reader of what it prints. A second signal ends it all the same."""
    signals = 0
    with MMP() as mmp, MMP() as never:
        installed = Installed(tmp_path, mmp, never)
        with installed.started(before=FULL_PIPE) as child:
            for _ in range(600):  # two minutes at most; what has ended needs no time
                if child.poll() is None and installed.logged():  # which comes before what it prints
                    child.send_signal(signal.SIGTERM)  # until one comes a second after the first
                    signals += 1
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(0.2)
        assert never.connections == 0
    assert signals >= 2
    assert child.returncode == -signal.SIGTERM
    assert unstamped(installed.logged()) == [restarted(mmp)]


def test_ctrl_break(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows' console has it; elsewhere, another signal stands in for it."""
    if not hasattr(signal, "SIGBREAK"):
        monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    number: signal.Signals = vars(signal)["SIGBREAK"]
    before = signal.signal(number, lambda *_: None)
    mmp = remote.at("10.48.79.194", answer=[lambda: signal.raise_signal(number)])
    ran = remote.run()
    signal.signal(number, before)
    reason = f"Cut off by {number.name} while waiting for the answer. {DOUBT}"
    ended = f"Ended by {number.name}. Not attempted: none"
    assert (ran.status, ran.log) == (128 + number, [*failed(mmp, reason), ended])
