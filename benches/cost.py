#!/usr/bin/env python3
"""What an event costs: processor time of a node and of PostgreSQL, and bytes of what nodes follow.

    cargo build --release --features cluster
    python3 benches/cost.py --binary target/release/tollgate --events 400000

Two nodes over a PostgreSQL of their own, started as examples/cluster.py does. One node is sent all events, 5,000
a request over 4 connections, each fifth a duplicate, of the shape of benches/README.md; the other follows.
Processor time is what /proc says of each process and of those that it waited for, before and after; so other
work on the machine disturbs it less than it does a rate. Requests are rendered before, and this
program's own time counts nowhere.
"""

import argparse
import http.client
import json
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import cluster as parts  # noqa: E402

BATCH, CONNECTIONS = 5000, 4
TYPES = "pageview add_item checkout purchase register wishlist download feedback".split()
TICK = os.sysconf("SC_CLK_TCK")

# Processor time of user and system, the time that passed, and the statement.
STATISTICS = re.compile(
    r"LOG:  (?:EXECUTE MESSAGE|QUERY) STATISTICS\n.*\n"
    r"\t!\t([\d.]+) s user, ([\d.]+) s system, ([\d.]+) s elapsed\n"
    r"(?:\t.*\n)+.*STATEMENT:  (.*)"
)

# The statements of a transaction; the second group while it holds the lock that orders commits.
BEFORE_LOCK = ("SELECT hash, content", "COPY identity")
UNDER_LOCK = ("UPDATE event_head", "COPY event (", "INSERT INTO fact", "COMMIT; NOTIFY")


def seconds(pid: int) -> float:
    """Processor time of a process and of all that it started, those that have ended included."""
    total, waiting = 0, [pid]
    while waiting:
        own = waiting.pop()
        try:
            stat = Path(f"/proc/{own}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            tasks = Path(f"/proc/{own}/task").glob("*/children")
            waiting += [int(child) for task in tasks for child in task.read_text(encoding="utf-8").split()]
        except FileNotFoundError:
            continue
        total += sum(int(field) for field in stat[11:15])
    return total / TICK


def requests(events: int) -> list[bytes]:
    """Bodies with so many events."""
    rng = random.Random(7)
    sent: list[dict] = []
    bodies = []
    for _ in range(events // BATCH):
        body = []
        for place in range(BATCH):
            if place % 5 == 4 and len(sent) > BATCH:
                body.append(rng.choice(sent))
                continue
            seconds_in = len(sent) * 30 * 86400 // events
            event = {
                "event_id": f"{rng.getrandbits(128):032x}",
                "timestamp": time.strftime("2026-01-%dT%H:%M:%S", time.gmtime(seconds_in))
                + f".{rng.randrange(1000):03}Z",
                "tenant_id": f"shop-{rng.randrange(20):02}",
                "event_type": rng.choice(TYPES),
                "user_id": f"u-{rng.randrange(500_000):07}",
                "properties": {
                    "page": f"/products/{rng.randrange(2000):05}",
                    "text": f"{rng.getrandbits(192):048x}",
                },
            }
            sent.append(event)
            body.append(event)
        bodies.append(json.dumps({"events": body}, separators=(",", ":")).encode())
    return bodies


def send(url: str, bodies: list[bytes]) -> None:
    """All of them, over a few connections."""
    waiting, lock, refused = iter(bodies), threading.Lock(), []

    def client() -> None:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        while True:
            with lock:
                body = next(waiting, None)
            if body is None:
                return
            while True:
                connection.request("POST", "/events/bulk", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                said = answer.read()
                # The stream is full for now.
                if answer.status != 429:
                    break
                time.sleep(0.05)
            if answer.status != 202:
                refused.append(said)
                return

    clients = [threading.Thread(target=client) for _ in range(CONNECTIONS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    if refused:
        raise parts.Failed(f"refused: {refused[0][:300]!r}")


def get(url: str, path: str) -> dict:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.request("GET", path)
    return json.loads(connection.getresponse().read())


def wait_until(received: int, nodes: list[str]) -> None:
    """Every node knows and has counted all."""
    while any(get(url, "/stats")["received"] < received for url in nodes):
        time.sleep(0.05)
    for url in nodes:
        get(url, "/stats/top-events?from=2026-01-01&to=2026-02-01")


def psql(url: str, sql: str) -> list[str]:
    command = [parts.program("psql", "postgresql"), "-XqAt", "-c", sql, url]
    return parts.subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split("|")


class Bench:
    """Two nodes and what they share."""

    def __init__(self, cluster: parts.Cluster, binary: str, bus: bool) -> None:
        self.cluster = cluster
        self.store = parts.start_postgres(self.cluster)
        shared = {"ROCKET_ADDRESS": "127.0.0.1", "ROCKET_PORT": "{port}", "TOLLGATE_STORE__URL": self.store}
        if bus:
            shared["TOLLGATE_BUS__URL"] = parts.start_nats(self.cluster)
        self.nodes = []
        for name in ("node", "other"):
            url, _ = self.cluster.start(
                name,
                lambda _, __: [binary, "serve"],
                lambda port: parts.answers(f"http://127.0.0.1:{port}/ready"),
                "http://127.0.0.1:{port}",
                env={**shared, "TOLLGATE_DATA_DIR": str(cluster.home / name / "data")},
            )
            self.nodes.append(url)

    def process(self, name: str) -> int:
        return next(it.popen.pid for it in self.cluster.running if it.name == name)

    def used(self) -> dict[str, float]:
        return {it.name: seconds(it.popen.pid) for it in self.cluster.running}

    def used_by_nodes(self) -> float:
        return sum(seconds(self.process(name)) for name in ("node", "other"))


def direct(bench: Bench, bodies: list[bytes]) -> None:
    warm = len(bodies) // 4
    send(bench.nodes[0], bodies[:warm])
    wait_until(warm * BATCH, bench.nodes)
    before, new_before = bench.used(), get(bench.nodes[0], "/stats")["unique_processed"]
    begun = time.monotonic()
    send(bench.nodes[0], bodies[warm:])
    took = time.monotonic() - begun
    wait_until(len(bodies) * BATCH, bench.nodes)
    after, new_after = bench.used(), get(bench.nodes[0], "/stats")["unique_processed"]
    sent, new = (len(bodies) - warm) * BATCH, new_after - new_before
    print(f"{sent} events sent, {new} of them new, {sent / took:.0f} a second")
    each = {name: (after[name] - before[name]) * 1e6 for name in after}
    print(f"node, taken and written: {each['node'] / sent:.2f} us an event")
    print(f"other node, follows: {each['other'] / new:.2f} us a new event")
    print(f"PostgreSQL: {each['postgres'] / sent:.2f} us an event, {each['postgres'] / new:.2f} us a new one")
    sizes = psql(
        bench.store,
        "SELECT pg_total_relation_size('fact'), sum(octet_length(facts)), count(*), sum(last - first + 1) FROM fact",
    )
    total, read, rows, covered = map(int, sizes)
    print(f"fact: {rows} rows, {covered / rows:.0f} events each; {read / covered:.1f} bytes an event are read, ", end="")
    print(f"{total / covered:.1f} are on disk")


def statements(bench: Bench, bodies: list[bytes]) -> None:
    """What each statement takes. The lock that orders commits is held from the second one on."""
    warm = len(bodies) // 4
    send(bench.nodes[0], bodies[:warm])
    wait_until(warm * BATCH, bench.nodes)
    new_before = get(bench.nodes[0], "/stats")["unique_processed"]
    psql(bench.store, "ALTER SYSTEM SET log_statement_stats = on")
    psql(bench.store, "SELECT pg_reload_conf()")
    wait_for_setting(bench.store)
    send(bench.nodes[0], bodies[warm:])
    wait_until(len(bodies) * BATCH, bench.nodes)
    new = get(bench.nodes[0], "/stats")["unique_processed"] - new_before
    log = (bench.cluster.home / "postgres" / "log").read_text(encoding="utf-8", errors="replace")
    used = dict.fromkeys([*BEFORE_LOCK, *UNDER_LOCK], (0, 0.0, 0.0))
    for user, system, elapsed, statement in STATISTICS.findall(log):
        name = next((name for name in used if statement.startswith(name)), None)
        if name:
            count, took, lasted = used[name]
            used[name] = (count + 1, took + float(user) + float(system), lasted + float(elapsed))
    for name, (count, took, lasted) in used.items():
        print(f"{name}: {took * 1e6 / new:.2f} us a new event; {lasted * 1e3 / count:.1f} ms each of {count}, waits included")
    locked = sum(used[name][1] for name in UNDER_LOCK)
    print(f"under the lock that orders commits: {locked * 1e6 / new:.2f} us a new event")


def wait_for_setting(store: str) -> None:
    while psql(store, "SHOW log_statement_stats") != ["on"]:
        time.sleep(0.05)


def published(bench: Bench, bodies: list[bytes]) -> None:
    before = bench.used()
    send(bench.nodes[0], bodies)
    wait_until(len(bodies) * BATCH, bench.nodes)
    after, sent = bench.used(), len(bodies) * BATCH
    nodes = sum(after[name] - before[name] for name in ("node", "other")) * 1e6 / sent
    nats = (after["nats"] - before["nats"]) * 1e6 / sent
    print(f"over NATS: {nodes:.2f} us an event in both nodes together, {nats:.2f} us in NATS")
    # Without the database events are taken and published, and nothing else.
    os.kill(bench.process("postgres"), signal.SIGINT)
    next(it for it in bench.cluster.running if it.name == "postgres").popen.wait()
    idle, begun = bench.used_by_nodes(), time.monotonic()
    time.sleep(3)
    rest = (bench.used_by_nodes() - idle) / (time.monotonic() - begun)
    idle, begun = bench.used_by_nodes(), time.monotonic()
    send(bench.nodes[0], bodies)
    took = time.monotonic() - begun
    alone = (bench.used_by_nodes() - idle - rest * took) * 1e6 / sent
    print(f"of that, taken and published: {alone:.2f} us; consumed, written and followed: {nodes - alone:.2f} us")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/tollgate")
    parser.add_argument("--events", type=int, default=400_000)
    options = parser.parse_args()
    binary, bodies = str(Path(options.binary).resolve()), requests(options.events)
    print(f"an event has {sum(map(len, bodies)) / len(bodies) / BATCH:.0f} bytes as JSON")
    for bus, measure in ((False, direct), (False, statements), (True, published)):
        with tempfile.TemporaryDirectory(prefix="tollgate-cost-") as folder:
            os.chmod(folder, 0o755)
            cluster = parts.Cluster(Path(folder))
            try:
                measure(Bench(cluster, binary, bus), bodies)
            finally:
                cluster.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
