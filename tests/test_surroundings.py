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
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import paramiko
import pytest

import demo
import webbridge_restart
from conftest import (
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
from simulated_mmp import PASSWORD, SimulatedMMP, answer, refusing_address, reset

COMMAND = "webbridge restart"
BARE = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}  # for Windows
PATIENCE = 30.0  # seconds for a child, on a busy computer
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX: signals, modes, limits, shells")
LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux: /dev/full, /proc, capabilities"
)

# ---- A copy of the script, and a run of it -------------------------------------------------------


class Installed(NamedTuple):
    """A copy of the script in a folder of its own, with the files that belong to it."""

    script: Path
    password_file: Path
    log_file: Path
    children: list[subprocess.Popen[bytes]]

    def start(
        self,
        *options: str,
        launcher: Sequence[str] = (),
        flags: Sequence[str] = (),
        script: Path | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """Start it with an empty environment. A launcher becomes the script in the end."""
        interpreter = *launcher, sys.executable, *flags
        password = "--password-file", str(self.password_file)
        child = subprocess.Popen(
            [*interpreter, str(script or self.script), *password, *options],
            env={**BARE, **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
        self.children.append(child)
        return child

    def end(self, child: subprocess.Popen[bytes], encoding: str = "utf-8") -> Ran:
        """Wait for its end. Durations read "N s", and the log is the whole file."""
        began = time.monotonic()
        printed = child.communicate(timeout=PATIENCE)
        seconds = time.monotonic() - began
        out, err = (
            re.sub(r"\b\d+\.\d s\b", "N s", (text or b"").decode(encoding)).replace("\r\n", "\n")
            for text in printed
        )
        return Ran(child.returncode, out, err, unstamped(self.logged()), seconds)

    def logged(self) -> str:
        return self.log_file.read_text("utf-8") if self.log_file.is_file() else ""

    def run(self, *options: str, encoding: str = "utf-8", **surroundings: object) -> Ran:
        return self.end(self.start(*options, **surroundings), encoding)  # type: ignore[arg-type]


Install = Callable[..., Installed]


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Install the script for these servers, whose keys it knows. No child is left behind."""
    children: list[subprocess.Popen[bytes]] = []

    def copy(
        *servers: SimulatedMMP | str, folder: str = "installed", pause: float = 0.01
    ) -> Installed:
        place = tmp_path / folder
        place.mkdir()
        script = demo.script_for([address_of(server) for server in servers], place, pause)
        lines = [mmp.known_hosts_line for mmp in servers if isinstance(mmp, SimulatedMMP)]
        known_hosts = place / "webbridge_known_hosts"
        known_hosts.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        password_file = place / "password"
        password_file.write_text(f"{PASSWORD}\n")
        password_file.chmod(0o600)
        log_file = place / "webbridge_restart_logs.txt"
        return Installed(script, password_file, log_file, children)

    yield copy
    for child in children:
        with child:
            child.kill()


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of a port that refuses connections. Nobody else can take it meanwhile."""
    with refusing_address() as address:
        yield address


# ---- What a run is expected to say ---------------------------------------------------------------


def good(place: str, server: SimulatedMMP) -> str:
    """Return what stdout says of a success."""
    return f"[{place}] {server.address} restarted in N s\n"


def bad(place: str, server: SimulatedMMP | str, reason: str) -> str:
    """Return what stderr says of a failure."""
    return f"[{place}] {address_of(server)} FAILED after N s: {with_advice(reason)}\n"


def total(restarted: int, servers: int) -> str:
    """Return the last line of stdout."""
    noun = "server" if servers == 1 else "servers"
    return f"Restarted {restarted} of {servers} {noun}.\n"


def assert_both_told(
    ran: Ran, mmp: SimulatedMMP, refusing: str, seen: Sequence[str] = ("out", "err")
) -> None:
    """The log and the streams that are seen say: one server was restarted, the next refused."""
    assert ran.log == [restarted(mmp), *failed(refusing, refused(refusing))]
    assert ran.status == 1
    assert ran.out == (good("1/2", mmp) + total(1, 2) if "out" in seen else "")
    assert ran.err == (bad("2/2", refusing, refused(refusing)) if "err" in seen else "")
    assert mmp.commands == [COMMAND]
    assert mmp.passwords == [PASSWORD]


# ---- Launchers -----------------------------------------------------------------------------------


def in_shell(redirections: str) -> Sequence[str]:
    return "/bin/sh", "-c", f'exec "$@" {redirections}', "sh"


def after(code: str) -> Sequence[str]:
    """Return what runs the code first: a preexec_fn is unsafe in a process with threads."""
    return sys.executable, "-c", f"import os, sys\n{code}\nos.execv(sys.argv[1], sys.argv[1:])"


def with_limit(name: str, limit: int) -> Sequence[str]:
    """Return what sets a resource limit first."""
    return after(f"import resource\nresource.setrlimit(resource.{name}, ({limit}, {limit}))")


def hearing_signals() -> Sequence[str]:
    """Return what makes it hear signals, also where these tests run under nohup or with &."""
    return after(
        "import signal\nfor name in ('SIGINT', 'SIGTERM', 'SIGHUP'):\n"
        "    signal.signal(getattr(signal, name), signal.SIG_DFL)"
    )


def bound_by_permissions() -> Sequence[str]:
    """Return what binds root to permissions, as any other account is; or skip the test.

    Another account might not reach this interpreter. So root stays root, and only loses
    CAP_DAC_OVERRIDE for good.
    """
    if os.geteuid():
        return ()
    if sys.platform != "linux":
        pytest.skip("permissions do not bind root")
    launcher = after(
        "import ctypes\n"
        "PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1\n"
        "if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):\n"
        "    sys.exit(99)"
    )
    if subprocess.run([*launcher, sys.executable, "-S", "-c", ""], check=False).returncode:
        pytest.skip("root may not give up its right to write everywhere")
    return launcher


# ---- The environment and the current directory ---------------------------------------------------


@pytest.mark.parametrize(
    "env",
    [{}, {"HOME": "/nonexistent", "USER": "", "PATH": "", "TZ": "Asia/Tokyo"}],
    ids=["empty", "useless"],
)
def test_poor_environment(
    env: dict[str, str], install: Install, mmp: SimulatedMMP, refusing: str
) -> None:
    assert_both_told(install(mmp, refusing).run(env=env), mmp, refusing)


@POSIX
@pytest.mark.parametrize(
    ("env", "encoding"),
    [
        ({"LANG": "C"}, "utf-8"),  # which Python takes for UTF-8
        ({"LC_ALL": "C"}, "utf-8"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii"),
        ({"PYTHONIOENCODING": "latin-1:strict"}, "latin-1"),
    ],
    ids=["LANG", "LC_ALL", "ASCII", "Latin-1"],
)
def test_answers_that_no_terminal_can_show(
    env: dict[str, str], encoding: str, install: Install
) -> None:
    """The log is UTF-8 wherever it is written; the terminal shows what it can."""
    said = "SUCCESS: Brücke neu gestartet · 再起動"
    complaint = "FAILURE: Brücke gestört · 障害"
    with (
        SimulatedMMP(restart=answer(f"{said}\n".encode())) as first,
        SimulatedMMP(restart=answer(f"{complaint}\n".encode())) as second,
    ):
        ran = install(first, second).run("-v", env=env, encoding=encoding)
        assert first.commands == second.commands == [COMMAND]
    reason = ran.log[-1]
    assert ran.log == [restarted(first), *failed(second, reason)]
    assert reason == f"The server answered: {complaint}"
    assert ran.status == 1
    shown = (good("1/2", first) + f"  answered: {said}\n" + total(1, 2)).encode(
        encoding, "backslashreplace"
    )
    assert ran.out == shown.decode(encoding)
    assert ran.err == bad("2/2", second, reason).encode(encoding, "backslashreplace").decode(
        encoding
    )


def test_another_current_directory(
    install: Install, mmp: SimulatedMMP, refusing: str, tmp_path: Path
) -> None:
    """Nothing is read from it, not even a module, and nothing is written to it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("paramiko.py", "argparse.py", "webbridge_known_hosts"):
        (elsewhere / name).write_text("this is no Python, and no host key\n")
    before = sorted(elsewhere.rglob("*"))
    assert_both_told(install(mmp, refusing).run(cwd=elsewhere), mmp, refusing)
    assert sorted(elsewhere.rglob("*")) == before


@POSIX
def test_current_directory_that_cannot_be_written(
    install: Install, mmp: SimulatedMMP, refusing: str, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    launcher = bound_by_permissions()
    locked.chmod(0o555)
    try:
        ran = install(mmp, refusing).run(launcher=launcher, cwd=locked)
    finally:
        locked.chmod(0o755)
    assert_both_told(ran, mmp, refusing)


@LINUX
def test_current_directory_that_was_deleted(
    install: Install, mmp: SimulatedMMP, refusing: str, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    launcher = ("/bin/sh", "-c", 'rmdir ../gone && exec "$@"', "sh")
    assert_both_told(install(mmp, refusing).run(launcher=launcher, cwd=gone), mmp, refusing)
    assert not gone.exists()


# ---- The interpreter -----------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize(
    "env", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_message_that_names_a_folder_of_any_name(
    env: dict[str, str], install: Install, mmp: SimulatedMMP
) -> None:
    """A path is shown as well as the surroundings allow, never as a traceback."""
    installed = install(mmp, folder="Brücken · 橋")
    installed.password_file.chmod(0o644)
    ran = installed.run(env=env)
    shown = str(installed.password_file)
    if env:  # Python then takes the name for ASCII with something else in it
        escaped = os.fsencode(shown).decode("ascii", "surrogateescape")
        shown = escaped.encode("ascii", "backslashreplace").decode()
    message = f"Others can read the password in {shown}. Run: chmod go-rwx '{shown}'"
    assert (ran.status, ran.out, ran.err) == (2, "", f"{message}\n")
    assert ran.log == [message]
    assert mmp.connections == 0


@pytest.mark.parametrize(
    "flags",
    [["-O"], ["-OO"], ["-W", "error"], ["-bb", "-I"], ["-X", "dev"]],
    ids=" ".join,
)
def test_flags_of_the_interpreter(
    flags: list[str], install: Install, mmp: SimulatedMMP, refusing: str
) -> None:
    assert_both_told(install(mmp, refusing).run(flags=flags), mmp, refusing)


def test_help_without_docstrings(install: Install, mmp: SimulatedMMP) -> None:
    ran = install(mmp).run("--help", flags=["-OO"])
    assert ran.status == 0
    assert "--password-file" in ran.out
    assert ran.err == ""
    assert ran.log == []


@POSIX
def test_script_behind_a_symbolic_link(
    install: Install, mmp: SimulatedMMP, refusing: str, tmp_path: Path
) -> None:
    """Its files stand beside the target: a link in /usr/local/bin must not spread them there."""
    links = tmp_path / "bin"
    links.mkdir()
    installed = install(mmp, refusing)
    link = links / "restart-webbridges"
    link.symlink_to(Path("..", "installed", installed.script.name))
    assert_both_told(installed.run(script=link, cwd=links), mmp, refusing)
    assert list(links.iterdir()) == [link]


@pytest.mark.parametrize(
    ("module", "flags", "found"),
    [
        (None, ["-S"], "No module named 'paramiko'"),  # without site-packages
        ('raise ImportError("its cryptography is missing")\n', [], "its cryptography is missing"),
        ('__version__ = "3.5.1"\n', [], "found paramiko 3.5.1"),
    ],
    ids=["missing", "broken", "too old"],
)
def test_paramiko_missing_or_too_old(
    module: str | None,
    flags: list[str],
    found: str,
    install: Install,
    mmp: SimulatedMMP,
    tmp_path: Path,
) -> None:
    """One sentence says which of a computer's many Pythons lacks it, and which one to use."""
    env = {}
    if module is not None:
        (tmp_path / "paramiko.py").write_text(module)
        env = {"PYTHONPATH": str(tmp_path)}
    ran = install(mmp).run(flags=flags, env=env)
    assert ran.err == (
        f"paramiko 4.0 or newer is not installed for {sys.executable} ({found}). "
        "Run this script with the Python of its virtual environment (README, step 1).\n"
    )
    assert (ran.status, ran.out, ran.log) == (2, "", [])
    assert mmp.connections == 0


# ---- The three streams ---------------------------------------------------------------------------

WITHOUT_STREAMS = (
    "import sys; sys.stdin = sys.stdout = sys.stderr = None; del sys.argv[0]; "
    "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
)


class Streams(NamedTuple):
    """What is wrong with a child's streams, and which of them can still be seen."""

    launcher: Sequence[str] = ()
    flags: Sequence[str] = ()
    out: str = ""  # or the kind of target
    err: str = ""
    seen: Sequence[str] = ("out", "err")


STREAMS = [
    pytest.param(Streams(in_shell("<&-")), id="stdin closed", marks=POSIX),
    pytest.param(Streams(in_shell(">&-"), seen=["err"]), id="stdout closed", marks=POSIX),
    pytest.param(Streams(in_shell("2>&-"), seen=["out"]), id="stderr closed", marks=POSIX),
    pytest.param(Streams(in_shell("<&- >&- 2>&-"), seen=[]), id="all closed", marks=POSIX),
    pytest.param(Streams(out="full", seen=["err"]), id="stdout full", marks=LINUX),
    pytest.param(Streams(err="full", seen=["out"]), id="stderr full", marks=LINUX),
    pytest.param(Streams(out="no reader", seen=["err"]), id="stdout without reader"),
    pytest.param(Streams(out="no reader", err="no reader", seen=[]), id="neither with reader"),
    pytest.param(Streams(flags=["-c", WITHOUT_STREAMS], seen=[]), id="as under pythonw"),
]


@contextlib.contextmanager
def opened(kind: str) -> Iterator[int]:
    """Yield what a child's stream goes to: a pipe, a full device, a pipe that nobody reads."""
    if not kind:
        yield subprocess.PIPE
        return
    if kind == "full":
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, target = os.pipe()
        os.close(reader)
    try:
        yield target
    finally:
        os.close(target)


def run_with(streams: Streams, installed: Installed, *options: str) -> Ran:
    with opened(streams.out) as stdout, opened(streams.err) as stderr:
        return installed.run(
            *options, launcher=streams.launcher, flags=streams.flags, stdout=stdout, stderr=stderr
        )


@pytest.mark.parametrize("streams", STREAMS)
def test_streams_that_are_gone_when_all_goes_well(
    streams: Streams, install: Install, mmp: SimulatedMMP
) -> None:
    """Nothing that cannot be printed stops the work, or spoils the exit status."""
    ran = run_with(streams, install(mmp))
    assert ran.status == 0
    assert ran.log == [restarted(mmp)]
    assert ran.out == (good("1/1", mmp) + total(1, 1) if "out" in streams.seen else "")
    assert ran.err == ""
    assert mmp.commands == [COMMAND]
    assert mmp.passwords == [PASSWORD]


@pytest.mark.parametrize("streams", STREAMS)
def test_streams_that_are_gone_when_a_server_fails(
    streams: Streams, install: Install, mmp: SimulatedMMP, refusing: str
) -> None:
    """The work goes on after a failure that could not be printed."""
    assert_both_told(run_with(streams, install(mmp, refusing)), mmp, refusing, streams.seen)


@pytest.mark.parametrize("streams", [each for each in STREAMS if "err" not in each.values[0].seen])
def test_streams_that_are_gone_when_nothing_can_be_attempted(
    streams: Streams, install: Install, mmp: SimulatedMMP
) -> None:
    """The log then is the one place that says why."""
    ran = run_with(streams, install(mmp), "9")
    assert ran.log == [f"No server 9. WEBBRIDGES has 1 ({mmp.address})."]
    assert (ran.status, ran.out, ran.err) == (2, "", "")
    assert mmp.connections == 0


# ---- The log -------------------------------------------------------------------------------------


def lost_lines(ran: Ran) -> list[str]:
    """Return the stamped lines of stderr, without their stamps: what the log did not take."""
    return [STAMP.sub("", line) for line in ran.err.splitlines() if STAMP.match(line)]


def cannot_write(log_file: Path | str, number: int) -> str:
    hint = f" {RIGHTS}." if number == errno.EACCES else ""
    return f"Cannot write to {log_file}: {os.strerror(number)}.{hint}"


def is_directory(log_file: Path) -> None:
    log_file.mkdir()


def is_read_only(log_file: Path) -> None:
    log_file.touch()
    log_file.chmod(0o444)


def is_dangling(log_file: Path) -> None:
    log_file.symlink_to(log_file.with_name("no such folder") / "log.txt")


@pytest.mark.parametrize(
    ("spoil", "number"),
    [
        (is_directory, errno.EISDIR if os.name == "posix" else errno.EACCES),
        pytest.param(is_read_only, errno.EACCES, marks=POSIX),
        pytest.param(is_dangling, errno.ENOENT, marks=POSIX),
    ],
    ids=["directory", "read-only", "dangling link"],
)
def test_log_that_cannot_be_opened(
    spoil: Callable[[Path], None], number: int, install: Install, mmp: SimulatedMMP
) -> None:
    """Said before the first connection: no restart goes unrecorded through a lasting mistake."""
    installed = install(mmp)
    spoil(installed.log_file)
    ran = installed.run(launcher=bound_by_permissions() if spoil is is_read_only else ())
    assert ran.err == cannot_write(installed.log_file, number) + "\n"
    assert (ran.status, ran.out, ran.log) == (2, "", [])
    assert mmp.connections == 0


@LINUX
def test_log_on_a_full_device(install: Install, mmp: SimulatedMMP, refusing: str) -> None:
    """The run goes on. What the log should hold is on stderr, which cron mails."""
    limit = with_limit("RLIMIT_AS", 2**30)  # who reads this device to its end takes all memory
    ran = install(mmp, refusing).run("--log-file", "/dev/full", launcher=limit)
    assert lost_lines(ran) == [restarted(mmp), *failed(refusing, refused(refusing))]
    assert ran.status == 1
    assert ran.err.count(cannot_write("/dev/full", errno.ENOSPC) + " Not logged:\n") == 2
    assert bad("2/2", refusing, refused(refusing)) in ran.err
    assert ran.out == good("1/2", mmp) + total(1, 2)
    assert mmp.commands == [COMMAND]


@LINUX
def test_log_and_streams_that_are_all_lost(install: Install, mmp: SimulatedMMP) -> None:
    """Only the exit status is left to say it."""
    limit = with_limit("RLIMIT_AS", 2**30)
    flags = ["-c", WITHOUT_STREAMS]
    ran = install(mmp).run("--log-file", "/dev/full", launcher=limit, flags=flags)
    assert ran.status == 1
    assert ran.out == ran.err == ""
    assert mmp.commands == [COMMAND]


def line_length(message: str) -> int:
    return len(f"2001-02-03 04:05:06.000000+00:00 {message}\n")


def take_torn_line(log_file: Path) -> str:
    """Take the unfinished line from the log's end; what is left are lines as they should be."""
    complete, newline, torn = log_file.read_text("utf-8").rpartition("\n")
    log_file.write_text(complete + newline, "utf-8")
    return torn


def run_until_full(installed: Installed, size: int) -> tuple[Ran, str]:
    """Run it with a log that ends at this size; return also the line that was cut there."""
    launcher = with_limit("RLIMIT_FSIZE", size)
    child = installed.start(flags=["-B"], launcher=launcher)  # or modules' caches are cut too
    child.wait(PATIENCE)
    assert installed.log_file.stat().st_size == size
    torn = take_torn_line(installed.log_file)
    return installed.end(child), torn


@POSIX
@pytest.mark.parametrize("room", [10, 60], ids=["in the stamp", "in the message"])
def test_log_that_fills_up_during_the_run(room: int, install: Install, mmp: SimulatedMMP) -> None:
    """The work goes on, stderr has the lines that are lost, and the exit status is 1."""
    with SimulatedMMP() as second, SimulatedMMP() as third:
        installed = install(mmp, second, third)
        ran, torn = run_until_full(installed, line_length(restarted(mmp)) + room)
        assert mmp.commands == second.commands == third.commands == [COMMAND]
    assert ran.status == 1
    assert ran.log == [restarted(mmp)]
    assert lost_lines(ran) == [restarted(second), restarted(third)]
    assert torn in ran.err
    assert len(torn) == room
    assert ran.err.count(cannot_write(installed.log_file, errno.EFBIG) + " Not logged:\n") == 2
    assert ran.out == "".join(
        [good("1/3", mmp), good("2/3", second), good("3/3", third), total(3, 3)]
    )


@POSIX
def test_log_that_fills_up_between_a_failure_and_its_reason(
    install: Install, mmp: SimulatedMMP, refusing: str
) -> None:
    """Both lines are on stderr then: neither means anything alone."""
    label, reason = failed(refusing, refused(refusing))
    with SimulatedMMP() as third:
        installed = install(mmp, refusing, third)
        size = line_length(restarted(mmp)) + line_length(label) + 40
        ran, torn = run_until_full(installed, size)
        assert mmp.commands == third.commands == [COMMAND]
    assert ran.status == 1
    assert ran.log == [restarted(mmp), label]
    assert lost_lines(ran) == [label, reason, restarted(third)]
    assert torn in ran.err
    assert bad("2/3", refusing, reason) in ran.err
    assert ran.out == good("1/3", mmp) + good("3/3", third) + total(2, 3)


@POSIX
def test_log_that_is_full_from_the_night_before(
    install: Install, mmp: SimulatedMMP, refusing: str
) -> None:
    """What is in the log stays as it was."""
    before = "a line that was cut of"
    installed = install(mmp, refusing)
    installed.log_file.write_text(before, "utf-8")
    launcher = with_limit("RLIMIT_FSIZE", len(before))
    child = installed.start(flags=["-B"], launcher=launcher)
    child.wait(PATIENCE)
    assert installed.log_file.read_text("utf-8") == before
    installed.log_file.unlink()
    ran = installed.end(child)
    assert ran.status == 1
    assert lost_lines(ran) == [restarted(mmp), *failed(refusing, refused(refusing))]
    assert ran.err.count(cannot_write(installed.log_file, errno.EFBIG) + " Not logged:\n") == 2
    assert ran.out == good("1/2", mmp) + total(1, 2)
    assert mmp.commands == [COMMAND]


BUSY_NEIGHBOUR = """\
import os, sys, time
line = b"2001-02-03 04:05:06.000000+00:00 Somebody else's line\\n"
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while True:
    os.write(log, line)
    time.sleep(0.00005)
"""


def run_at_once(installed: Installed, runs: int) -> list[Ran]:
    """Run it so often at once, beside a program that writes to the same log all the time."""
    children = [installed.start() for _ in range(runs)]
    command = [sys.executable, "-S", "-c", BUSY_NEIGHBOUR, str(installed.log_file)]
    with subprocess.Popen(command) as neighbour:
        try:
            for child in children:
                child.wait(PATIENCE)
        finally:
            neighbour.kill()
    lines = installed.logged().splitlines()
    assert [line for line in lines if not STAMP.match(line)] == []
    own = [line for line in lines if "Somebody else" not in line]
    assert len(own) < len(lines)
    installed.log_file.write_text("".join(f"{line}\n" for line in own), "utf-8")
    return [installed.end(child) for child in children]


@POSIX
def test_eight_runs_at_once_on_one_log(install: Install, mmp: SimulatedMMP) -> None:
    """No line is lost, mixed with another, or parted from the label of its failure.

    The runs fail at their servers as fast as they can, from the same moment on. As they meet only
    by chance, a neighbour writes to the log all the time.
    """
    runs, ports = 8, 20
    all_here = threading.Barrier(runs)

    def wait_for_all(channel: paramiko.Channel) -> None:
        all_here.wait(PATIENCE)
        answer()(channel)

    with contextlib.ExitStack() as stack:
        gate = stack.enter_context(SimulatedMMP(restart=wait_for_all))
        taken = [stack.enter_context(socket.socket()) for _ in range(ports)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        closed = [f"127.0.0.1:{each.getsockname()[1]}" for each in taken]
        installed = install(gate, *closed, mmp, pause=0)
        ended = run_at_once(installed, runs)
        assert gate.commands == mmp.commands == [COMMAND] * runs
    log = ended[0].log
    assert log.count(restarted(gate)) == log.count(restarted(mmp)) == runs
    assert len(log) == runs * (2 * ports + 2)
    labels = [place for place, line in enumerate(log) if line.startswith("Failed")]
    pairs = Counter((log[place], log[place + 1]) for place in labels)
    assert pairs == {tuple(failed(address, refused(address))): runs for address in closed}
    stamps = [line[: line.index("+00:00 ")] for line in installed.logged().splitlines()]
    assert all(stamps[place] == stamps[place + 1] for place in labels)
    places = [f"{place}/{ports + 2}" for place in range(1, ports + 3)]
    complaints = [bad(*each, refused(each[1])) for each in zip(places[1:-1], closed)]
    for ran in ended:
        assert ran.status == 1
        assert ran.out == good(places[0], gate) + good(places[-1], mmp) + total(2, ports + 2)
        assert ran.err == "".join(complaints)


# ---- The noise of paramiko -----------------------------------------------------------------------


def hang_up_at_once(connection: socket.socket) -> None:
    connection.close()


def hang_up_after_the_banner(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-x\r\n")
    connection.recv(1)
    connection.close()


def hang_up_during_the_key_exchange(connection: socket.socket) -> None:
    """Take the client's offer, then answer with a reset."""
    connection.sendall(b"SSH-2.0-x\r\n")
    with connection.makefile("rb") as offered:
        offered.readline()
        offered.read(100)
    reset(connection)


def talk_nonsense(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-x\r\n" + b"\xff" * 4096)
    connection.recv(1)
    reset(connection)


@pytest.mark.parametrize(
    "raw",
    [
        hang_up_at_once,
        hang_up_after_the_banner,
        hang_up_during_the_key_exchange,
        talk_nonsense,
    ],
)
def test_server_that_breaks_the_key_exchange_off(
    raw: Callable[[socket.socket], None], install: Install, mmp: SimulatedMMP
) -> None:
    """One line on stderr, not the tracebacks that paramiko's threads print by themselves."""
    with SimulatedMMP(raw=raw) as broken:
        ran = install(broken, mmp).run()
        assert broken.connections == webbridge_restart.CONNECT_TRIES
        assert broken.passwords == []
    reason = ran.log[1]
    assert ran.log == [*failed(broken, reason), restarted(mmp)]
    assert reason
    assert ran.err == bad("1/2", broken, reason)
    assert ran.out == good("2/2", mmp) + total(1, 2)
    assert ran.status == 1
    assert mmp.commands == [COMMAND]


# ---- Signals -------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], object]) -> None:
    """Look until it is so. Only for what no event tells."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


class Stop(threading.Event):
    """The end of a simulated server. It tells when the server begins to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.awaited.set()
        return super().wait(timeout)


class Stalling(SimulatedMMP):
    """A server that falls silent at a stage, and knows when the script has come that far."""

    def __init__(self, stage: str) -> None:
        super().__init__(stall=stage)
        self.stage = stage
        self.stopped = self.stop = Stop()
        if stage in ("banner", "next try"):
            self.raw = self.leave_waiting
        if stage == "answer":
            self.restart = lambda channel: self.wait_after(channel, b"")
        if stage == "half an answer":
            self.restart = lambda channel: self.wait_after(channel, b"SUCCESS: Webbr")

    def __enter__(self) -> Stalling:
        if self.stage != "connect":
            super().__enter__()
            return self
        self.listener.listen(0)  # one connection then fills its queue
        self.sockets.append(socket.create_connection(("127.0.0.1", self.port)))
        return self

    def leave_waiting(self, connection: socket.socket) -> None:
        if self.stage == "next try":
            connection.close()
        self.stopped.wait()

    def wait_after(self, channel: paramiko.Channel, text: bytes) -> None:
        channel.sendall(text)
        # The script replies to this only once it has received the text.
        channel.get_transport().global_request("are you there?", wait=True)
        self.stopped.wait()

    def wait_until_reached(self) -> None:
        """Return when the script waits for this server."""
        if self.stage == "connect":
            wait_until(self.is_called)
        else:
            assert self.stop.awaited.wait(PATIENCE)

    def is_called(self) -> bool:
        """Return whether a SYN to this server stays unanswered."""
        table = Path("/proc/net/tcp").read_text().split("\n")[1:]
        called = f"0100007F:{self.port:04X}", "02"  # SYN_SENT
        return any(tuple(row.split()[2:4]) == called for row in table)


DOUBT = " The restart may or may not have happened: check the Web Bridge before you run this again."
STAGES = {  # and how the log says it
    "connect": "connecting.",
    "banner": "connecting.",
    "next try": "connecting.",
    "login": "logging in.",
    "channel": "opening a session.",
    "exec": f"waiting for the answer.{DOUBT}",
    "answer": f"waiting for the answer.{DOUBT}",
    "half an answer": f"waiting for the answer. It had answered: SUCCESS: Webbr.{DOUBT}",
}
ALL = [stage for stage in STAGES if stage != "connect" or sys.platform == "linux"]


@POSIX
@pytest.mark.parametrize("stages", [ALL, ["answer"]], ids=["all stages", "answer"])
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signal(
    name: str, status: int, stages: list[str], install: Install, mmp: SimulatedMMP, refusing: str
) -> None:
    """The run ends at once, and the log says of every server what is known."""
    with contextlib.ExitStack() as stack:
        stalling = [stack.enter_context(Stalling(stage)) for stage in stages]
        never = stack.enter_context(SimulatedMMP())
        installed = install(mmp, *stalling, never, refusing, pause=10)
        child = installed.start("--parallel", str(len(stages)), launcher=hearing_signals())
        for server in stalling:
            server.wait_until_reached()
        child.send_signal(signal.Signals[name])
        ran = installed.end(child)
        received = [server.commands for server in stalling]
        assert never.connections == 0
    assert ran.seconds < 10
    assert ran.status == status
    reasons = [f"Cut off by {name} while {STAGES[stage]}" for stage in stages]
    failures = [line for each in zip(stalling, reasons) for line in failed(*each)]
    ended = f"Ended by {name}. Not attempted: {never.address}, {refusing}"
    assert ran.log == [restarted(mmp), *failures, ended]
    assert received == [[COMMAND] if DOUBT in STAGES[stage] else [] for stage in stages]
    servers = len(stages) + 3
    places = [f"{place}/{servers}" for place in range(1, servers)]
    assert ran.out == good(places[0], mmp) + total(1, servers)
    told = [bad(*each) for each in zip(places[1:], stalling, reasons)]
    assert ran.err == "".join([*told, f"{ended}\n"])
    assert mmp.commands == [COMMAND]


@POSIX
@pytest.mark.parametrize(
    ("ignored", "launcher"),
    [
        ("SIGHUP", ["nohup"]),
        ("SIGINT", ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh"]),  # as after & in a script
    ],
    ids=["nohup", "in the background"],
)
def test_signal_that_was_ignored_at_the_start_stays_ignored(
    ignored: str, launcher: Sequence[str], install: Install
) -> None:
    with Stalling("answer") as server:
        installed = install(server)
        child = installed.start(launcher=launcher)
        server.wait_until_reached()
        child.send_signal(signal.Signals[ignored])
        child.send_signal(signal.SIGTERM)  # which Python hears of later, if both come at once
        ran = installed.end(child)
    assert ran.status == 143
    reason = f"Cut off by SIGTERM while {STAGES['answer']}"
    assert ran.log == [*failed(server, reason), "Ended by SIGTERM. Not attempted: none"]


@POSIX
def test_signal_while_a_success_is_printed(install: Install, mmp: SimulatedMMP) -> None:
    """A signal comes while nobody reads what is printed. No other server gets its turn then."""
    reader, target = os.pipe()
    os.set_blocking(target, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(target, b".")
    os.set_blocking(target, True)
    with Stalling("login") as stalling, SimulatedMMP() as never, os.fdopen(reader, "rb") as printed:
        installed = install(mmp, stalling, never)
        child = installed.start("--parallel", "2", launcher=hearing_signals(), stdout=target)
        os.close(target)
        wait_until(installed.logged)  # which is written before anything is printed
        stalling.wait_until_reached()
        child.send_signal(signal.SIGTERM)
        out = printed.read().decode().lstrip(".")
        ran = installed.end(child)
        assert never.connections == 0
    assert ran.status == 143
    reason = f"Cut off by SIGTERM while {STAGES['login']}"
    ended = f"Ended by SIGTERM. Not attempted: {never.address}"
    assert ran.log == [restarted(mmp), *failed(stalling, reason), ended]
    assert ran.err == bad("2/3", stalling, reason) + f"{ended}\n"
    assert out.startswith(f"[1/3] {mmp.address} restarted in ")
    assert out.endswith(f"\n{total(1, 3)}")
    assert mmp.commands == [COMMAND]
