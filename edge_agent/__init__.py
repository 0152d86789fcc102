"""The hands: what runs on each device. It stands on the wire contract, paho-mqtt, psutil and PyNaCl, and on nothing of the server."""

VERSION = "0.1.0"
