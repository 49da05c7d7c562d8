"""Sends deliveries, several at a time, and each until it is answered with 200: with the same webhook-id each time.

    python send.py http://127.0.0.1:8000/webhooks/shop 1000
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import threading
import time
import urllib.parse
import uuid

GIVE_UP = 120.0
PAUSE = 1.0


class Sender(threading.Thread):
    """Sends what it takes from the common list."""

    def __init__(self, url: urllib.parse.SplitResult, todo: collections.deque[int], deadline: float) -> None:
        super().__init__()
        self.url, self.todo, self.deadline = url, todo, deadline
        self.connection = http.client.HTTPConnection(url.netloc, timeout=30.0)
        self.answers: collections.Counter[str] = collections.Counter()
        self.undelivered = 0

    def run(self) -> None:
        while True:
            try:
                number = self.todo.popleft()
            except IndexError:
                break
            if not self.deliver(json.dumps({"order": number}).encode(), str(uuid.uuid4())):
                self.undelivered += 1
        self.connection.close()

    def deliver(self, body: bytes, name: str) -> bool:
        while time.monotonic() < self.deadline:
            said = self.ask(body, name)
            self.answers[said] += 1
            if said == "200":
                return True
            time.sleep(PAUSE)
        return False

    def ask(self, body: bytes, name: str) -> str:
        headers = {"Content-Type": "application/json", "webhook-id": name}
        try:
            self.connection.request("POST", self.url.path, body, headers)
            answer = self.connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):  # nobody knows whether it was stored
            self.connection.close()
            return "no answer"
        return str(answer.status)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    parser.add_argument("--at-a-time", type=int, default=16)
    options = parser.parse_args()
    todo = collections.deque(range(options.count))
    deadline = time.monotonic() + GIVE_UP
    senders = [Sender(urllib.parse.urlsplit(options.url), todo, deadline) for _ in range(options.at_a_time)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    answers = sum((sender.answers for sender in senders), collections.Counter[str]())
    undelivered = sum(sender.undelivered for sender in senders)
    print(", ".join(f"{said}: {count}" for said, count in sorted(answers.items())))
    print(f"{options.count - undelivered} of {options.count} delivered")
    return 1 if undelivered else 0


if __name__ == "__main__":
    raise SystemExit(main())
