"""What every test shares: how property-based tests search."""

from __future__ import annotations

import os

from hypothesis import settings

# A busy machine is no failure, so no deadline. CI searches the same examples every time; a person's runs explore.
settings.register_profile("here", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
