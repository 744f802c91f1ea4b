"""The engines: each scans the item vectors its own way, behind one protocol."""
