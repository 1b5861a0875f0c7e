"""Where a tag or a phone is: zones, presence and visits from sightings; which beacon an EID is."""
