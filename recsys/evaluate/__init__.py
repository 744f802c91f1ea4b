"""How good rankings are: exact, of the whole catalogue, at every width, beside baselines that need no training."""
