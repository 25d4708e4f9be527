"""The script as a child process, the way cron and Task Scheduler run it: in poor surroundings.

Nobody looks at 2 am. Whatever the environment, the streams, the log's disk and the moment of a
signal are like, the servers are restarted, the log is right, and so is the exit status.
"""

from __future__ import annotations

import ast
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

import webbridge_restart
from conftest import STAMP, Ran, failed, restarted, unstamped
from simulated_mmp import PASSWORD, SimulatedMMP, answer, refusing_address, reset

COMMAND = "webbridge restart"
BARE = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}  # for Windows
PATIENCE = 30.0  # seconds for a child, on a busy computer
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX only")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")

# ---- A copy of the script, and a run of it -------------------------------------------------------


def adapted(source: str, servers: Sequence[SimulatedMMP | str], pause: float) -> str:
    """Return the script with another inventory and shorter pauses between its tries."""
    addresses = [server if isinstance(server, str) else server.address for server in servers]
    inventory = dict(enumerate(addresses, 1))
    copy, blocks = re.subn(r"(?ms)^WEBBRIDGES = \{$.*?^\}$", f"WEBBRIDGES = {inventory}", source)
    copy, pauses = re.subn(
        r"(?m)^SECONDS_BETWEEN_TRIES = [0-9.]+$", f"SECONDS_BETWEEN_TRIES = {pause}", copy
    )
    assert blocks == pauses == 1
    values = {
        node.targets[0].id: node.value
        for node in ast.parse(copy).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert ast.literal_eval(values["WEBBRIDGES"]) == inventory
    assert ast.literal_eval(values["SECONDS_BETWEEN_TRIES"]) == pause
    return copy


class Installed(NamedTuple):
    """A copy of the script in a directory of its own, with the files that belong to it."""

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
        """Start it, with an empty environment; a launcher ends by becoming the script."""
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
        """Wait for its end; durations are told as "N s", and the log is all that is in it."""
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
    """Install the script for these servers, whose keys it knows; leave no child behind."""
    children: list[subprocess.Popen[bytes]] = []

    def copy(
        *servers: SimulatedMMP | str, folder: str = "installed", pause: float = 0.01
    ) -> Installed:
        place = tmp_path / folder
        place.mkdir()
        source = Path(webbridge_restart.__file__).read_text("utf-8")
        script = place / "webbridge_restart.py"
        script.write_text(adapted(source, servers, pause), "utf-8")
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
    """The address of a port that refuses connections, and that nobody else can take meanwhile."""
    with refusing_address() as address:
        yield address


# ---- What a run is expected to say ---------------------------------------------------------------


def refused(address: str) -> str:
    """Return the reason that stands in the log for a port that refuses connections."""
    return f"[Errno None] Unable to connect to port {address.rpartition(':')[2]} on 127.0.0.1"


def good(place: str, server: SimulatedMMP) -> str:
    """Return what stdout says of a success."""
    return f"[{place}] {server.address} restarted  N s\n"


def bad(place: str, server: SimulatedMMP | str, reason: str) -> str:
    """Return what stderr says of a failure."""
    address = server if isinstance(server, str) else server.address
    return f"[{place}] {address} FAILED  N s: {reason}\n"


def total(restarted: int, failed: int = 0, left: int = 0) -> str:
    """Return the last line of stdout."""
    return f"Restarted: {restarted} of {restarted + failed + left}.\n"


def assert_both_told(
    ran: Ran, mmp: SimulatedMMP, refusing: str, seen: Sequence[str] = ("out", "err")
) -> None:
    """One server was restarted, the next refused: so say the log and the streams that are seen."""
    assert ran.log == [restarted(mmp), *failed(refusing, refused(refusing))]
    assert ran.status == 1
    assert ran.out == (good("1/2", mmp) + total(1, 1) if "out" in seen else "")
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


def in_a_terminal() -> Sequence[str]:
    """Return what heeds SIGHUP, also where these tests run under nohup, and so ignore it."""
    return after("import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)")


def bound_by_permissions() -> Sequence[str]:
    """Return what makes root heed permissions, as any other account does; or skip the test.

    Another account might not reach this interpreter, so root stays root and merely loses
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
    label, reason = ran.log[1:]
    assert ran.log[0] == restarted(first)
    assert label == failed(second, "")[0]
    assert reason.endswith(complaint)
    assert ran.status == 1
    shown = (good("1/2", first) + f"  answered: {said}\n" + total(1, 1)).encode(
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


@pytest.mark.parametrize("folder", ["with two  spaces", "Brücken · 橋, it's $HOME; %TEMP%"])
def test_script_in_a_folder_of_any_name(
    folder: str, install: Install, mmp: SimulatedMMP, refusing: str
) -> None:
    assert_both_told(install(mmp, refusing, folder=folder).run(), mmp, refusing)


@POSIX
@pytest.mark.parametrize(
    "env", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_message_that_names_a_folder_of_any_name(
    env: dict[str, str], install: Install, mmp: SimulatedMMP
) -> None:
    """A path is shown as well as the surroundings allow, and never ends in a traceback."""
    installed = install(mmp, folder="Brücken · 橋")
    installed.password_file.chmod(0o644)
    ran = installed.run(env=env)
    assert ran.status == 2
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert ran.log == ran.err.splitlines()
    shown = str(installed.password_file)
    if env:  # Python then takes the name for ASCII with something else in it
        escaped = os.fsencode(shown).decode("ascii", "surrogateescape")
        shown = escaped.encode("ascii", "backslashreplace").decode()
    assert shown in ran.err
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
        (None, ["-S"], ""),  # without site-packages
        ('raise ImportError("the library of cryptography is missing")\n', [], ""),
        ('__version__ = "2.12.0"\n', [], "2.12.0"),
    ],
    ids=["missing", "broken", "2.12.0"],
)
def test_paramiko_missing_or_too_old(
    module: str | None,
    flags: list[str],
    found: str,
    install: Install,
    mmp: SimulatedMMP,
    tmp_path: Path,
) -> None:
    """One sentence says what to install, and into which of a computer's many interpreters."""
    env = {}
    if module is not None:
        (tmp_path / "paramiko.py").write_text(module)
        env = {"PYTHONPATH": str(tmp_path)}
    ran = install(mmp).run(flags=flags, env=env)
    assert ran.status == 2
    assert ran.err.count("\n") == 1
    assert f'"{sys.executable}" -m pip install "paramiko>=4' in ran.err
    assert found in ran.err
    assert ran.log == ran.err.splitlines()
    assert ran.out == ""
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
    pytest.param(Streams(out="full", seen=["err"]), id="stdout full", marks=FULL),
    pytest.param(Streams(err="full", seen=["out"]), id="stderr full", marks=FULL),
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
    assert ran.out == (good("1/1", mmp) + total(1) if "out" in streams.seen else "")
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
    assert ran.status == 2
    assert len(ran.log) == 1
    assert "9" in ran.log[0]
    assert ran.out == ran.err == ""
    assert mmp.connections == 0


# ---- The log -------------------------------------------------------------------------------------


def lost_lines(ran: Ran) -> list[str]:
    """Return the stamped lines of stderr, without their stamps: what the log did not take."""
    return [STAMP.sub("", line) for line in ran.err.splitlines() if STAMP.match(line)]


def is_directory(log_file: Path) -> None:
    log_file.mkdir()


def is_read_only(log_file: Path) -> None:
    log_file.touch()
    log_file.chmod(0o444)


def is_a_pipe(log_file: Path) -> None:
    os.mkfifo(log_file)


def is_dangling(log_file: Path) -> None:
    log_file.symlink_to(log_file.with_name("no such folder") / "log.txt")


@POSIX
@pytest.mark.parametrize(
    ("spoil", "number"),
    [
        (is_directory, errno.EISDIR),
        (is_read_only, errno.EACCES),
        (is_dangling, errno.ENOENT),
        (is_a_pipe, 0),
    ],
)
def test_log_that_cannot_be_opened(
    spoil: Callable[[Path], None], number: int, install: Install, mmp: SimulatedMMP
) -> None:
    """Said before the first connection: no restart goes unrecorded through a lasting mistake."""
    installed = install(mmp)
    spoil(installed.log_file)
    ran = installed.run(launcher=bound_by_permissions() if spoil is is_read_only else ())
    assert ran.status == 2
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert str(installed.log_file) in ran.err
    assert not number or os.strerror(number) in ran.err
    assert ran.log == []
    assert mmp.connections == 0


@FULL
def test_log_on_a_full_device(install: Install, mmp: SimulatedMMP, refusing: str) -> None:
    """The run goes on, and what the log should hold is on stderr, which cron mails."""
    limit = with_limit("RLIMIT_AS", 2**30)  # who reads this device to its end takes all memory
    ran = install(mmp, refusing).run("--log-file", "/dev/full", launcher=limit)
    assert lost_lines(ran) == [restarted(mmp), *failed(refusing, refused(refusing))]
    assert ran.status == 1
    assert os.strerror(errno.ENOSPC) in ran.err
    assert "/dev/full" in ran.err
    assert bad("2/2", refusing, refused(refusing)) in ran.err
    assert ran.out == good("1/2", mmp) + total(1, 1)
    assert mmp.commands == [COMMAND]


@FULL
def test_log_and_streams_that_are_all_lost(install: Install, mmp: SimulatedMMP) -> None:
    """The exit status is all that is left to speak of it."""
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
    """The work goes on, stderr has the lines that are lost, and the exit status speaks of it."""
    with SimulatedMMP() as second, SimulatedMMP() as third:
        installed = install(mmp, second, third)
        ran, torn = run_until_full(installed, line_length(restarted(mmp)) + room)
        assert mmp.commands == second.commands == third.commands == [COMMAND]
    assert ran.status == 1
    assert ran.log == [restarted(mmp)]
    assert lost_lines(ran) == [restarted(second), restarted(third)]
    assert torn in ran.err
    assert len(torn) == room
    assert os.strerror(errno.EFBIG) in ran.err
    assert str(installed.log_file) in ran.err
    assert ran.out == "".join([good("1/3", mmp), good("2/3", second), good("3/3", third), total(3)])


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
    assert ran.out == good("1/3", mmp) + good("3/3", third) + total(2, 1)


@POSIX
@pytest.mark.parametrize(
    "before",
    [
        "whole line\n",
        "line that was cut of",
    ],
)
def test_log_that_is_full_from_the_night_before(
    before: str, install: Install, mmp: SimulatedMMP, refusing: str
) -> None:
    """Whether the disk was full at the end of a line or inside it must make no difference."""
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
    assert str(installed.log_file) in ran.err
    assert os.strerror(errno.EFBIG) in ran.err
    assert ran.out == good("1/2", mmp) + total(1, 1)
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
        assert ran.out == good(places[0], gate) + good(places[-1], mmp) + total(2, ports)
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
    assert ran.out == good("2/2", mmp) + total(1, 1)
    assert ran.status == 1
    assert mmp.commands == [COMMAND]


# ---- Signals -------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], object]) -> None:
    """Look until it is so: for what no event tells of."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


class Stop(threading.Event):
    """The end of a simulated server, which tells when the server begins to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.awaited.set()
        return super().wait(timeout)


class Stalling(SimulatedMMP):
    """A server that falls silent at a stage, and knows when the script has come so far."""

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
        self.stopped.wait()

    def wait_until_reached(self) -> None:
        """Return when the script waits for this server."""
        if self.stage == "connect":
            wait_until(self.is_called)
        else:
            assert self.stop.awaited.wait(PATIENCE)

    def is_called(self) -> bool:
        """Return whether somebody's SYN to this server stays unanswered."""
        table = Path("/proc/net/tcp").read_text().split("\n")[1:]
        called = f"0100007F:{self.port:04X}", "02"  # SYN_SENT
        return any(tuple(row.split()[2:4]) == called for row in table)


STAGES = {  # and whether the command was sent by then
    "connect": False,
    "banner": False,
    "next try": False,
    "login": False,
    "channel": False,
    "exec": True,
    "answer": True,
    "half an answer": True,
}
TOGETHER = [["connect", "banner", "login"], ["channel", "exec", "half an answer"]]
ALONE = [[stage] for stage in STAGES if stage != "half an answer"]


@POSIX
@pytest.mark.parametrize(
    ("name", "stages"),
    [
        pytest.param(name, stages, marks=LINUX if "connect" in stages else ())
        for name in ("SIGINT", "SIGTERM", "SIGHUP")
        for stages in (ALONE + TOGETHER if name != "SIGHUP" else [["answer"]])
    ],
    ids=str,
)
def test_signal(
    name: str, stages: list[str], install: Install, mmp: SimulatedMMP, refusing: str
) -> None:
    """It ends at once, and the log says of every server what is known of it."""
    number = signal.Signals[name]
    with contextlib.ExitStack() as stack:
        stalling = [stack.enter_context(Stalling(stage)) for stage in stages]
        never = stack.enter_context(SimulatedMMP())
        installed = install(mmp, *stalling, never, refusing, pause=10)
        child = installed.start("--parallel", str(len(stages)), launcher=in_a_terminal())
        for server in stalling:
            server.wait_until_reached()
        child.send_signal(number)
        ran = installed.end(child)
        received = [server.commands for server in stalling]
        assert never.connections == 0
    assert ran.seconds < 5
    assert ran.status == {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}[name]
    reasons = ran.log[2:-1:2]
    failures = [line for each in zip(stalling, reasons) for line in failed(*each)]
    ended = ran.log[-1]
    assert ran.log == [restarted(mmp), *failures, ended]
    assert number.name in ended
    assert re.findall(r"[\d.]+:\d+", ended) == [never.address, refusing]
    for stage, reason, commands in zip(stages, reasons, received):
        assert number.name in reason
        assert ("may or may not" in reason) == STAGES[stage]
        assert commands == [COMMAND] * STAGES[stage]
    places = [f"{place}/{len(stages) + 3}" for place in range(1, len(stages) + 2)]
    assert ran.out == good(places[0], mmp) + total(1, len(stages), 2)
    told = [bad(*each) for each in zip(places[1:], stalling, reasons)]
    assert ran.err == "".join([*told, f"{ended}\n"])
    assert mmp.commands == [COMMAND]


@POSIX
def test_nohup_lets_it_go_on_without_its_terminal(install: Install) -> None:
    with Stalling("answer") as server:
        installed = install(server)
        child = installed.start(launcher=("nohup",))
        server.wait_until_reached()
        child.send_signal(signal.SIGHUP)
        child.send_signal(signal.SIGTERM)
        ran = installed.end(child)
    assert ran.status == 143


@POSIX
def test_signal_while_a_success_is_printed(install: Install, mmp: SimulatedMMP) -> None:
    """Nobody reads what is printed; the signal comes then; no other server must be begun."""
    reader, target = os.pipe()
    os.set_blocking(target, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(target, b".")
    os.set_blocking(target, True)
    with Stalling("login") as stalling, SimulatedMMP() as never, os.fdopen(reader, "rb") as printed:
        installed = install(mmp, stalling, never)
        child = installed.start("--parallel", "2", stdout=target)
        os.close(target)
        wait_until(installed.logged)  # which is written before anything is printed
        child.send_signal(signal.SIGTERM)
        out = printed.read().decode().lstrip(".")
        ran = installed.end(child)
        assert never.connections == 0
    assert ran.status == 143
    reason, ended = ran.log[2:]
    assert ran.log == [restarted(mmp), *failed(stalling, reason), ended]
    assert "SIGTERM" in reason
    assert re.findall(r"[\d.]+:\d+", ended) == [never.address]
    assert ran.err == bad("2/3", stalling, reason) + f"{ended}\n"
    assert out.startswith(f"[1/3] {mmp.address} restarted  ")
    assert out.endswith(f"\n{total(1, 1, 1)}")
    assert mmp.commands == [COMMAND]
