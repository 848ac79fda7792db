"""Learning algorithms: rollouts, expert imitation, PPO, Q-learning, and the registry of algorithms.

Knows environments, networks and formulas; knows neither files nor the configuration of a run.
"""
