"""What only Windows has: Ctrl-C in its console, pythonw.exe, code pages, line ends.

What can be imitated runs everywhere, so that a mistake shows on any computer. The rest of the
tests run on Windows too; what they test is not repeated here.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import demo
from conftest import DOUBT, STAMP, Run, failed, refused, restarted, unstamped
from mmp import MMP, PASSWORD
from steps import answer, in_turn, refusing_address

PATIENCE = 120.0  # seconds for a child, on a busy computer
PYTHONW = Path(sys.executable).with_name("pythonw.exe")
WITH_PYTHONW = pytest.mark.skipif(not PYTHONW.exists(), reason="only Windows has pythonw.exe")
WITH_BREAK = pytest.mark.skipif(not hasattr(signal, "SIGBREAK"), reason="only Windows has SIGBREAK")


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGBREAK", marks=WITH_BREAK)])
def test_ctrl_c_and_ctrl_break(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """They end a run where there is no SIGHUP; the log says what was sent, and who got no turn."""
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with MMP(restart=in_turn(lambda _: signal.raise_signal(number))) as pressing, MMP() as never:
        ran = run([pressing, never])
        assert (pressing.commands, never.connections) == (["webbridge restart"], 0)
    signal.signal(number, before)
    reason = f"Cut off by {name} while waiting for the answer. {DOUBT}"
    ended = f"Ended by {name}. Not attempted: {never.address}"
    assert (ran.status, ran.log) == (128 + number, [*failed(pressing, reason), ended])


def run_without_streams(*arguments: object) -> int:
    """Run pythonw.exe as a scheduled task does, and return its exit status."""
    no_handles: Any = subprocess.STARTUPINFO(dwFlags=subprocess.STARTF_USESTDHANDLES)
    env = {**os.environ, "MMP_PASSWORD": PASSWORD}
    command = [str(PYTHONW), *map(str, arguments)]
    return subprocess.run(command, env=env, timeout=PATIENCE, startupinfo=no_handles).returncode


@WITH_PYTHONW
def test_pythonw_which_has_no_streams(tmp_path: Path) -> None:
    """Nothing can be printed, and the log has it all."""
    seen = tmp_path / "seen"
    code = "import sys; open(sys.argv[1], 'w').write(str([sys.stdin, sys.stdout, sys.stderr]))"
    assert run_without_streams("-c", code, seen) == 0
    assert seen.read_text() == "[None, None, None]"  # otherwise this would prove nothing
    with MMP() as mmp, refusing_address() as refusing:
        script = demo.script_for([mmp.address, refusing], tmp_path)
        script.with_name("webbridge_known_hosts").write_text(f"{mmp.known_hosts_line}\n")
        assert run_without_streams(script, "--verbose") == 1
    log = unstamped((tmp_path / demo.LOG_NAME).read_text("utf-8"))
    assert log == [restarted(mmp), *failed(refusing, refused(refusing))]


@pytest.mark.parametrize(
    ("code_page", "shown"),
    [("cp437", r"Brücke gestört \u969c\u5bb3"), ("cp932", r"Br\xfccke gest\xf6rt 障害")],
    ids=["US", "Japanese"],
)
def test_console_whose_code_page_lacks_a_letter_of_the_answer(
    run: Run, log_file: Path, monkeypatch: pytest.MonkeyPatch, code_page: str, shown: str
) -> None:
    """The console shows the letter's number; the log has the letter, and Windows' line ends.

    Each line ends once, also where one write holds two lines.
    """
    console = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(console, code_page, "strict"))
    monkeypatch.setattr(os, "linesep", "\r\n")
    with MMP(restart=answer("FAILURE: Brücke gestört 障害\n".encode())) as mmp:
        run([mmp])
    lines = [STAMP.sub("", line) for line in log_file.read_bytes().decode().split("\r\n")]
    assert lines == [*failed(mmp, "The server answered: FAILURE: Brücke gestört 障害"), ""]
    printed = console.getvalue().decode(code_page).rstrip("\r\n")
    assert printed.endswith(f"s: The server answered: FAILURE: {shown}")
