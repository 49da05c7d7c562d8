"""Appends so many orders: something to work on.

    python orders.py COUNT [DIR]
"""

import json
import sys

import ringwal


def main(count: int, directory: str) -> None:
    with ringwal.connect(directory, autostart=True) as client:
        orders = client.stream("orders")
        for n in range(count):
            orders.append(json.dumps({"table": n % 40, "item": "coffee", "cents": 250 + n % 100}).encode())
        orders.flush()
        print(f"{orders.stat().records} orders are in the stream")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "shop.d")
