"""What only Windows has: Ctrl-C in its console, pythonw.exe, Notepad's files, code pages.

What can be imitated runs everywhere, so that a mistake shows on any computer. The rest of the
tests run on Windows too; what they test is not repeated here.
"""

from __future__ import annotations

import codecs
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import demo
from conftest import DOUBT, Run, failed, refused, restarted, unstamped
from mmp import MMP, PASSWORD
from steps import answer, in_turn, refusing_address

PATIENCE = 120.0  # seconds for a child, on a busy computer
PYTHONW = Path(sys.executable).with_name("pythonw.exe")
WITH_PYTHONW = pytest.mark.skipif(not PYTHONW.exists(), reason="only Windows has pythonw.exe")
WITH_BREAK = pytest.mark.skipif(not hasattr(signal, "SIGBREAK"), reason="only Windows has SIGBREAK")


@pytest.fixture
def mmp() -> Iterator[MMP]:
    with MMP() as server:
        yield server


# ---- The console's signals -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGBREAK", marks=WITH_BREAK)])
def test_ctrl_c_and_ctrl_break(
    name: str, run: Run, mmp: MMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end a run where there is no SIGHUP; the log says what was sent, and who got no turn."""
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with MMP(restart=in_turn(lambda _: signal.raise_signal(number))) as pressing, MMP() as never:
        ran = run([mmp, pressing, never])
        assert (pressing.commands, never.connections) == (["webbridge restart"], 0)
    signal.signal(number, before)
    reason = f"Cut off by {name} while waiting for the answer. {DOUBT}"
    ended = f"Ended by {name}. Not attempted: {never.address}"
    assert ran.log == [restarted(mmp), *failed(pressing, reason), ended]
    assert ran.status == 128 + number


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


def know_key(script: Path, mmp: MMP) -> None:
    known_hosts = script.with_name("webbridge_known_hosts")
    known_hosts.write_text(f"{mmp.known_hosts_line}\n", "utf-8")


@WITH_PYTHONW
def test_pythonw_which_has_no_streams(tmp_path: Path, mmp: MMP) -> None:
    """Nothing can be printed, and the log has it all."""
    seen = tmp_path / "seen"
    code = "import sys; open(sys.argv[1], 'w').write(str([sys.stdin, sys.stdout, sys.stderr]))"
    assert run_child(PYTHONW, "-c", code, seen) == 0
    assert seen.read_text() == "[None, None, None]"  # otherwise this would prove nothing
    with refusing_address() as refusing:
        script = demo.script_for([mmp.address, refusing], tmp_path)
        know_key(script, mmp)
        assert run_child(PYTHONW, script, "--verbose") == 1
    log = unstamped((tmp_path / demo.LOG_NAME).read_text("utf-8"))
    assert log == [restarted(mmp), *failed(refusing, refused(refusing))]


@pytest.mark.parametrize(
    "folder",
    ["Program Files (x86)  CMS", "Brücken · 橋, it's $HOME; %TEMP%"],
    ids=["spaces", "other letters"],
)
def test_script_in_a_folder_of_any_name_saved_by_notepad(
    folder: str, tmp_path: Path, mmp: MMP
) -> None:
    place = tmp_path / folder
    place.mkdir()
    script = demo.script_for([mmp.address], place)
    script.write_bytes(as_saved_by_notepad(script.read_text("utf-8")))
    know_key(script, mmp)
    assert run_child(sys.executable, script, "--verbose") == 0
    assert unstamped((place / demo.LOG_NAME).read_text("utf-8")) == [restarted(mmp)]


# ---- Files as Notepad writes them, and line ends -------------------------------------------------


def test_files_that_notepad_wrote(run: Run, known_hosts: Path, tmp_path: Path) -> None:
    password_file = tmp_path / "password.txt"
    password_file.touch(mode=0o600)
    password_file.write_bytes(as_saved_by_notepad("pass wörd\nsecond line\n"))
    with MMP(password="pass wörd") as mmp:
        text = f"{mmp.known_hosts_line}\n\n{mmp.known_hosts_line.replace(mmp.host, 'cms2')}\n"
        known_hosts.write_bytes(as_saved_by_notepad(text))
        ran = run([mmp], "--password-file", str(password_file))
    assert (ran.status, ran.log, mmp.passwords) == (0, [restarted(mmp)], ["pass wörd"])


@pytest.mark.parametrize("line_end", [os.linesep, "\r\n"], ids=["the system's", "Windows'"])
def test_log_has_the_line_ends_of_the_system(
    run: Run, mmp: MMP, log_file: Path, monkeypatch: pytest.MonkeyPatch, line_end: str
) -> None:
    """Each line ends once, also where one write holds two lines."""
    monkeypatch.setattr(os, "linesep", line_end)
    with refusing_address() as refusing:
        run([mmp, refusing])
    *lines, rest = log_file.read_bytes().decode().split(line_end)
    messages = [restarted(mmp), *failed(refusing, refused(refusing))]
    assert [line[len("2001-02-03 04:05:06.000000+00:00 ") :] for line in lines] == messages
    assert rest == ""


# ---- A console whose code page lacks a letter ----------------------------------------------------


@pytest.mark.parametrize(
    ("code_page", "shown"),
    [("cp437", r"Brücke gestört \u969c\u5bb3"), ("cp932", r"Br\xfccke gest\xf6rt 障害")],
    ids=["US", "Japanese"],
)
def test_console_whose_code_page_lacks_a_letter_of_the_answer(
    run: Run, monkeypatch: pytest.MonkeyPatch, code_page: str, shown: str
) -> None:
    """The console shows the letter's number, and the log has the letter."""
    console = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(console, code_page, "strict"))
    with MMP(restart=answer("FAILURE: Brücke gestört 障害\n".encode())) as mmp:
        ran = run([mmp])
    assert ran.log == failed(mmp, "The server answered: FAILURE: Brücke gestört 障害")
    printed = console.getvalue().decode(code_page).rstrip("\r\n")
    assert printed.endswith(f"s: The server answered: FAILURE: {shown}")
