"""Real SSH servers on loopback, Debian's sshd and dropbear, and accounts that only they know.

They run in namespaces of their own (for mounts and for processes), with a copy of /etc that has the
accounts. So nothing of the computer changes. When the pipe to the first of these processes closes,
also because the tests were killed, Linux ends them all, and accounts and copy are gone.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

USERNAME, EXPIRED = "webbridge-test", "webbridge-expired"  # the password of the second has expired
HOME = "/mnt/home"  # as the servers see it
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
SERVERS = ("sshd", "ssh-keygen", "dropbear", "dropbearkey")
TOOLS = ("unshare", "nsenter", "mount", "useradd", "chpasswd", "chage", "kill")
SECONDS_TO_START = 20.0

# Run as root in the namespaces, with the home and the program kill as arguments.
SET_UP = f"""
exec 3>&1 >&2
mount -t tmpfs tmpfs /mnt
cp -a /etc /mnt/etc
mount --bind /mnt/etc /etc
mount -t tmpfs tmpfs /run  # sshd wants a folder there, and nothing there should tell of accounts
mkdir -p /run/sshd {HOME}
mount --bind "$1" {HOME}
for name in {USERNAME} {EXPIRED}; do
  useradd --no-create-home --home-dir {HOME} --shell {HOME}/shell $name
  echo "$name:$PASSWORD" | chpasswd
done
chage --lastday 0 {EXPIRED}
chown {USERNAME} {HOME}
echo {HOME}/shell >>/etc/shells  # dropbear refuses other shells
printf '%s required pam_unix.so\n' auth account password session >/etc/pam.d/sshd
install -m 4755 "$2" /mnt/kill  # root's rights for the account: dropbear's processes are root's
echo ready >&3
exec cat >/dev/null  # until the pipe from the tests closes
"""

# The account's shell. A server starts it as: shell -c COMMAND
SHELL = f"""#!/bin/sh
case $2 in *sftp-server) exec "$2" ;; esac
echo "$2" >>{HOME}/commands
drop_connection() {{ exec /mnt/kill -9 "$PPID"; }}
. {HOME}/snippet
"""

LOGIN = re.compile(r"Accepted \S+ for|Failed \S+ for|Password auth succeeded|Bad password attempt")


def find_tool(name: str) -> str:
    """Return the full path of a program, which sshd needs of itself; empty if it is missing."""
    return shutil.which(name, path=PATH) or ""


def why_not() -> str:
    """Return why the servers cannot run here, in one sentence; empty if they can."""
    if sys.platform != "linux":
        return "The real servers need Linux."
    if os.geteuid() != 0:
        return "Only root can give the real servers an account of their own."
    missing = [name for name in SERVERS + TOOLS if not find_tool(name)]
    if missing:
        return f"Install {', '.join(missing)} (on Debian: openssh-server and dropbear-bin)."
    unshare = [find_tool("unshare"), "--mount", "--pid", "--fork", "true"]
    if subprocess.run(unshare, stderr=subprocess.DEVNULL).returncode != 0:
        return "Here root is not allowed to make namespaces, as in many containers."
    return ""


@dataclass(frozen=True)
class RealServer:
    """One server that runs, and what it says about logins."""

    address: str
    known_hosts_line: str
    messages: Path

    def logins(self) -> list[str]:
        """Return what the server said about each password that it got."""
        return LOGIN.findall(self.messages.read_text())


class RealServers:
    """The namespaces, the account, and the servers that know it. Use it in a with statement."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.password = secrets.token_urlsafe()
        self.home.mkdir()
        self.home.chmod(0o755)
        (self.home / "shell").write_text(SHELL)
        (self.home / "shell").chmod(0o755)
        unshare = [find_tool("unshare"), "--mount", "--mount-proc", "--pid", "--fork"]
        set_up = ["--kill-child", "sh", "-euc", SET_UP, "sh", str(self.home), find_tool("kill")]
        self.first = subprocess.Popen(
            [*unshare, *set_up],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PATH": PATH, "PASSWORD": self.password},
        )
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> RealServers:
        assert self.first.stdout and self.first.stdout.readline() == b"ready\n"
        questions = ["PasswordAuthentication=no", "KbdInteractiveAuthentication=yes"]
        self.servers = {
            "sshd": self.sshd("sshd", ["UsePAM=no", "Subsystem=sftp internal-sftp"]),
            "sshd that asks": self.sshd("sshd that asks", ["UsePAM=yes", *questions]),
            "dropbear": self.dropbear(),
        }
        return self

    def __exit__(self, *_: object) -> None:
        self.first.communicate()  # closes the pipe, and so ends all that runs in the namespaces
        for process in self.processes:
            process.wait()

    def sshd(self, name: str, settings: list[str]) -> RealServer:
        file = str(self.folder / f"{name}_ed25519")
        make_key = [find_tool("ssh-keygen"), "-q", "-N", "", "-t", "ed25519", "-f", file]
        subprocess.run(make_key, check=True)
        command = [find_tool("sshd"), "-D", "-e", "-f", "/dev/null", "-h", file]
        for setting in ("PidFile=none", "UseDNS=no", *settings):
            command += ["-o", setting]
        host_key = Path(f"{file}.pub").read_text().strip()
        return self.start(name, [*command, "-o"], "ListenAddress=127.0.0.1:", host_key)

    def dropbear(self) -> RealServer:
        file = str(self.folder / "dropbear_ed25519")
        make_key = [find_tool("dropbearkey"), "-t", "ed25519", "-f", file]
        said = subprocess.run(make_key, check=True, capture_output=True, text=True).stdout
        (host_key,) = (line for line in said.splitlines() if line.startswith("ssh-"))
        command = [find_tool("dropbear"), "-F", "-E", "-r", file, "-P", "/run/dropbear.pid", "-p"]
        return self.start("dropbear", command, "127.0.0.1:", host_key)

    def start(self, name: str, command: list[str], place: str, host_key: str) -> RealServer:
        """Start a server on a free port, and return it once it answers there."""
        namespaces = f"/proc/{self.first.pid}/ns"
        enter = [f"--mount={namespaces}/mnt", f"--pid={namespaces}/pid_for_children"]
        messages = self.folder / f"{name}_messages"
        for _ in range(5):  # somebody else may take the port in between
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
            command_here = [find_tool("nsenter"), *enter, *command, f"{place}{port}"]
            with messages.open("ab") as file:
                process = subprocess.Popen(command_here, stdin=subprocess.DEVNULL, stderr=file)
            self.processes.append(process)
            give_up = time.monotonic() + SECONDS_TO_START
            while process.poll() is None and time.monotonic() < give_up:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    line = f"[127.0.0.1]:{port} {host_key}"
                    return RealServer(f"127.0.0.1:{port}", line, messages)
                except OSError:
                    time.sleep(0.02)  # it does not listen yet
        raise AssertionError(messages.read_text())

    def prepare(self, shell: str) -> None:
        """Forget what came, and let the next commands be these lines of shell."""
        for server in self.servers.values():
            os.truncate(server.messages, 0)
        (self.home / "snippet").write_text(shell)
        (self.home / "commands").write_text("")
        (self.home / "commands").chmod(0o666)

    def commands(self) -> list[str]:
        return (self.home / "commands").read_text().splitlines()
