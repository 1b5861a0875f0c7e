"""Beacon and gateway-image profiles, as data that is checked before anything is flashed."""
