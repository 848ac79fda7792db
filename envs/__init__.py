"""Environments that come with leed_jax, each written on the public API alone and so a template for a user's own."""
