"""Step checkpoints of other systems, turned into a run folder (docs/open-your-own.md)."""
