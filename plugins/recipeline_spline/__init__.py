"""Spline cleaning and recurrent forecasting."""
