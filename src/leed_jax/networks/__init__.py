"""Networks of agents: layers, action distributions, policies with critics, and action values with mixers.

Parameters are stacked on a leading axis, over agents or over groups of agents that share them.
"""
