kd_head = dict(type='mmat.SoftTargetHead', T=4, alpha=0.9)
