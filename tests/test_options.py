"""The options: which go together, within which limits, and what those that only look do.

Combinations and limits are tables: the options, the exit status, and the words of the refusal. The
rehearsal, --check with conditions, runs over real SSH. What a single option does is in the file of
its subject: restarts and checks in test_job.py, counting in test_sessions.py, files and the
password in test_setup.py.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

import webbridge_restart
from conftest import Run, failed
from simulated_mmp import PASSWORD, SETTINGS, SimulatedMMP, answer

NO_FILE = " is not a file; SERVER is not allowed with --from-logs"
RESTART, CHECK = "webbridge restart", "webbridge"
SAVED = "cms1.log"


@pytest.fixture(autouse=True)
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A saved log in the current folder."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / SAVED
    file.write_bytes(log_of(20, 3))
    return file


def log_of(sessions: int, active: int) -> bytes:
    """Return the end of an MMP's log, logged just now."""
    now = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M:%S}"
    stats = f'{{"CMA": "{active}/999"}}'
    return (
        f"{now} user.info cms1 webbridge: INFO : [DEBUGGING] Stats {sessions}, c:1, d:1\n"
        f"{now} user.info cms1 host:server: INFO : STATS: {stats}\n"
    ).encode()


def refusal(capsys: pytest.CaptureFixture[str], options: Sequence[str]) -> str:
    """Return what argparse says of options that it refuses."""
    with pytest.raises(SystemExit) as ended:
        webbridge_restart.main(options)
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    usage, _, sentence = printed.err.partition(": error: ")
    assert usage.startswith("usage: ")
    return sentence


# ---- Combinations --------------------------------------------------------------------------------

REFUSED = {
    "--check --sessions": "argument --sessions: not allowed with argument --check",
    "--sessions --check": "argument --check: not allowed with argument --sessions",
    "--sessions 1": "SERVER is not allowed with --sessions",
    "1 --sessions": "SERVER is not allowed with --sessions",
    "--sessions --if-leaked 1": "--if-leaked is not allowed with --sessions",
    "--sessions --if-leaked 0": "--if-leaked is not allowed with --sessions",
    "--sessions --max-active 0": "--max-active is not allowed with --sessions",
    f"--from-logs {SAVED}": "--from-logs is only allowed with --sessions",
    f"--check --from-logs {SAVED}": "--check is not allowed with --from-logs",
    f"--if-leaked 0 --from-logs {SAVED}": "--if-leaked is not allowed with --from-logs",
    f"--max-active 0 --from-logs {SAVED}": "--max-active is not allowed with --from-logs",
    f"1 --from-logs {SAVED}": "SERVER is not allowed with --from-logs",
    f"--sessions --check --from-logs {SAVED}": "argument --check: not allowed with argument "
    "--sessions",
    f"--sessions --if-leaked 0 --from-logs {SAVED}": "--if-leaked is not allowed with --from-logs",
    f"--sessions --max-active 0 --from-logs {SAVED}": "--max-active is not allowed with "
    "--from-logs",
    f"1 --sessions --from-logs {SAVED}": "SERVER is not allowed with --from-logs",
    "--quiet --verbose": "argument -v/--verbose: not allowed with argument -q/--quiet",
    "-v -q": "argument -q/--quiet: not allowed with argument -v/--verbose",
    "--from-logs": "argument --from-logs: expected at least one argument",
    "--parallel": "argument --parallel: expected one argument",
    "--accept": "unrecognized arguments: --accept",
    "--bogus": "unrecognized arguments: --bogus",
}


@pytest.mark.parametrize("options", REFUSED)
def test_options_that_do_not_go_together(
    capsys: pytest.CaptureFixture[str], log_file: Path, options: str
) -> None:
    assert refusal(capsys, ["--log-file", str(log_file), *options.split()]) == (
        f"{REFUSED[options]}\n"
    )
    assert not log_file.exists()


@pytest.mark.parametrize("options", [["--sessions", "--from-logs", SAVED], ["--from-logs"]])
def test_server_after_a_saved_log_is_not_taken_for_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str]
) -> None:
    sentence = f"argument --from-logs: {tmp_path / '1'}{NO_FILE}\n"
    assert refusal(capsys, [*options, "1"]) == sentence


def test_folder_is_no_saved_log(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--sessions", "--from-logs", SAVED, "."]
    sentence = f"argument --from-logs: {tmp_path}{NO_FILE}\n"
    assert refusal(capsys, options) == sentence


def test_saved_log_that_cannot_be_looked_at(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its name is too long. A file in a folder that is closed to this user is like it."""
    path = tmp_path / ("a" * 300)
    with pytest.raises(OSError) as raised:
        path.stat()
    problem = f"cannot read {path}: {raised.value.strerror}."
    if isinstance(raised.value, FileNotFoundError):  # as Windows may see it
        problem = f"{path}{NO_FILE}"
    sentence = f"argument --from-logs: {problem}\n"
    assert refusal(capsys, ["--sessions", "--from-logs", str(path)]) == sentence


Commands = list[str]
NOTHING: Commands = []
ASKED, RESTARTED = [CHECK], [RESTART]

ALLOWED = {
    "": (RESTARTED, 1),
    "1": (RESTARTED, 1),
    "1 --check": (ASKED, 1),
    "--check --verbose --parallel 2": (ASKED, 1),
    "--sessions": (NOTHING, 1),
    "--sessions --quiet --timeout 30": (NOTHING, 1),
    "--sessions --accept-new-host-keys": (NOTHING, 1),
    "--if-leaked 17": (RESTARTED, 2),
    "--if-leaked 17 --max-active 3 1": (RESTARTED, 2),
    "--if-leaked 18": (NOTHING, 1),
    "--max-active 0": (NOTHING, 1),
    "--check --if-leaked 17": (ASKED, 2),
    "--check --if-leaked 18": (ASKED, 2),
    "1 --check --max-active 0 --quiet": (ASKED, 2),
    f"--sessions --from-logs {SAVED}": (NOTHING, 0),
    f"--sessions --from-logs {SAVED} {SAVED} --quiet": (NOTHING, 0),
}


@pytest.mark.parametrize("options", ALLOWED)
def test_options_that_go_together(run: Run, mmp: SimulatedMMP, options: str) -> None:
    """Each way to run, what it sends, and how often it logs in."""
    mmp.log = log_of(20, 3)
    commands, logins = ALLOWED[options]
    ran = run([mmp], *options.split())
    logs = "--check" not in options and "--sessions" not in options
    assert (ran.status, ran.err) == (0, "")
    assert (mmp.commands, mmp.passwords) == (commands, [PASSWORD] * logins)
    assert len(ran.log) == logs


# ---- Limits --------------------------------------------------------------------------------------

SECONDS = "must be more than 0 and at most 86400 seconds"
SERVERS = "must be from 1 to 100 servers"
SESSIONS = "must be 0 or more sessions"


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        *[("--timeout", value, SECONDS) for value in ("0", "-1", "86400.1", "1e9", "nan", "inf")],
        *[("--timeout", value, SECONDS) for value in ("x", "", "60s", "1,5", "0x10")],
        *[("--parallel", value, SERVERS) for value in ("0", "101", "-1", "1.5", "all", "")],
        *[("--if-leaked", value, SESSIONS) for value in ("-1", "1.5", "x", "", "20,")],
        *[("--max-active", value, SESSIONS) for value in ("-1", "1.5", "x", "", "nan")],
    ],
)
def test_value_outside_the_limits(
    capsys: pytest.CaptureFixture[str], option: str, value: str, sentence: str
) -> None:
    """The number may stand behind a space or behind an equals sign."""
    expected = f"argument {option}: {sentence}, not {value!r}\n"
    assert refusal(capsys, [f"{option}={value}"]) == expected
    assert refusal(capsys, [option, value]) == expected


@pytest.mark.parametrize(
    ("option", "name", "value", "number"),
    [
        ("--timeout", "timeout", "0.001", 0.001),
        ("--timeout", "timeout", "86400", 86400),
        ("--parallel", "parallel", "1", 1),
        ("--parallel", "parallel", "100", 100),
        ("--if-leaked", "if_leaked", "0", 0),
        ("--if-leaked", "if_leaked", "1000000", 1_000_000),
        ("--max-active", "max_active", "0", 0),
        ("--max-active", "max_active", "1000000", 1_000_000),
    ],
)
def test_value_at_the_limits(option: str, name: str, value: str, number: float) -> None:
    options = webbridge_restart.parse_options([option, value])
    assert getattr(options, name) == number


# ---- A rehearsal: --check with conditions --------------------------------------------------------


def table(*rows: tuple[SimulatedMMP, str, str]) -> str:
    """Return the table of these servers: sessions, and active and most CMA sessions."""
    width = max(len(server.address) for server, _, _ in rows)
    text = f"{'Server':{width}}  Web Bridge  Before end  CMA    Before end  Log ends\n"
    for server, sessions, active in rows:
        assert isinstance(server.log, bytes)
        ends = server.log[: len("2026-06-20 21:16:00")].decode()
        name = f"{server.address:{width}}"
        text += f"{name}  {sessions:10}  0 min       {active}  0 min       {ends}\n"
    return text


def after_the_check(out: str, ready: str) -> str:
    """Return what was printed after the servers were found ready."""
    _, found, rest = out.partition(f"\n{ready} ready.\n")
    assert found
    return rest


BUSY = "7 active sessions, more than --max-active 0; 33 leaked sessions"
FEW = "7 active sessions; 33 leaked sessions, fewer than --if-leaked 34"


@pytest.mark.parametrize(
    ("options", "would"),
    [
        (["--if-leaked", "33"], "A run now would restart 2 servers."),
        (["--if-leaked", "33", "--max-active", "7"], "A run now would restart 2 servers."),
        (["--max-active", "7", "--parallel", "2", "1"], "A run now would restart 1 server."),
        (["--max-active", "0"], f"A run now would restart nothing: {BUSY}."),
        (["--if-leaked", "34"], f"A run now would restart nothing: {FEW}."),
    ],
    ids=str,
)
def test_rehearsal_does_all_but_the_restart(
    run: Run, mmp: SimulatedMMP, log_file: Path, options: list[str], would: str
) -> None:
    """Chosen servers are asked for their settings. All servers are counted."""
    with SimulatedMMP(log=log_of(10, 2)) as other:
        mmp.log = log_of(30, 5)
        ran = run([mmp, other], *options, "--check")
        asked = 1 if options[-1] == "1" else 2
        ready = "1 of 1 server" if asked == 1 else "2 of 2 servers"
        assert after_the_check(ran.out, ready) == (
            table((mmp, "30", "5/999"), (other, "10", "2/999"))
            + "Leaked: 33 sessions (40 Web Bridge, 7 active CMA).\n"
            + f"{webbridge_restart.CAUTIONS}\n{would}\n"
        )
        assert (ran.status, ran.err) == (0, "")
        assert (mmp.commands, mmp.passwords) == ([CHECK], [PASSWORD] * 2)
        assert (other.commands, other.passwords) == ([CHECK] * (asked - 1), [PASSWORD] * asked)
    assert not log_file.exists()


@pytest.mark.parametrize("options", [["--max-active", "3"], ["--max-active", "2"]], ids=str)
def test_line_of_the_schedule_does_what_its_rehearsal_said(
    run: Run, mmp: SimulatedMMP, options: list[str]
) -> None:
    mmp.log = log_of(20, 3)
    rehearsed = run([mmp], *options, "--check").out.splitlines()[-1]
    ran = run([mmp], *options)
    did = ran.log[0].replace("Not restarted", "nothing")
    if mmp.commands[-1] == RESTART:
        did = "1 server."
    assert rehearsed == f"A run now would restart {did}"


def test_quiet_rehearsal_prints_the_figures_and_what_a_run_would_do(
    run: Run, mmp: SimulatedMMP
) -> None:
    mmp.log = log_of(20, 3)
    assert run([mmp], "--check", "--if-leaked", "1", "-q").out == (
        table((mmp, "20", "3/999"))
        + "Leaked: 17 sessions (20 Web Bridge, 3 active CMA).\n"
        + "A run now would restart 1 server.\n"
    )


def test_rehearsal_that_cannot_count(run: Run, mmp: SimulatedMMP, log_file: Path) -> None:
    """The table has the rows that there are, and the sentence says what is missing."""
    with SimulatedMMP(log=b"no log") as other:
        mmp.log = log_of(20, 3)
        ran = run([mmp, other], "--check", "--if-leaked", "1")
        reason = "The log has no line that begins with a time."
        assert ran.err == (
            f"Cannot count the leaked sessions. {other.address}: {reason} "
            "A run now would restart nothing.\n"
        )
        heading, counted, not_counted = after_the_check(ran.out, "2 of 2 servers").splitlines()
        assert heading.split() == webbridge_restart.draw_table([]).split()
        assert counted.split()[:2] == [mmp.address, "20"]
        assert not_counted.split()[0] == other.address
        assert not_counted.endswith(f"Not counted: {reason}")
        assert (ran.status, mmp.commands, other.commands) == (1, [CHECK], [CHECK])
    assert not log_file.exists()


@pytest.mark.parametrize(
    ("settings", "password", "commands"),
    [
        pytest.param(SETTINGS, "another", NOTHING, id="login refused"),
        pytest.param(SETTINGS.replace(b"true", b"false"), PASSWORD, ASKED, id="not enabled"),
    ],
)
def test_server_that_is_not_ready_is_not_logged_in_to_a_second_time(
    run: Run, mmp: SimulatedMMP, settings: bytes, password: str, commands: list[str]
) -> None:
    """A second refusal could lock the account."""
    mmp.log = log_of(20, 3)
    with SimulatedMMP(webbridge=answer(settings), password=password, log=log_of(1, 1)) as bad:
        ran = run([mmp, bad], "--check", "--if-leaked", "1")
        assert ran.err.startswith(f"[2/2] {bad.address} FAILED after ")
        assert ran.err.count("\n") == 1
        assert (bad.commands, bad.passwords, bad.connections) == (commands, [PASSWORD], 1)
    assert ran.out.splitlines()[-1] == "1 of 2 servers ready."
    assert (ran.status, mmp.passwords) == (1, [PASSWORD])


# ---- Quiet ---------------------------------------------------------------------------------------


def test_quiet_sessions_prints_the_table_and_the_sum(run: Run, mmp: SimulatedMMP) -> None:
    mmp.log = log_of(149, 3)
    ran = run([mmp], "--quiet", "--sessions")
    figures = table((mmp, "149 FULL", "3/999"))
    assert ran.out == f"{figures}Leaked: 146 sessions (149 Web Bridge, 3 active CMA).\n"
    assert (ran.status, ran.err) == (0, "")


def test_quiet_sessions_prints_the_table_even_if_it_cannot_be_summed(
    run: Run, mmp: SimulatedMMP
) -> None:
    ran = run([mmp], "-q", "--sessions")
    reason = "The log has no line that begins with a time."
    assert ran.out.splitlines()[1].endswith(f"Not counted: {reason}")
    assert ran.err == f"Cannot count the leaked sessions. {mmp.address}: {reason}\n"
    assert (ran.status, ran.out.count("\n")) == (1, 2)


def test_quiet_conditional_run_prints_failures_only(run: Run, mmp: SimulatedMMP) -> None:
    mmp.log = log_of(20, 3)
    mmp.restart = answer(b"FAILURE: no\n")
    ran = run([mmp], "-q", "--if-leaked", "1")
    assert ran.log == failed(mmp, "The server answered: FAILURE: no")
    assert (ran.out, ran.err.count("\n")) == ("", 1)


# ---- Help ----------------------------------------------------------------------------------------


def printed_by(capsys: pytest.CaptureFixture[str], option: str) -> str:
    with pytest.raises(SystemExit) as ended:
        webbridge_restart.main([option])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def test_help_fits_into_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = printed_by(capsys, "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert re.findall(r"(?m)^  (?:-\w, )?(--[\w-]+)", text) == [
        *["--help", "--check", "--sessions", "--from-logs", "--if-leaked", "--max-active"],
        *["--password-file", "--ask-password", "--known-hosts", "--accept-new-host-keys"],
        *["--timeout", "--parallel", "--log-file", "--quiet", "--verbose", "--version"],
    ]


def help_of(text: str, option: str) -> str:
    """Return what the help says of an option, as one line."""
    after = text.partition("\nwhat to do:\n")[2]
    found = re.search(rf"(?m)^  (?:-\w, )?{option}\b(?:.*\n)(?: {{20}}.*\n)*", after)
    assert found
    return " ".join(found[0].split())


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("SERVER", "(default: all of them)"),
        ("--known-hosts", "(default: webbridge_known_hosts beside the script)"),
        ("--log-file", "(default: webbridge_restart_logs.txt beside the script)"),
        ("--timeout", "(default: 60)"),
        ("--parallel", "(default: 1)"),
        ("--accept-new-host-keys", "without --check, the run then goes on and restarts"),
        (
            "--ask-password",
            "After it come --password-file, the environment variable MMP_PASSWORD, and "
            "MMP_PASSWORD in the script",
        ),
    ],
)
def test_help_says_what_cannot_be_guessed(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    words: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert help_of(printed_by(capsys, "--help"), option).endswith(words)


def test_defaults_are_what_the_help_says() -> None:
    options = webbridge_restart.parse_options([])
    beside = webbridge_restart.SCRIPT.parent
    assert options.known_hosts == beside / "webbridge_known_hosts"
    assert options.log_file == beside / "webbridge_restart_logs.txt"
    assert (options.servers, options.timeout, options.parallel) == ([], 60, 1)


def test_help_lists_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed_by(capsys, "--help").partition("Exit status:\n")[2]
    statuses = re.findall(r"(?m)^  (\d+(?:, \d+)*) {2,}\S", text)
    assert statuses == ["0", "1", "2", "130, 143, 129"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    version = webbridge_restart.__version__
    assert printed_by(capsys, "--version").endswith(f" {version}\n")
