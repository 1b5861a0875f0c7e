"""The Pi's program: hears beacons, keeps what it heard, and hands it on until the backend has it."""

VERSION = "0.1.0"
