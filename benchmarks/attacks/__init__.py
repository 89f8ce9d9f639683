"""Attacks on models of which it is known how they forgot."""
