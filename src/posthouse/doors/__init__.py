"""Where the world meets us, and where the loops run. No mail rule lives here: a door parses, authorises, and calls a flow."""
