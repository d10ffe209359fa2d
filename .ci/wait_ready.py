"""Waits until a URL answers 200: wait_ready.py URL PID. Fails when the process has ended, or after a minute."""

import sys
import time
import urllib.error
import urllib.request



def ended(pid: int) -> bool:
    """Gone, or only not yet waited for by its parent."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


url, pid = sys.argv[1], int(sys.argv[2])
for _ in range(600):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                sys.exit(0)
    except (urllib.error.URLError, OSError):
        pass
    if ended(pid):
        sys.exit(f"the server ended before {url} answered")
    time.sleep(0.1)
sys.exit(f"{url} did not answer 200 within a minute")
