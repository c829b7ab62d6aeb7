"""A small environment and its agent as a plugin of recipeline."""
