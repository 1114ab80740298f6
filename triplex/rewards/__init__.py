"""Rewards: one contract, several components, one composite."""
