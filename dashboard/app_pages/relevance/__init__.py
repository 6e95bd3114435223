"""The page Relevance."""
