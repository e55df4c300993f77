"""Every import of msgspec would get this."""
