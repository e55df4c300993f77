"""Takes the place of livetag's own."""
