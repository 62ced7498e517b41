"""Policies and the decisions they lead to, from stored records alone. Needs neither numpy nor torch."""
