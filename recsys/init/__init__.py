"""``recsys init``: look at somebody's own log, and propose a recipe for it."""
