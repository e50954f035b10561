_base_ = './nin-thin_1xb128_cifar10.py'

# The paper's Table 3: no BN, no ReLU before pooling, horizontal flips only, no weight decay.
model = dict(
    backbone=dict(norm_cfg=None, relu_before_pool=False),
    data_preprocessor=dict(padding=0))
# Without BN, training diverges at a rate of 0.03.
optim_wrapper = dict(optimizer=dict(lr=0.01, weight_decay=0))
