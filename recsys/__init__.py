"""Matryoshka two-tower recommendations: prepare, train, evaluate, publish; `serving` answers requests."""
