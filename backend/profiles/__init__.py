"""Who somebody is: identifiers, merges, traits, consent, devices and push addresses."""
