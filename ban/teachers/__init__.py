"""Who teaches."""

from ban.teachers.frozen import Frozen

__all__ = ["Frozen"]
