_base_ = '../shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py'

model = dict(
    _delete_=True,
    type='mmat.Distiller',
    student={{_base_.model}},
    # timm's network and weights, which timm downloads.
    teacher=dict(
        model=dict(type='mmpretrain.TimmClassifier', model_name='resnet50.a1_in1k', pretrained=True,
                   loss=dict(type='mmpretrain.CrossEntropyLoss'), data_preprocessor={{_base_.data_preprocessor}})),
    at_heads=[dict(type='mmat.ActivationATHead', pairs=[(0, 1), (1, 2), (2, 3)], weight=1e3)])
