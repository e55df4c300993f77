"""Every import of json would get this."""
