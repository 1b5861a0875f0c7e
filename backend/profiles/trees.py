"""People as whoever asks about them sees them: each with all the profiles that are merged into one."""

from collections.abc import Iterable
from dataclasses import dataclass, field

MOST_PEOPLE = 50_000  # are remembered: some 30 MB


@dataclass(frozen=True, slots=True)
class Trees:
    """By person all their profiles, the root first. `windows`: from when until when what a merged one did is
    its person's, both included, unix milliseconds; a root may still have one of before, which means nothing.
    """

    profiles: dict[str, list[str]] = field(default_factory=dict)
    windows: dict[str, tuple[int, int]] = field(default_factory=dict)

    def forget(self, profile_ids: Iterable[str]) -> None:
        """These are, or were, of another person; or of one who has more now, or less."""
        if max(len(self.profiles), len(self.windows)) > MOST_PEOPLE:
            self.profiles.clear()
            self.windows.clear()
        for profile_id in profile_ids:
            self.profiles.pop(profile_id, None)
