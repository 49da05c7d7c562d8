"""Makes one invoice of each order; killed at any moment and started again, it goes on where it was.

    python invoices.py [DIR]
"""

import json
import sys

import ringwal

ORDERS_AT_ONCE = 100


def invoice(order: ringwal.StreamRecord) -> bytes:
    """What follows from an order. Its offset is the number: who gets an invoice twice by other ways knows it again."""
    said = json.loads(order.data)
    return json.dumps({"number": order.offset, "table": said["table"], "cents": said["cents"]}).encode()


def main(directory: str) -> None:
    with ringwal.connect(directory, autostart=True, reconnect=30.0) as client:
        # The log knows how far "invoices" is. Whoever had the name before commits nothing any more.
        consumer = client.consumer("invoices", ["orders"])
        print(f"{consumer.committed['orders']} orders are done already", flush=True)
        while orders := consumer.poll(ORDERS_AT_ONCE, timeout=1.0):  # a service waits for ever: timeout=None
            # Invoices and position are in the log together, or not at all. Where the engine ends meanwhile, nobody knows which:
            # this ends, too, and is told by the log when it is started again.
            with client.batch() as batch:
                for order in orders:
                    batch.append("invoices", invoice(order))
                batch.commit(consumer)
        print(f"{consumer.committed['orders']} orders are done, each with one invoice", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "shop.d")
