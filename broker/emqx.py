"""The configuration of an EMQX 5 with the rules of `broker.acl`. Rendered and checked as text; not tried, as none runs where this is built.

Two files: `emqx.conf`, to be included by or put in the place of EMQX's own, and `acl.conf`. As on Mosquitto, a certificate has one
connection. What EMQX does not do by itself: refuse certificates that are revoked, as it fetches CRLs from an address that stands in the
certificate, and ours name none. Pure; `broker.configuration` calls it.

Source: the EMQX 5 configuration manual (listener, mqtt, authorization, retainer).
"""

from pathlib import Path

from broker.messages import MAX_BYTES


def render(secrets: Path, acl: Path, host: str, port: int) -> str:
    """`emqx.conf`, in HOCON. `acl`: where `acl.conf` will be."""
    address = f"[{host}]" if ":" in host else host
    return f"""\
# Rendered by broker/emqx.py. It has not been tried on a running EMQX.
listeners.ssl.default {{
  bind = "{address}:{port}"
  ssl_options {{
    cacertfile = "{secrets / "ca.crt"}"
    certfile = "{secrets / "broker.crt"}"
    keyfile = "{secrets / "broker.key"}"
    verify = verify_peer
    fail_if_no_peer_cert = true
    versions = ["tlsv1.3", "tlsv1.2"]
  }}
}}
# Who comes without a certificate has no name that could be believed.
listeners.tcp.default.enable = false
listeners.ws.default.enable = false
listeners.wss.default.enable = false

mqtt {{
  # The name and the client id are the certificate's, whatever the client says: none can take over another's connection.
  peer_cert_as_username = cn
  peer_cert_as_clientid = cn
  max_packet_size = {MAX_BYTES + 4096}B
  retain_available = false
  shared_subscription = false
  session_expiry_interval = 0s
  max_inflight = 1024
  max_mqueue_len = 100000
  mqueue_store_qos0 = false
}}
retainer.enable = false

authorization {{
  no_match = deny
  deny_action = ignore
  cache.enable = true
  sources = [{{type = file, enable = true, path = "{acl}"}}]
}}

# Revoked certificates: Inventory refuses what they say, but EMQX lets them connect. Ban their owners, by the name in the certificate, in
# EMQX's dashboard or with its REST API (POST /api/v5/banned, "as": "username").
"""
