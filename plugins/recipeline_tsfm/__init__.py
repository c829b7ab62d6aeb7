"""Guarded forecasts from a time-series foundation model behind a tollama server."""
