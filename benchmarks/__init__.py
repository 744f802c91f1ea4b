"""One module per claim; `python -m benchmarks.NAME [--quick]` prints a table, then one JSON object as its last line."""
