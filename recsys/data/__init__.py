"""From interaction logs to prepared datasets, and from those to training batches and queries."""
