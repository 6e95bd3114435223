"""What everything drawn has in common: colours, words, plots."""
