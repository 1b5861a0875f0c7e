"""What journal entries cause, inside one transaction: sightings, zones, people, decisions, pushes."""

from backend.folding.live import LiveState
from backend.folding.transaction import Folded, Transaction

__all__ = ["Folded", "LiveState", "Transaction"]
