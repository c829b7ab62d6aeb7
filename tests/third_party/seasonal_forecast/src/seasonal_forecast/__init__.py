"""A small forecaster as a plugin of recipeline."""
