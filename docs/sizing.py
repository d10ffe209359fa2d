#!/usr/bin/env python3
"""What N nodes and M events a second need, what gives way first, and what one does then.

    python3 docs/sizing.py --nodes 3 --events 50000
    python3 docs/sizing.py --nodes 1000 --events 10000000 --history-days 365
    python3 docs/sizing.py --nodes 3 --events 50000 --set pg_event_us=9 --json

The model is a straight line: each event costs each part so much of each resource, and a resource gives way
where that is more than one machine has of it. It knows of no waiting in line, no noise and no failure; so
`headroom` is left free. Its figures are below, each with its source. One that is called an assumption is
one: measure it on machines like yours, and say --set.
"""

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass

MEASURED, BOUND, ASSUMED = "measured", "bound", "assumption"
BENCHES = "benches/README.md: 2 cores shared with the load"
STORED = "docs/sizing.md: 800,000 events in PostgreSQL 15"
COST = "benches/cost.py: 500,000 events, processor time only"

# name: (value, unit, kind, source)
PARAMETERS: dict[str, tuple[float, str, str, str]] = {
    # One event.
    "event_bytes": (252, "bytes", MEASURED, "benches/README.md: an event as JSON"),
    "duplicates": (0.2, "of 1", MEASURED, "benches/README.md: the share that the load has"),
    "events_per_commit": (5000, "events", ASSUMED, "a bulk request of the largest size, none merged"),
    # A machine of each kind.
    "headroom": (0.4, "of 1", ASSUMED, "left free for peaks, failures and upkeep"),
    "node_cores": (8, "cores", ASSUMED, "a machine for a node"),
    "pg_cores": (32, "cores", ASSUMED, "a machine for PostgreSQL"),
    "pg_memory": (256e9, "bytes", ASSUMED, "of it, for the identity table and its index"),
    "pg_disk": (30e12, "bytes", ASSUMED, "of it"),
    "pg_disk_write": (2e9, "bytes/s", ASSUMED, "of it, what its NVMe disks keep up"),
    "pg_disk_reads": (400e3, "pages/s", ASSUMED, "of it, random reads of 8 KiB"),
    "nats_disk_write": (2e9, "bytes/s", ASSUMED, "a machine for NATS"),
    "network": (1.25e9, "bytes/s", ASSUMED, "10 Gbit/s each way, each machine"),
    # What an event costs a node.
    "node_event_us": (3.2, "core-us", MEASURED, f"{COST}: published, consumed and written, in two nodes"),
    "fold_event_us": (0.55, "core-us", MEASURED, f"{COST}: a new event that another node took"),
    "rollup_events": (100e6, "events", BOUND, "README.md, Limits: past that, answers come from the events"),
    # What a new event costs PostgreSQL, and a duplicate hardly less.
    "pg_event_us": (6.4, "core-us", MEASURED, f"{COST}: 5,000 a request, 20% duplicates"),
    "pg_event_bytes": (317, "bytes", MEASURED, f"{STORED}: the row and two index entries"),
    "pg_identity_bytes": (107, "bytes", MEASURED, f"{STORED}: the row and its index entry"),
    "pg_index_bytes": (41, "bytes", MEASURED, f"{STORED}: of that, the index entry"),
    "pg_wal_factor": (1.4, "times", MEASURED, f"{STORED}: 482 MB for 339 MB, in a young table"),
    "pg_checkpoint": (900, "seconds", ASSUMED, "between two checkpoints: checkpoint_timeout, max_wal_size to match"),
    "pg_row_us": (3.2, "us", MEASURED, f"{COST}: of a new event, what is under the lock that orders commits"),
    "pg_commit_ms": (3.2, "ms", MEASURED, f"{COST.split(':')[0]}: what COMMIT takes beside processor time, most of it the sync"),
    "pg_connections": (300, "connections", ASSUMED, "max_connections; more cost memory and snapshots"),
    "event_days": (30, "days", ASSUMED, "how long events stay (events.retention); identities stay for ever"),
    "node_connections": (27, "connections", BOUND, "16 readers, 3 writers of events, 2 scans, 2 erasures, and writer, follower, leader, rollups"),
    "fact_bytes": (20.4, "bytes", MEASURED, f"{COST}: what each node reads of each new event for its rollups"),
    # What an event costs NATS.
    "nats_events": (186621, "events/s", MEASURED, f"{BENCHES}: a message for each event; in batches more"),
    "nats_replicas": (1, "copies", ASSUMED, "bus.replicas"),
}

# What one does when a part gives way.
CELLS = (
    "more cells: installations side by side, each with its own PostgreSQL, NATS and Redis. A router in front "
    "sends events by a hash of tenant_id and jobs by a hash of the queue's name; both stay exact, since an "
    "identity has its tenant in it and a pace belongs to one queue"
)
SHARDS = (
    "identities sharded by hash over K PostgreSQL (within one tenant by the identity's own hash); until then "
    + CELLS
)
REMEDIES = {
    "node CPU": "more nodes: ingest of events has no state on a node",
    "node network": "more nodes, or compressed requests",
    "node rollups": (
        "fewer events for each node's rollups: every node follows every event, so more nodes don't help, "
        "and cells by tenant do"
    ),
    "PostgreSQL CPU": SHARDS,
    "PostgreSQL writes": "rarer checkpoints, the WAL on a disk of its own, and then " + SHARDS,
    "PostgreSQL identity reads": SHARDS + "; more memory puts it off",
    "PostgreSQL disk": "a shorter events.retention; identities stay all the same: " + SHARDS,
    "PostgreSQL commit order": "larger commits, faster syncs, and then " + SHARDS,
    "PostgreSQL connections": "fewer, larger nodes, or a pooler for readers; after that " + CELLS,
    "PostgreSQL network": "read replicas for following (store.read_url), fewer nodes in a cell; " + CELLS,
    "JetStream": "streams by partition: a stream and a subject for each hash of the tenant, on servers of their own",
    "JetStream disk": "streams by partition, on servers of their own",
}
# What a hash of the identity divides.
SHARDED = [f"PostgreSQL {it}" for it in ("CPU", "writes", "identity reads", "disk", "commit order")]
DAY = 86400
PAGE = 8192


@dataclass
class Need:
    """How much of a resource is needed, and how much there is."""

    resource: str
    needed: float
    available: float
    unit: str
    # Where it gives way, with the headroom kept, in events a second; None where it doesn't, however many.
    breaks_at: float | None
    # How many times as much is needed, with the headroom kept.
    units: int


def model(p: dict[str, float], nodes: int, events: float, history_days: float) -> list[Need]:
    """All needs, the tightest first. `nodes` are in one cell, with one PostgreSQL and one JetStream."""
    new = events * (1 - p["duplicates"])
    usable = 1 - p["headroom"]
    identities = new * history_days * DAY
    identity_bytes = identities * p["pg_identity_bytes"]
    # A key is random: each probe touches a page of its own, which is in memory or must be read.
    missed = max(0.0, 1 - p["pg_memory"] / identity_bytes) if identity_bytes else 0.0
    kept = new * min(history_days, p["event_days"]) * DAY * p["pg_event_bytes"] + identity_bytes
    wal = new * (p["pg_event_bytes"] + p["pg_identity_bytes"]) * p["pg_wal_factor"]
    # After a checkpoint, the first change of a page has the whole page in the WAL, and the next checkpoint
    # writes it. Keys are random: while there are more pages than changes, nearly each change is a first one.
    pages = identities * p["pg_index_bytes"] / PAGE
    changes = new * p["pg_checkpoint"]
    first_changes = pages * (1 - math.exp(-changes / pages)) / p["pg_checkpoint"] if pages else 0.0
    written = wal + 2 * PAGE * first_changes
    flow = events * p["event_bytes"]
    follow = new * p["fact_bytes"]
    needs: list[Need] = []

    def need(resource: str, needed: float, available: float, unit: str, breaks_at: float | None = None) -> None:
        if needed and breaks_at is None:
            breaks_at = events * available * usable / needed
        units = math.ceil(events / breaks_at) if breaks_at else 1
        needs.append(Need(resource, needed, available, unit, breaks_at, units))

    need("node CPU", events * p["node_event_us"] / 1e6, nodes * p["node_cores"], "cores")
    need("node rollups", new * p["fold_event_us"] / 1e6, p["node_cores"], "cores of each node")
    # In from the client and out to NATS, in from NATS and out to PostgreSQL; and the facts.
    need("node network", 2 * flow / nodes + follow, p["network"], "bytes/s of each node")
    need("PostgreSQL CPU", events * p["pg_event_us"] / 1e6, p["pg_cores"], "cores")
    need("PostgreSQL writes", written, p["pg_disk_write"], "bytes/s, WAL and pages")
    # Nothing is read until memory is full, so this is no line through 0.
    reads_end = None
    if identity_bytes:
        reads_end = p["pg_disk_reads"] * usable + events * p["pg_memory"] / identity_bytes
    need("PostgreSQL identity reads", events * missed, p["pg_disk_reads"], "pages/s", reads_end)
    need("PostgreSQL disk", kept, p["pg_disk"], f"bytes after {history_days:g} days")
    # Arrivals have no gaps: from its number to its commit, one transaction goes after the other.
    locked = new * p["pg_row_us"] / 1e6 + events / p["events_per_commit"] * p["pg_commit_ms"] / 1e3
    need("PostgreSQL commit order", locked, 1, "seconds a second, one after the other")
    need("PostgreSQL network", follow * nodes, p["network"], "bytes/s out, to nodes that follow")
    need("JetStream", events, p["nats_events"], "events/s")
    need("JetStream disk", flow * p["nats_replicas"], p["nats_disk_write"], "bytes/s")
    connections, most = nodes * p["node_connections"], p["pg_connections"] * usable
    units = math.ceil(connections / most)
    needs.append(Need("PostgreSQL connections", connections, p["pg_connections"], "connections", None, units))
    return sorted(needs, key=lambda it: it.needed / it.available, reverse=True)


def holds(needs: list[Need]) -> bool:
    return all(it.units <= 1 for it in needs)


def cells(p: dict[str, float], nodes: int, events: float, history_days: float) -> int:
    """The fewest equal cells, each with its part of the nodes and of the events, that hold; as many nodes
    as there are if that doesn't suffice."""
    low, high = 1, nodes
    while low < high:
        middle = (low + high) // 2
        if holds(model(p, math.ceil(nodes / middle), events / middle, history_days)):
            high = middle
        else:
            low = middle + 1
    return low


def answer(p: dict[str, float], nodes: int, events: float, history_days: float) -> dict:
    """The model's answer in one piece."""
    needs = model(p, nodes, events, history_days)
    units = {it.resource: it.units for it in needs}
    new = events * (1 - p["duplicates"])
    parts = cells(p, nodes, events, history_days)
    each = model(p, math.ceil(nodes / parts), events / parts, history_days)
    return {
        "nodes": nodes,
        "events_per_second": events,
        "identity_inserts_per_second": new,
        "identity_probes_per_second": events,
        "identities": new * history_days * DAY,
        "rollups_full_after_seconds": p["rollup_events"] / new,
        "holds": holds(needs),
        "first_bottleneck": needs[0].resource,
        "remedy": REMEDIES[needs[0].resource],
        "nodes_for_cpu": math.ceil(events * p["node_event_us"] / 1e6 / p["node_cores"] / (1 - p["headroom"])),
        "postgres_shards": max(units[it] for it in SHARDED),
        "jetstream_streams": max(units["JetStream"], units["JetStream disk"]),
        "cells": parts,
        "cells_hold": holds(each),
        "cell_bottleneck": each[0].resource,
        "needs": [asdict(it) for it in needs],
    }


def short(number: float) -> str:
    """1234567 as 1.23 M."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"


def span(seconds: float) -> str:
    """A time in words."""
    for size, name in ((365 * DAY, "years"), (DAY, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} seconds"


def told(it: dict, p: dict[str, float], history_days: float) -> str:
    """The answer for people."""
    lines = [
        f"{it['nodes']} nodes, {short(it['events_per_second'])} events/s, {history_days:g} days of history; "
        f"{p['headroom']:.0%} of each machine left free",
        "",
        f"{'resource':<27}{'needed':>9}  {'of':>8}  {'used':>9}  {'times':>6}  {'gives way at':>14}  unit",
    ]
    for need in it["needs"]:
        used = need["needed"] / need["available"]
        gives = f"{short(need['breaks_at'])}/s" if need["breaks_at"] else "-"
        lines.append(
            f"{need['resource']:<27}{short(need['needed']):>9}  {short(need['available']):>8}  "
            f"{used:>9.1%}  {need['units']:>6}  {gives:>14}  {need['unit']}"
        )
    first = it["needs"][0]
    verdict = "holds" if it["holds"] else "does not hold"
    where = f"at {short(first['breaks_at'])} events/s" if first["breaks_at"] else "by the number of nodes"
    part = f"cells of {math.ceil(it['nodes'] / it['cells'])} nodes: {it['cells']}"
    lines += [
        "",
        f"This {verdict}. First bottleneck: {it['first_bottleneck']}, {where}.",
        f"Then: {it['remedy']}.",
        "",
        f"{short(it['identity_inserts_per_second'])} identities/s of "
        f"{short(it['identity_probes_per_second'])} probes/s, {short(it['identities'])} after all days;",
        f"a node's rollups have their {short(p['rollup_events'])} events after "
        f"{span(it['rollups_full_after_seconds'])}",
        f"Each for itself: {it['nodes_for_cpu']} nodes for their CPU, {it['jetstream_streams']} JetStream, "
        f"{it['postgres_shards']} PostgreSQL by a hash of the identity",
        f"Together, in {part}; in each, {it['cell_bottleneck']} is the tightest"
        if it["cells_hold"]
        else f"Together, even in {part}, {it['cell_bottleneck']} gives way in each",
        "",
        "From these figures:",
    ]
    for name, (value, unit, kind, source) in PARAMETERS.items():
        if p[name] != value:
            kind, source = "set", "by --set"
        lines.append(f"  {name:<18}{short(p[name]):>8} {unit:<12}{kind:<11} {source}")
    return "\n".join(lines)


def settings(changes: list[str], parser: argparse.ArgumentParser) -> dict[str, float]:
    values = {name: value for name, (value, *_) in PARAMETERS.items()}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in values:
            parser.error(f"{name!r} is none of {', '.join(values)}")
        try:
            values[name] = float(text)
        except ValueError:
            parser.error(f"{change!r}: a number is allowed")
        shares = ("duplicates", "headroom")
        legal = 0 <= values[name] < 1 if name in shares else 0 < values[name] < math.inf
        if not legal:
            parser.error(f"{change!r} is not in its range")
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--events", type=float, default=50_000, help="events a second, duplicates included")
    parser.add_argument("--history-days", type=float, default=30, help="for how long events have come")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another figure")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.nodes < 1 or not 0 < options.events < math.inf or not 0 <= options.history_days < math.inf:
        parser.error("at least one node, some events a second, no less than 0 days")
    p = settings(options.set, parser)
    result = answer(p, options.nodes, options.events, options.history_days)
    print(json.dumps(result) if options.json else told(result, p, options.history_days))


if __name__ == "__main__":
    sys.exit(main())
