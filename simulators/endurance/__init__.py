"""Long runs that prove endurance: radio faults, kills, outages, crowds and hostile bytes."""
