"""What goes to the integrator: a folder or archive that says what it is, runs, and can be checked by itself."""
