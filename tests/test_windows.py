"""What only Windows has: Ctrl-C in its console, pythonw.exe, Notepad's files, code pages.

What can be imitated runs everywhere, so that a mistake shows on any computer. The rest of the
tests run on Windows too; what they test is not repeated here.
"""

from __future__ import annotations

import codecs
import gzip
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paramiko import Channel

import demo
import webbridge_restart
from conftest import Run, failed, refused, restarted, unstamped
from simulated_mmp import PASSWORD, SimulatedMMP, answer, refusing_address

PATIENCE = 120.0  # seconds for a child, on a busy computer
PYTHONW = Path(sys.executable).with_name("pythonw.exe")
WITH_PYTHONW = pytest.mark.skipif(not PYTHONW.exists(), reason="only Windows has pythonw.exe")


# ---- Ctrl-C --------------------------------------------------------------------------------------


def test_ctrl_c_ends_a_run_where_there_is_no_sighup(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log says what was sent, and who got no turn."""
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored, as after &

    with SimulatedMMP() as pressing:

        def press_ctrl_c(_channel: Channel) -> None:
            signal.raise_signal(signal.SIGINT)
            pressing.stopped.wait()

        pressing.restart = press_ctrl_c
        with SimulatedMMP() as never:
            ran = run([mmp, pressing, never])
            assert never.connections == 0
    reason = (
        "Cut off by SIGINT while waiting for the answer. "
        "The restart may or may not have happened: check the Web Bridge before you run this again."
    )
    ended = f"Ended by SIGINT. Not attempted: {never.address}"
    assert ran.log == [restarted(mmp), *failed(pressing, reason), ended]
    assert ran.status == 130
    assert pressing.commands == ["webbridge restart"]


# ---- The interpreter, and where the script is ----------------------------------------------------


def as_saved_by_notepad(text: str) -> bytes:
    """Return the text with a byte order mark, and with Windows' line ends."""
    return codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode()


def run_child(*command: object) -> int:
    """Run a command and return its exit status. pythonw.exe gets no streams, as from a task."""
    how: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    if command[0] == PYTHONW:
        no_handles = subprocess.STARTUPINFO(dwFlags=subprocess.STARTF_USESTDHANDLES)
        how = {"startupinfo": no_handles}
    env = {**os.environ, "MMP_PASSWORD": PASSWORD}
    return subprocess.run([*map(str, command)], env=env, timeout=PATIENCE, **how).returncode


def know_key(script: Path, mmp: SimulatedMMP) -> None:
    known_hosts = script.with_name("webbridge_known_hosts")
    known_hosts.write_text(f"{mmp.known_hosts_line}\n", "utf-8")


@WITH_PYTHONW
def test_pythonw_which_has_no_streams(tmp_path: Path, mmp: SimulatedMMP) -> None:
    """Nothing can be printed, and the log has it all."""
    with refusing_address() as refusing:
        script = demo.script_for([mmp.address, refusing], tmp_path)
        know_key(script, mmp)
        assert run_child(PYTHONW, script, "--verbose") == 1
    log = unstamped(script.with_name(webbridge_restart.LOG_NAME).read_text("utf-8"))
    assert log == [restarted(mmp), *failed(refusing, refused(refusing))]


@WITH_PYTHONW
def test_pythonw_really_has_no_streams(tmp_path: Path) -> None:
    """Otherwise the test before this one would prove nothing."""
    seen = tmp_path / "seen"
    code = "import sys; open(sys.argv[1], 'w').write(str([sys.stdin, sys.stdout, sys.stderr]))"
    assert run_child(PYTHONW, "-c", code, seen) == 0
    assert seen.read_text() == "[None, None, None]"


@pytest.mark.parametrize(
    "folder",
    ["Program Files (x86)  CMS", "Brücken · 橋, it's $HOME; %TEMP%"],
    ids=["spaces", "other letters"],
)
def test_script_in_a_folder_of_any_name_saved_by_notepad(
    folder: str, tmp_path: Path, mmp: SimulatedMMP
) -> None:
    place = tmp_path / folder
    place.mkdir()
    script = demo.script_for([mmp.address], place)
    script.write_bytes(as_saved_by_notepad(script.read_text("utf-8")))
    know_key(script, mmp)
    assert run_child(sys.executable, script, "--verbose") == 0
    log = unstamped((place / webbridge_restart.LOG_NAME).read_text("utf-8"))
    assert log == [restarted(mmp)]


# ---- Files as Notepad writes them ----------------------------------------------------------------


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password.txt"
    file.touch(mode=0o600)
    return file


def test_password_file_that_notepad_wrote(run: Run, mmp: SimulatedMMP, password_file: Path) -> None:
    mmp.password = "pass wörd"
    password_file.write_bytes(as_saved_by_notepad("pass wörd\nsecond line\n"))
    ran = run([mmp], "--password-file", str(password_file))
    assert ran.log == [restarted(mmp)]
    assert mmp.passwords == ["pass wörd"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("mark", [True, False], ids=["with a mark", "without a mark"])
def test_password_file_in_utf_16_is_refused(
    run: Run, mmp: SimulatedMMP, password_file: Path, encoding: str, mark: bool
) -> None:
    """Notepad calls it Unicode, and so does PowerShell's > write it."""
    text = f"\ufeff{PASSWORD}\r\n" if mark else f"{PASSWORD}\r\n"
    password_file.write_bytes(text.encode(encoding))
    ran = run([mmp], "--password-file", str(password_file))
    message = f"The password file {password_file} is not UTF-8. Save it again as UTF-8."
    assert (ran.status, ran.err, ran.log) == (2, f"{message}\n", [message])
    assert mmp.connections == 0


def test_known_hosts_file_that_notepad_wrote(
    run: Run, mmp: SimulatedMMP, known_hosts: Path
) -> None:
    text = f"{mmp.known_hosts_line}\n\n{mmp.known_hosts_line.replace(mmp.host, 'cms2')}\n"
    known_hosts.write_bytes(as_saved_by_notepad(text))
    assert run([mmp]).log == [restarted(mmp)]


# ---- Line ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("line_end", [os.linesep, "\r\n"], ids=["the system's", "Windows'"])
def test_log_has_the_line_ends_of_the_system(
    run: Run,
    mmp: SimulatedMMP,
    log_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    line_end: str,
) -> None:
    """Each line ends once, also where one write holds two lines."""
    monkeypatch.setattr(os, "linesep", line_end)
    with refusing_address() as refusing:
        run([mmp, refusing])
    *lines, rest = log_file.read_bytes().decode().split(line_end)
    messages = [restarted(mmp), *failed(refusing, refused(refusing))]
    assert [line[len("2001-02-03 04:05:06.000000+00:00 ") :] for line in lines] == messages
    assert rest == ""


@pytest.mark.parametrize("name", ["cms.log", "cms.log.gz"])
def test_saved_log_with_both_line_ends(run: Run, tmp_path: Path, name: str) -> None:
    """As it is after a program of Windows appended to a log from an MMP."""
    unix = demo.log_of(140, "20/22")
    windows = demo.log_of(149, "14/17").replace(b"\n", b"\r\n")
    saved = tmp_path / name
    text = unix + windows
    saved.write_bytes(gzip.compress(text) if saved.suffix == ".gz" else text)
    ran = run([], "--sessions", "--from-logs", str(saved))
    assert "\r" not in ran.out
    assert "Leaked: 135 sessions (149 Web Bridge, 14 active CMA).\n" in ran.out
    assert (ran.status, ran.err) == (0, "")


# ---- A console whose code page lacks a letter ----------------------------------------------------


@pytest.mark.parametrize(
    ("code_page", "shown"),
    [
        ("cp1252", r"Brücke gestört \u969c\u5bb3"),
        ("cp437", r"Brücke gestört \u969c\u5bb3"),
        ("cp932", r"Br\xfccke gest\xf6rt 障害"),
        ("cp65001", "Brücke gestört 障害"),
    ],
    ids=["Western", "US", "Japanese", "UTF-8"],
)
def test_console_whose_code_page_lacks_a_letter_of_the_answer(
    run: Run, monkeypatch: pytest.MonkeyPatch, code_page: str, shown: str
) -> None:
    """The console shows the letter's number, and the log has the letter."""
    encoding = "utf-8" if code_page == "cp65001" else code_page
    console = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(console, encoding, "strict"))
    reason = "The server answered: FAILURE: Brücke gestört 障害"
    with SimulatedMMP(restart=answer("FAILURE: Brücke gestört 障害\n".encode())) as mmp:
        ran = run([mmp])
    assert ran.log == failed(mmp, reason)
    printed = console.getvalue().decode(encoding).rstrip("\r\n")
    assert printed.endswith(f"s: The server answered: FAILURE: {shown}")
