"""Real SSH servers on loopback, Debian's sshd and dropbear, and an account that only they know.

They run in namespaces of their own (for mounts and for processes), with a copy of /etc that has the
account. So nothing of the computer changes. When the pipe to the first of these processes closes,
also because the tests were killed, Linux ends them all, and account and copy are gone.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

USERNAME = "webbridge-test"
HOME = "/mnt/home"  # as the servers see it
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
SERVERS = ("sshd", "ssh-keygen", "dropbear", "dropbearkey")
TOOLS = ("unshare", "nsenter", "mount", "useradd", "chpasswd", "kill")
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
useradd --no-create-home --home-dir {HOME} --shell {HOME}/shell {USERNAME}
echo "{USERNAME}:$PASSWORD" | chpasswd
chown {USERNAME} {HOME}
echo {HOME}/shell >>/etc/shells  # dropbear refuses other shells
printf '%s required pam_unix.so\n' auth account session >/etc/pam.d/sshd
install -m 4755 "$2" /mnt/kill  # root's rights for the account: dropbear's processes are root's
echo ready >&3
exec cat >/dev/null  # until the pipe from the tests closes
"""

# The account's shell. A server starts it as: shell -c COMMAND
SHELL = f"""#!/bin/sh
case $2 in *sftp-server) exec "$2" ;; esac
echo "$2" >>{HOME}/commands
wait_for_go() {{ until [ -e {HOME}/go ]; do sleep 0.02; done; }}
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
    host_keys: dict[str, str]  # the public keys by their types, as a known-hosts file has them
    messages: Path

    def known_hosts_line(self, key_type: str) -> str:
        return f"[127.0.0.1]:{self.address.rpartition(':')[2]} {self.host_keys[key_type]}\n"

    def logins(self) -> list[str]:
        """Return what the server said about each password that it got since it started."""
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
        self.servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> RealServers:
        assert self.first.stdout and self.first.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self.first.communicate()  # closes the pipe, and so ends all that runs in the namespaces
        for server in self.servers:
            server.wait()

    def sshd(self, name: str, key_types: dict[str, int], settings: list[str]) -> RealServer:
        """Start OpenSSH's server with new host keys of these types and bits."""
        lines = ["ListenAddress 127.0.0.1", "PidFile none", "UseDNS no", *settings]
        keys = []
        for key_type, bits in key_types.items():
            file = self.folder / f"{name}_{key_type}"
            options = ["-q", "-N", "", "-t", key_type, "-b", str(bits), "-f", str(file)]
            subprocess.run([find_tool("ssh-keygen"), *options], check=True)
            lines.append(f"HostKey {file}")
            keys.append(file.with_name(f"{file.name}.pub").read_text())
        (self.folder / f"{name}_config").write_text("\n".join([*lines, ""]))
        command = [find_tool("sshd"), "-D", "-e", "-f", f"{self.folder}/{name}_config", "-p"]
        return self.start(name, "OpenSSH", keys, lambda port: [*command, str(port)])

    def dropbear(self, name: str) -> RealServer:
        """Start dropbear with a new host key."""
        file = str(self.folder / f"{name}_ed25519")
        make_key = [find_tool("dropbearkey"), "-t", "ed25519", "-f", file]
        said = subprocess.run(make_key, check=True, capture_output=True, text=True).stdout
        keys = [line for line in said.splitlines() if line.startswith("ssh-")]
        command = [find_tool("dropbear"), "-F", "-E", "-r", file, "-P", f"/run/{name}.pid", "-p"]
        return self.start(name, "dropbear", keys, lambda port: [*command, f"127.0.0.1:{port}"])

    def start(
        self, name: str, make: str, keys: list[str], command: Callable[[int], list[str]]
    ) -> RealServer:
        """Start a server on a free port, and return it once it answers there."""
        namespaces = f"/proc/{self.first.pid}/ns"
        enter = [f"--mount={namespaces}/mnt", f"--pid={namespaces}/pid_for_children"]
        messages = self.folder / f"{name}_messages"
        for _ in range(5):  # somebody else may take the port in between
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
            command_here = [find_tool("nsenter"), *enter, *command(port)]
            with messages.open("ab") as file:
                server = subprocess.Popen(command_here, stdin=subprocess.DEVNULL, stderr=file)
            self.servers.append(server)
            if answers(server, port, make.encode()):
                host_keys = {key.split()[0]: key.strip() for key in keys}
                return RealServer(f"127.0.0.1:{port}", host_keys, messages)
        raise AssertionError(messages.read_text())


def answers(server: subprocess.Popen[bytes], port: int, make: bytes) -> bool:
    """Return whether a server of this make answers on the port; waits until it does or ends."""
    give_up = time.monotonic() + SECONDS_TO_START
    while server.poll() is None and time.monotonic() < give_up:
        try:
            with socket.create_connection(("127.0.0.1", port), SECONDS_TO_START) as connection:
                return make in connection.makefile("rb").readline()
        except OSError:
            time.sleep(0.02)  # it does not listen yet
    return False
