"""What is read and computed once for all sessions."""
