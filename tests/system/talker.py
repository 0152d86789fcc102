"""A device on the wire, without an agent: says what it has to say in order and again until it is acknowledged, and obeys its orders.

Deliberately not the agent's code, so that what it counts is a second opinion on the contract. `tests/system/test_replicas.py` runs some.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

import aiomqtt

from broker.messages import AUTHENTICATED, Ack, Command, Item, Message, Order, ResourceRef, decode, decode_text
from broker.topics import DeviceTopic
from tests.inventory_wire.device import TOPICS, Device, log_message, result, status

WINDOW = 16
AGAIN_S = 1.0
"""Without an acknowledgement for so long, everything from the oldest is sent again; the agent waits 5 s."""

BEAT_S = 10.0
"""Between heartbeats; Inventory expects one every 30 s, as these devices' rows say."""


@dataclass(slots=True)
class Talker:
    """`logged`: the numbers under which it sent logs. `ran`: the orders that it carried out, in their order; `numbers`: the fence of each
    that came, carried out or not."""

    device: Device
    client: aiomqtt.Client
    acked: int = 0
    logged: list[int] = field(default_factory=list)
    ran: list[Order] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    _outbox: list[tuple[str, bytes]] = field(default_factory=list)
    _sent: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, message: Message) -> None:
        self._outbox.append((self.device.topic(message.suffix), self.device.payload(message)))
        self._news.set()

    def chat(self, messages: int) -> None:
        """Facts and logs in turn, each with the number that it goes under."""
        for _ in range(messages):
            n = self.device.seq + 1
            if n % 2:
                self.say(self.device.facts(os={"name": "Debian", "version": "13", "kernel": f"6.{n:06d}", "arch": "x86_64"}))
            else:
                self.logged.append(n)
                self.say(log_message(id=f"log-{n}", message=str(n)))

    def carried_out(self) -> list[ResourceRef]:
        """What the orders were about, in their order."""
        return [order.resource for order in self.ran if order.resource is not None]

    @property
    def heard(self) -> bool:
        """Whether everything is acknowledged."""
        return self.acked == len(self._outbox)

    async def run(self) -> None:
        """Until cancelled. Raises MqttError when the connection is lost."""
        async with self.client:
            await self.client.subscribe(TOPICS.downlinks(self.device.id), qos=1)
            await self.client.publish(self.device.topic("up/presence"), self.device.payload(self.device.presence()), qos=1)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen())
                tasks.create_task(self._talk())
                tasks.create_task(self._beat())

    async def _talk(self) -> None:
        while True:
            self._news.clear()
            until = min(self.acked + WINDOW, len(self._outbox))
            new = self._outbox[max(self._sent, self.acked) : until]
            for topic, payload in new + new[:1]:  # one of them twice, and late, as QoS 1 may have it
                await self.client.publish(topic, payload, qos=1)
            self._sent = until
            if not await self._told():
                self._sent = self.acked

    async def _beat(self) -> None:
        while True:
            await self.client.publish(self.device.topic("up/heartbeat"), self.device.payload(self.device.heartbeat()), qos=0)
            await asyncio.sleep(BEAT_S)

    async def _told(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(AGAIN_S):
                return await self._news.wait()
        return False

    async def _listen(self) -> None:
        async for message in self.client.messages:
            text = str(message.topic)
            topic = TOPICS.parse(text)
            assert isinstance(topic, DeviceTopic) and isinstance(message.payload, bytes)
            sealed = topic.channel in AUTHENTICATED
            said = decode(topic.channel, message.payload, topic=text if sealed else "", key=self.device.key if sealed else None)
            match said:
                case Ack(seq=seq) if seq > self.acked:
                    self.acked = seq
                    self._news.set()
                case Command(signed=signed):
                    self._obey(decode_text(Order, signed))

    def _obey(self, order: Order) -> None:
        """By the fence, as contract and agent have it: what is overtaken is dropped, and comes again under another number."""
        if order.fence > max(self.numbers, default=0) and order.id not in {known.id for known in self.ran}:
            assert order.resource is not None
            self.ran.append(order)
            what = order.resource
            self.say(status(Item(kind=what.kind, id=what.id, generation=what.generation, state="present", digest=order.args["digest"])))
            self.say(result(order.id, "succeeded", id=f"{order.id}-end"))
        self.numbers.append(order.fence)
