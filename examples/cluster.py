#!/usr/bin/env python3
"""Three nodes of Tollgate behind a load balancer, over PostgreSQL, NATS JetStream and Redis: what
compose.cluster.yaml starts in containers, as plain processes. Each has a free port on the loopback; all
data is in one temporary directory, which goes at the end.

    cargo build --release --features cluster
    python3 examples/cluster.py --binary target/release/tollgate

Ctrl-C, SIGTERM or the end of all nodes stops everything, and only what was started here. Settings in the
environment (TOLLGATE_QUEUES__DEFAULT__INTERVAL=1s) reach the nodes. Kill one, and see who goes on.

On Debian: apt-get install postgresql nats-server redis-server haproxy. Python 3.11, nothing else.
"""

import argparse
import glob
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PARTS = ("postgres", "nats", "redis", "balancer")

# How long a process may take until it works, and how long until it has ended, in seconds.
START = 60
STOP = 15

# Ports are tried so often before giving up.
PORTS = 1_000

POLL = 0.05


class Failed(Exception):
    """One line for whoever started this."""


@dataclass
class Process:
    """One process that was started here."""

    name: str
    url: str
    popen: subprocess.Popen
    # What asks it to stop gracefully.
    stop: signal.Signals
    # Its port stays its own while this is open.
    claim: socket.socket


def program(name: str, package: str) -> str:
    """Where a program is, also where Debian keeps those of servers."""
    versions = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda it: int(it.split("/")[4]))
    places = [*os.environ.get("PATH", "").split(":"), "/usr/sbin", *reversed(versions)]
    found = shutil.which(name, path=":".join(places))
    if found is None:
        raise Failed(f"{name} is not installed (apt-get install {package})")
    return found


def claim_port() -> socket.socket:
    """A port that no other of these scripts takes while this UDP socket of the same number is open, and
    that Linux gives to nobody who does not ask for it (`ip_local_port_range`)."""
    for _ in range(PORTS):
        address = ("127.0.0.1", random.randrange(20_000, 32_768))
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(address)
            with socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
            return claim
        except OSError:
            claim.close()
    raise Failed("no port is free")


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def answers(url: str) -> bool:
    """Whether a GET is answered with 200. Proxies of the environment have no say on the loopback."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


class Cluster:
    """All that was started, in order."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.running: list[Process] = []

    def start(
        self,
        name: str,
        command: Callable[[int, Path], list[str]],
        ready: Callable[[int], bool],
        url: str,
        env: dict[str, str] | None = None,
        stop: signal.Signals = signal.SIGTERM,
        user: str | None = None,
    ) -> tuple[str, int]:
        """Starts what `command` makes of a port and a folder, and waits until it is ready. `{port}` in
        `url` and in the values of `env` becomes the port."""
        folder = self.home / name
        folder.mkdir(exist_ok=True)
        claim = claim_port()
        port = claim.getsockname()[1]
        settings = {key: value.replace("{port}", str(port)) for key, value in (env or {}).items()}
        # It must not outlive this program, however that ends; its own group keeps Ctrl-C from it.
        guard = ["setpriv", "--pdeathsig", stop.name.removeprefix("SIG")]
        with open(folder / "log", "ab") as log:
            popen = subprocess.Popen(
                [*guard, *as_user(user), "--", *command(port, folder)],
                cwd=folder,
                env={**outside(), **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process = Process(name, url.replace("{port}", str(port)), popen, stop, claim)
        self.running.append(process)
        give_up = time.monotonic() + START
        while popen.poll() is None and time.monotonic() < give_up:
            if ready(port):
                print(f"{name:<10} {process.url}  (process {popen.pid})", flush=True)
                return process.url, port
            time.sleep(POLL)
        if popen.poll() is None:
            raise Failed(f"{name} is not ready after {START} s: {self.last_words(name)}")
        self.running.remove(process)
        raise Failed(f"{name} ended with {popen.returncode}: {self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """The end of its log."""
        text = (self.home / name / "log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(["", *text.splitlines()[-20:]])

    def watch(self) -> None:
        """Returns when no node runs any more. Whatever else ends is told."""
        while any(it.name.startswith("node") for it in self.running):
            self.tell_ended()
            time.sleep(POLL)

    def tell_ended(self) -> None:
        for process in [it for it in self.running if it.popen.poll() is not None]:
            print(f"{process.name} ended with {process.popen.returncode}", flush=True)
            self.running.remove(process)

    def stop(self) -> bool:
        """Stops everything: those in front first, servers last. False if something had to be killed."""
        self.tell_ended()
        graceful = True
        ranks = {"balancer": 0, "nats": 2, "redis": 2, "postgres": 3}
        for rank in range(4):
            group = [it for it in self.running if ranks.get(it.name, 1) == rank]
            for process in group:
                process.popen.send_signal(process.stop)
            give_up = time.monotonic() + STOP
            for process in group:
                try:
                    process.popen.wait(max(0.0, give_up - time.monotonic()))
                except subprocess.TimeoutExpired:
                    print(f"{process.name} does not stop: it is killed", flush=True)
                    graceful = False
                    process.popen.kill()
                    process.popen.wait()
        self.running.clear()
        return graceful


def outside() -> dict[str, str]:
    """The environment without the address and port that are chosen here."""
    chosen = ("ROCKET_ADDRESS", "ROCKET_PORT", "TOLLGATE_DATA_DIR", "TOLLGATE_SERVER")
    return {key: value for key, value in os.environ.items() if key not in chosen}


def as_user(user: str | None) -> list[str]:
    return [f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []


def start_postgres(cluster: Cluster) -> str:
    initdb, postgres = program("initdb", "postgresql"), program("postgres", "postgresql")
    folder = cluster.home / "postgres"
    folder.mkdir()
    user = None
    if os.geteuid() == 0:
        # It refuses to run as root.
        user = "postgres"
        owner = pwd.getpwnam(user)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    made = subprocess.run(
        ["setpriv", *as_user(user), "--", initdb, "-D", str(folder / "data"), "-U", "tollgate"]
        + ["-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise Failed(f"initdb: {made.stderr.strip()}")
    asks = program("pg_isready", "postgresql")

    def ready(port: int) -> bool:
        ask = [asks, "-q", "-h", "127.0.0.1", "-p", str(port), "-d", "postgres"]
        return subprocess.run(ask, check=False).returncode == 0

    url, _ = cluster.start(
        "postgres",
        lambda port, folder: [postgres, "-D", str(folder / "data"), "-p", str(port)]
        + ["-h", "127.0.0.1", "-k", str(folder), "-c", "max_connections=200"],
        ready,
        "postgres://tollgate@127.0.0.1:{port}/postgres",
        stop=signal.SIGINT,
        user=user,
    )
    return url


def start_nats(cluster: Cluster) -> str:
    nats = program("nats-server", "nats-server")
    url, _ = cluster.start(
        "nats",
        lambda port, folder: [nats, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)],
        connects,
        "nats://127.0.0.1:{port}",
    )
    return url


def start_redis(cluster: Cluster) -> str:
    redis = program("redis-server", "redis-server")
    url, _ = cluster.start(
        "redis",
        lambda port, folder: [redis, "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
        + ["--dir", str(folder)],
        connects,
        "redis://127.0.0.1:{port}/0",
    )
    return url


def start_balancer(cluster: Cluster, nodes: list[int]) -> None:
    haproxy = program("haproxy", "haproxy")
    # Its configuration has three places; with fewer nodes, one node has several.
    places = {f"NODE{n + 1}": f"127.0.0.1:{nodes[n % len(nodes)]}" for n in range(3)}
    cluster.start(
        "balancer",
        lambda _, __: [haproxy, "-db", "-f", str(ROOT / "deploy" / "haproxy.cfg")],
        lambda port: answers(f"http://127.0.0.1:{port}/ready"),
        "http://127.0.0.1:{port}",
        env={"LISTEN": "127.0.0.1:{port}", **places},
    )


def start_all(cluster: Cluster, options: argparse.Namespace) -> None:
    shared = {"ROCKET_ADDRESS": "127.0.0.1", "ROCKET_PORT": "{port}"}
    if "postgres" not in options.without:
        shared["TOLLGATE_STORE__URL"] = start_postgres(cluster)
    if "nats" not in options.without:
        shared["TOLLGATE_BUS__URL"] = start_nats(cluster)
    if "redis" not in options.without:
        # On the loopback, quotas are off unless they are asked for.
        shared["TOLLGATE_QUOTA__URL"] = start_redis(cluster)
        shared["TOLLGATE_QUOTA__ENABLED"] = "true"
    if "balancer" not in options.without:
        shared["ROCKET_IP_HEADER"] = "X-Real-IP"
    ports = []
    for number in range(1, options.nodes + 1):
        _, port = cluster.start(
            f"node{number}",
            lambda _, __: [options.binary, "serve"],
            lambda port: answers(f"http://127.0.0.1:{port}/ready"),
            "http://127.0.0.1:{port}",
            env={**shared, "TOLLGATE_DATA_DIR": str(cluster.home / f"node{number}" / "data")},
        )
        ports.append(port)
    if "balancer" not in options.without:
        start_balancer(cluster, ports)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--binary",
        default=str(ROOT / "target" / "release" / "tollgate"),
        help="tollgate, built with --features cluster [default: target/release/tollgate]",
    )
    parser.add_argument("--nodes", type=int, choices=range(1, 4), default=3)
    parser.add_argument(
        "--without",
        action="append",
        choices=PARTS,
        default=[],
        help="leave a part out; without PostgreSQL each node has a store of its own",
    )
    options = parser.parse_args()
    options.binary = str(Path(options.binary).resolve())
    if not os.access(options.binary, os.X_OK):
        parser.error(f"there is no {options.binary}: cargo build --release --features cluster")
    return options


class Stopped(Exception):
    """A signal asks for the end."""


def interrupt(_signal: int, _frame: object) -> None:
    # Once: the end is not to be interrupted.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Stopped


def main() -> int:
    options = parse()
    home = Path(tempfile.mkdtemp(prefix="tollgate-cluster-"))
    # PostgreSQL, as another user, goes through it.
    home.chmod(0o711)
    cluster = Cluster(home)
    code = 0
    try:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, interrupt)
        start_all(cluster, options)
        print(f"logs and data are in {home}; ready: Ctrl-C stops everything", flush=True)
        cluster.watch()
        print("no node runs any more", flush=True)
        code = 1
    except Stopped:
        pass
    except Failed as failure:
        print(f"error: {failure}", file=sys.stderr)
        code = 1
    finally:
        if not cluster.stop():
            code = 1
        shutil.rmtree(home, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
