"""PPO with an operations manager that keeps training alive."""
