# For AT+KD. The paper does not give the decay of beta. The project's choice: docs/design_choices.md.
decaying_at_head = dict(
    type='mmat.ActivationATHead',
    pairs=[(0, 0), (1, 1), (2, 2)],
    weight=dict(type='linear', initial=1e3, final=0., by_epoch=False))
