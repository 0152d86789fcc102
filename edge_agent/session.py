"""One connection to the broker: a new paho client for each, in a thread of its own, gone when the connection is.

MQTT 3.1.1 over TLS with the device's certificate, clean session. It neither reconnects nor resends: `connection` and `uplink` decide that.
paho's callbacks only hand over; what they raise would otherwise end a thread without a word, so the thread's own end is always reported.
"""

import logging
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from edge_agent.identity import Identity, alone
from edge_agent.signals import Connect, Connected, Disconnected, Input, Publish, Received

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 15.0
"""For TCP and TLS together with the broker's answer to each."""
LOOP_S = 2.0
"""How long paho waits at most before it looks at its keepalive and at our wish to close."""


class Session:
    """Delivers `Connected` once subscribed, `Received` for each message, and one `Disconnected` at its end."""

    def __init__(self, identity: Identity, connect: Connect, deliver: Callable[[Input], None]) -> None:
        self.name = connect.session
        self._identity = identity
        self._connect = connect
        self._deliver = deliver
        self._closing = threading.Event()
        self._reason = "closed"
        self._client: Client | None = None
        self._thread = threading.Thread(target=self._run, name="session", daemon=True)
        self._thread.start()

    def publish(self, effect: Publish) -> None:
        """Queue a message; what can't be sent is lost, which the outbox expects."""
        client = self._client
        if client is not None:
            client.publish(effect.topic, effect.payload, effect.qos)

    def close(self, clean: bool) -> None:
        """`clean`: after what is queued, with DISCONNECT, so that the Will is not sent."""
        client = self._client
        if clean and client is not None:
            client.disconnect()
        else:
            self._closing.set()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def _run(self) -> None:
        client = None
        try:
            client = self._new_client()
            client.connect(self._identity.host, self._identity.port, self._connect.keepalive_s)
            self._client = client
            while not self._closing.is_set():
                code = client.loop(LOOP_S)
                if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    self._reason = code.name
                    break
        except (OSError, ValueError) as error:  # ssl.SSLError, socket.gaierror and timeouts are OSErrors
            self._reason = f"{type(error).__name__}: {error}"
        except Exception as error:
            log.exception("session has a bug")
            self._reason = f"{type(error).__name__}: {error}"
        finally:
            self._client = None
            _drop(client)
            self._deliver(Disconnected(self.name, self._reason))

    def _new_client(self) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._identity.device,
            clean_session=True,
            protocol=MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.tls_set_context(tls_context(self._identity))
        client.will_set(self._connect.will_topic, self._connect.will, qos=1, retain=False)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_socket_register_write = _no_write_here
        return client

    def _on_connect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._reason = f"refused: {reason}"
            self._closing.set()
            return
        client.subscribe(self._connect.subscribe, qos=1)

    def _on_subscribe(self, client: Client, userdata: Any, mid: int, reasons: Any, properties: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self._reason = "the subscription was refused"
            self._closing.set()
            return
        self._deliver(Connected(self.name))

    def _on_message(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        self._deliver(Received(self.name, message.topic, bytes(message.payload)))


def tls_context(identity: Identity) -> ssl.SSLContext:
    """Ours to the broker, the broker's checked against the fleet's own CA and nothing else. Raises OSError naming the damaged file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with alone(identity.state_dir):
        _trust(context, identity.ca_file)
        try:
            context.load_cert_chain(identity.certificate_file, identity.key_file)
        except ssl.SSLError as error:
            # OpenSSL says the same of both files: the certificate is tried by itself.
            _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), identity.certificate_file)
            raise OSError(f"{identity.key_file} can't be used ({error}): restore it, or remove it and enroll again") from error
    return context


def _trust(context: ssl.SSLContext, file: Path) -> None:
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise OSError(f"{file} can't be used ({error}): enroll again") from error


def _no_write_here(client: Client, userdata: Any, sock: Any) -> None:
    """That this is set keeps paho from writing to the socket in the thread that publishes; the session's own thread is woken instead."""


def _drop(client: Client | None) -> None:
    sock = client.socket() if client is not None else None
    if isinstance(sock, socket.socket):
        try:
            sock.close()
        except OSError:
            pass  # it was gone already
