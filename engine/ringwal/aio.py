"""The client for asyncio: `connect`, and what it gives. Names and errors are those of `ringwal` itself.

    async with ringwal.aio.connect(DIR, autostart=True) as client:
        ack = await client.stream("orders").append(b"...")
"""

from ringwal.client.aio import Client, connect
from ringwal.client.aio_batch import Batch, BatchReceipt
from ringwal.client.aio_consumer import Consumer
from ringwal.client.aio_producer import Producer, ProducerReceipt
from ringwal.client.aio_stream import Receipt, Stream

__all__ = ["Batch", "BatchReceipt", "Client", "Consumer", "Producer", "ProducerReceipt", "Receipt", "Stream", "connect"]
