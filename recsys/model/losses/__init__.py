"""Losses over every trained width at once: one module for each part, put together in `matryoshka`."""
