"""From the outbox to the phone through FCM, at most once, to a state that is final."""
