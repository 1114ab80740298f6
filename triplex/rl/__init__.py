"""PPO and GRPO and the mathematics that they share."""
