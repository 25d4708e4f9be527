"""What is read before the first connection: the password, the known-hosts file, the options."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest.mock import Mock

import paramiko
import pytest

import webbridge_restart
from conftest import Run, restarted
from simulated_mmp import PASSWORD, SimulatedMMP, ed25519_key

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no modes")


def private_file(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def inline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a password into the script, of which a copy that only its owner can read is made."""
    script = Path(private_file(tmp_path / "script.py", webbridge_restart.SCRIPT.read_bytes()))
    monkeypatch.setattr(webbridge_restart, "SCRIPT", script)
    monkeypatch.setattr(webbridge_restart, "MMP_PASSWORD", "inline")
    return script


@pytest.mark.usefixtures("inline")
def test_password_from_the_environment_goes_before_the_file_and_the_constant(
    run: Run, mmp: SimulatedMMP, tmp_path: Path
) -> None:
    run([mmp], "--password-file", private_file(tmp_path / "pw", b"from file"))
    assert mmp.passwords == [PASSWORD]


@pytest.mark.parametrize(
    "content",
    [b"pass word\n", b"pass word\r\nsecond line\n", b"\xef\xbb\xbfpass word", b"pass word"],
)
@pytest.mark.usefixtures("inline")
def test_password_is_the_files_first_line(
    run: Run, mmp: SimulatedMMP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    mmp.password = "pass word"
    monkeypatch.delenv("MMP_PASSWORD")
    ran = run([mmp], "--password-file", private_file(tmp_path / "pw", content))
    assert (ran.status, mmp.passwords) == (0, ["pass word"])


@pytest.mark.usefixtures("inline")
def test_inline_password(run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMP_PASSWORD")
    mmp.password = "inline"
    assert (run([mmp]).status, mmp.passwords) == (0, ["inline"])


def refused(run: Run, servers: list[SimulatedMMP | str], *options: str) -> str:
    """Run what must be refused; return the one sentence that stderr and the log share."""
    ran = run(servers, *options)
    assert (ran.status, ran.out, ran.err) == (2, "", ran.log[0] + "\n")
    return ran.log[0]


@posix
def test_a_password_file_that_others_can_read_is_refused(
    run: Run, mmp: SimulatedMMP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MMP_PASSWORD")
    path = Path(private_file(tmp_path / "pw", PASSWORD.encode()))
    path.chmod(0o640)
    reason = f"Others can read the password in {path}. Run: chmod go-rwx '{path}'"
    assert refused(run, [mmp], "--password-file", str(path)) == reason
    assert mmp.connections == 0


@posix
@pytest.mark.parametrize("environment", [True, False])
def test_an_inline_password_that_others_can_read_is_refused(
    run: Run, mmp: SimulatedMMP, inline: Path, monkeypatch: pytest.MonkeyPatch, environment: bool
) -> None:
    """Also where another one is used: it is in the open all the same."""
    if not environment:
        monkeypatch.delenv("MMP_PASSWORD")
    inline.chmod(0o755)
    reason = f"Others can read the password in {inline}. Run: chmod go-rwx '{inline}'"
    assert refused(run, [mmp]) == reason
    assert mmp.connections == 0


@pytest.mark.parametrize("content", [b"", b"\nsecret on line 2\n", b"\xff\xfes\0e\0c\0"])
def test_a_password_file_without_a_password_is_refused(
    run: Run, mmp: SimulatedMMP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.delenv("MMP_PASSWORD")
    path = private_file(tmp_path / "pw", content)
    sentence = f"{path} is empty or no text. README.md names the ways to set it."
    assert refused(run, [mmp], "--password-file", path) == sentence


def test_a_missing_password_file_is_refused(
    run: Run, mmp: SimulatedMMP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MMP_PASSWORD")
    path = tmp_path / "none"
    reason = f"Cannot use {path}: No such file or directory."
    assert refused(run, [mmp], "--password-file", str(path)) == reason


def test_no_password_is_refused(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MMP_PASSWORD")
    assert refused(run, [mmp]).startswith("MMP_PASSWORD is empty")


def test_ask_password_asks_on_the_terminal(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: f"typed at {prompt}")
    mmp.password = "typed at MMP password of admin: "
    assert run([mmp], "--ask-password").status == 0
    assert mmp.passwords == [mmp.password]


@pytest.mark.parametrize(
    "typed", [EOFError(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")]
)
def test_nothing_typed_at_the_password_prompt(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch, typed: Exception
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", Mock(side_effect=typed))
    assert refused(run, [mmp], "--ask-password").startswith("MMP_PASSWORD is empty")


def test_ask_password_without_a_terminal_is_refused(run: Run, mmp: SimulatedMMP) -> None:
    reason = "--ask-password finds no terminal to ask on."
    assert refused(run, [mmp], "--ask-password") == reason


def test_ctrl_c_at_the_password_prompt(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", Mock(side_effect=KeyboardInterrupt))
    ran = run([mmp], "--ask-password")
    assert (ran.status, ran.err, ran.log, mmp.connections) == (130, "", [], 0)


def hashed(mmp: SimulatedMMP) -> str:
    name, kind, key = mmp.known_hosts_line.split()
    return f"{paramiko.HostKeys.hash_host(name)} {kind} {key}"


@pytest.mark.parametrize("form", ["plain", "hashed", "list", "comment", "tabs"])
def test_known_hosts_forms(run: Run, mmp: SimulatedMMP, known_hosts: Path, form: str) -> None:
    name, kind, key = mmp.known_hosts_line.split()
    known_hosts.write_text(
        {
            "plain": f"\ufeff{name} {kind} {key}\r\n",
            "hashed": hashed(mmp),
            "list": f"cms1.example.com,{name},10.0.0.1 {kind} {key}",
            "comment": f"# MMPs\n\n{name} {kind} {key} the first of them\n",
            "tabs": f"{name}\t{kind}  {key}\n10.0.0.1 ssh-dss AAAAB3NzaC1kc3M=\n",
        }[form],
        encoding="utf-8",
    )
    assert run([mmp]).log == [restarted(mmp)]


@pytest.mark.parametrize(
    "line",
    [
        "10.0.0.1",
        "10.0.0.1 ssh-ed25519",
        "10.0.0.1 ssh-ed25519 AAAA!",
        "10.0.0.1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==",
        "@revoked 10.0.0.1 ssh-ed25519 AAAA",
        "@cert-authority *.example.com ssh-rsa AAAA",
        "|1|bad|hash KEY",
        "|1| KEY",
    ],
)
def test_an_unreadable_known_hosts_line_is_named(
    run: Run, mmp: SimulatedMMP, known_hosts: Path, line: str
) -> None:
    key = ed25519_key()
    text = line.replace("KEY", f"{key.get_name()} {key.get_base64()}")
    known_hosts.write_text(f"{mmp.known_hosts_line}\n# comment\n{text}\n")
    assert refused(run, [mmp]) == (
        f"{known_hosts}, line 3, is no host key that can be used. Delete the line; "
        "--check --accept-new-host-keys stores that server's key again."
    )
    assert mmp.connections == 0


def test_known_hosts_that_is_a_directory_is_refused(
    run: Run, mmp: SimulatedMMP, tmp_path: Path
) -> None:
    reason = f"Cannot use {tmp_path}: Is a directory."
    assert refused(run, [mmp], "--known-hosts", str(tmp_path)) == reason


@pytest.mark.parametrize(
    "options",
    [
        ["--timeout", "0"],
        ["--timeout", "nan"],
        ["--timeout", "1e9"],
        ["--parallel", "0"],
        ["--parallel", "101"],
    ],
)
def test_limits_out_of_range_are_refused(run: Run, mmp: SimulatedMMP, options: list[str]) -> None:
    sentence = "--timeout takes up to 86400 seconds, --parallel up to 100 servers."
    assert refused(run, [mmp], *options) == sentence


@pytest.mark.parametrize("option", ["--if-leaked", "--max-active"])
def test_conditions_below_zero_are_refused(run: Run, mmp: SimulatedMMP, option: str) -> None:
    sentence = "--if-leaked and --max-active take no number below 0."
    assert refused(run, [mmp], option, "-1") == sentence


@pytest.mark.parametrize(
    "options", [["--timeout", "x"], ["--bogus"], ["--acc"], ["--check", "--sessions"]]
)
def test_mistyped_options_end_with_2(options: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        webbridge_restart.main(options)
    assert ended.value.code == 2


def test_a_script_that_begins_with_a_byte_order_mark(
    run: Run, mmp: SimulatedMMP, inline: Path
) -> None:
    """As an editor on Windows may leave it."""
    inline.write_bytes(b"\xef\xbb\xbf" + inline.read_bytes())
    assert run([mmp]).status == 0


@pytest.mark.parametrize(
    ("module", "found"), [(None, "none"), (Mock(__version__="2.12.0"), "2.12.0")]
)
def test_a_python_without_paramiko_is_told_what_to_install(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch, module: object, found: str
) -> None:
    monkeypatch.setattr(webbridge_restart, "paramiko", module)
    assert refused(run, [mmp]) == (
        f"This needs paramiko 4.0 or newer, and finds {found}. "
        f'Run: "{sys.executable}" -m pip install "paramiko>=4.0"'
    )


@posix
def test_a_log_that_is_a_pipe_is_refused(run: Run, mmp: SimulatedMMP, tmp_path: Path) -> None:
    """To open it for writing would wait for its reader."""
    os.mkfifo(tmp_path / "pipe")
    ran = run([mmp], "--log-file", str(tmp_path / "pipe"))
    assert (ran.status, ran.err) == (2, f"Cannot use {tmp_path / 'pipe'}: it is a pipe.\n")
    assert mmp.connections == 0


def test_help_names_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        webbridge_restart.main(["--help"])
    assert ended.value.code == 0
    assert "2 nothing was attempted" in " ".join(capsys.readouterr().out.split())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        webbridge_restart.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.endswith(f" {webbridge_restart.__version__}\n")


def test_the_delivered_placeholders_are_refused_with_what_to_edit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    log = tmp_path / "log.txt"
    assert webbridge_restart.main(["--log-file", str(log)]) == 2
    sentence = (
        "WEBBRIDGES lists 127.0.0.1 as 1 and as 2. Edit WEBBRIDGES at the top of "
        'webbridge_restart.py: a line a server, such as 1: "10.48.79.194", '
        'with "cms2.example.com:2222" or "[2001:db8::3]" as well.\n'
    )
    assert capsys.readouterr().err == sentence
    assert log.read_text().endswith(f"+00:00 {sentence}")
