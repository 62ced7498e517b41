"""The study directory: what is written into it, how it is read back and checked, and what identifies it."""
