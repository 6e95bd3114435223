"""The page Forgetting."""
