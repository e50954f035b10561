# The paper does not give beta or its decay. The project's choice: docs/design_choices.md.
factt_head = dict(
    type='mmat.FullActivationHead',
    pairs=[(0, 0), (1, 1), (2, 2)],
    weight=dict(type='linear', initial=10., final=0., by_epoch=False))
