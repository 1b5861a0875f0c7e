"""Which beacon sent this Eddystone-EID? A table of the ids that all registered beacons send about now.

Time is cut into slots of 2^K seconds per rotation exponent K. A slot is one array of ids, sorted, and one of
beacon numbers: 12 bytes a beacon, so 11.4 MiB for a million. Looking up at slot n searches n, n−1 and n+1: a
beacon's clock may be half a rotation off at least (a whole one if its rotations begin with ours), and an id
recorded and played back hours later finds nobody.

Making a slot takes 4 µs a beacon for the temporary key and 3 µs for a cipher with it, and then hardly anything
per further slot. So one pass over the keys makes as many slots ahead as `max_bytes` has room for: 3 in all for
a million beacons in 40 MiB, a day of them for a small chain. Identity keys are passed in for each pass and not kept.
"""
