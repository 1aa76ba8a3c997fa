"""Examples may take as long as they take: machines that tests run on have other work too."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
