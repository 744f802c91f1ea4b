"""Towers, heads and losses. Only `two_tower` needs torchrec; the exported towers run on plain torch."""
