"""Off-policy algorithms for pgzoo: DDPG, TD3 and SAC."""
