"""The leak-proof core for time series: windows, backtests, metrics, intervals, transforms; no model."""
