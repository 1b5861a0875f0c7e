"""Campaigns: trigger, audience, offer, guardrails; who gets what, or why not."""
