"""Generated from ``protos/serving/v1``: do not edit, run ``make protos``."""
