"""Losses, bounds and samplers as pure functions of arrays. Layer 1.

`td` temporal-difference targets · `mi` mutual-information bounds · `mcmc` Hamiltonian Monte Carlo ·
`divergence` policy from behaviour · `slope` critic in the action · `correction` equation 15 of MISA ·
`dual` Lagrange multipliers and averaged parameters.
"""
