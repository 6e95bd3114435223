"""Inline components for the browser: the image viewer and the thumbnail gallery."""
