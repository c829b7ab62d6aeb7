"""Places: files, databases, feature stores."""
