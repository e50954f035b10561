# For AT+KD; the paper does not give the decay of beta: project's choice, see configs/at/README.md.
decaying_at_head = dict(
    type='mmat.ActivationATHead',
    pairs=[(0, 0), (1, 1), (2, 2)],
    weight=dict(type='linear', initial=1e3, final=0., by_epoch=False))
