"""Every layer of ``torch.nn`` that is rebuilt: how it is made, and what it is fed.

A line is ``CALL : INPUT INPUT …``; an input is a shape, of whole numbers below five after ``i5,``, of numbers between 0
and 1 after ``01,``.
"""

EVERY = """
Conv1d(3, 4, 3) : 2,3,8
Conv2d(3, 4, (3, 1), stride=(1, 2)) : 2,3,8,8
Conv3d(3, 4, 2, padding_mode="circular", padding=1) : 1,3,4,4,4
ConvTranspose1d(3, 6, 3, groups=3) : 2,3,8
ConvTranspose2d(3, 4, 3, bias=False) : 2,3,8,8
ConvTranspose3d(3, 4, 2, stride=2) : 1,3,4,4,4
Linear(3, 4) : 2,3
Bilinear(3, 2, 4, bias=False) : 2,3 2,2
Identity() : 2,3
Embedding(5, 3, padding_idx=1, max_norm=1.0) : i5,2,3
EmbeddingBag(5, 3, mode="max") : i5,2,3
BatchNorm1d(3, eps=0.1) : 2,3,4
BatchNorm2d(3, momentum=0.3, affine=False) : 2,3,4,4
BatchNorm3d(3, track_running_stats=False) : 2,3,4,4,4
SyncBatchNorm(3) : 2,3,4
InstanceNorm1d(3) : 2,3,4
InstanceNorm2d(3, affine=True) : 2,3,4,4
InstanceNorm3d(3, track_running_stats=True) : 2,3,4,4,4
LayerNorm([3, 4], eps=0.1, elementwise_affine=False) : 2,3,4
GroupNorm(2, 4, affine=False) : 2,4,3
RMSNorm(4, eps=0.1) : 2,3,4
LocalResponseNorm(2, alpha=0.5, k=2.0) : 2,3,4
CrossMapLRN2d(2, alpha=0.5) : 2,3,4,4
RNN(3, 4, num_layers=2, nonlinearity="relu", batch_first=True) : 2,5,3
LSTM(3, 4, bidirectional=True, dropout=0.5, num_layers=2) : 5,2,3
GRU(3, 4, bias=False) : 5,2,3
RNNCell(3, 4, nonlinearity="relu") : 2,3
LSTMCell(3, 4, bias=False) : 2,3
GRUCell(3, 4) : 2,3
MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True, add_zero_attn=True, batch_first=True) : 1,2,4 1,3,3 1,3,5
TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation="gelu", layer_norm_eps=0.1, norm_first=True, bias=False) : 3,2,4
TransformerDecoderLayer(4, 2, 8, activation=nn.Hardswish(), batch_first=True) : 1,3,4 1,2,4
TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2, nn.LayerNorm(4), mask_check=False) : 1,3,4
TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8), 3) : 3,1,4 2,1,4
Transformer(4, 2, 1, 2, 8, activation="gelu", batch_first=True) : 1,3,4 1,2,4
ReLU(inplace=True) : 2,3
ReLU6() : 2,3
LeakyReLU(0.3) : 2,3
PReLU(3, init=0.1) : 2,3
RReLU(0.2, 0.4) : 2,3
ELU(0.5) : 2,3
SELU() : 2,3
CELU(0.5) : 2,3
GELU("tanh") : 2,3
SiLU() : 2,3
Mish() : 2,3
Hardswish() : 2,3
Hardsigmoid() : 2,3
Hardtanh(-0.3, 0.4) : 2,3
Hardshrink(0.3) : 2,3
Softshrink(0.3) : 2,3
Sigmoid() : 2,3
LogSigmoid() : 2,3
Tanh() : 2,3
Tanhshrink() : 2,3
Softplus(2, 10) : 2,3
Softsign() : 2,3
Threshold(0.2, 7.0) : 2,3
GLU(1) : 2,4
Softmax(0) : 2,3
Softmax2d() : 1,2,3,3
LogSoftmax(1) : 2,3
Softmin(1) : 2,3
MaxPool1d(2, ceil_mode=True) : 2,3,7
MaxPool2d(3, 2, 1, return_indices=True) : 1,3,8,8
MaxPool3d(2, dilation=2) : 1,3,6,6,6
MaxUnpool1d(2) : 1,1,1 i2,1,1,1
MaxUnpool2d(2) : 1,1,1,1 i4,1,1,1,1
MaxUnpool3d(2) : 1,1,1,1,1 i8,1,1,1,1,1
AvgPool1d(2, count_include_pad=False, padding=1) : 2,3,8
AvgPool2d((2, 3), divisor_override=5) : 1,3,8,8
AvgPool3d(2) : 1,3,4,4,4
LPPool1d(3, 2) : 2,3,8
LPPool2d(3, 2, ceil_mode=True) : 1,3,7,7
LPPool3d(3, 2) : 1,3,4,4,4
FractionalMaxPool2d(2, output_ratio=0.5) : 1,3,8,8
FractionalMaxPool3d(2, output_size=(2, 3, 2)) : 1,3,8,8,8
AdaptiveMaxPool1d(2) : 1,3,8
AdaptiveMaxPool2d((2, None)) : 1,3,8,8
AdaptiveMaxPool3d(2) : 1,3,4,4,4
AdaptiveAvgPool1d(3) : 1,3,8
AdaptiveAvgPool2d((None, 3)) : 1,3,8,8
AdaptiveAvgPool3d(2) : 1,3,4,4,4
Dropout(0.1) : 2,3
Dropout1d(0.1) : 2,3,4
Dropout2d(0.1) : 2,3,4,4
Dropout3d(0.1) : 2,3,4,4,4
AlphaDropout(0.1) : 2,3
FeatureAlphaDropout(0.1) : 2,3
ConstantPad1d(1, 2.5) : 1,2,3
ConstantPad2d((1, 2, 0, 1), 2.5) : 1,2,3,3
ConstantPad3d(1, 2.5) : 1,2,3,3,3
ZeroPad1d(2) : 1,2,3
ZeroPad2d((1, 2, 3, 4)) : 1,2,3,3
ZeroPad3d(1) : 1,2,3,3,3
ReflectionPad1d(1) : 1,2,3
ReflectionPad2d((1, 2, 1, 0)) : 1,2,3,3
ReflectionPad3d(1) : 1,2,3,3,3
ReplicationPad1d(1) : 1,2,3
ReplicationPad2d(1) : 1,2,3,3
ReplicationPad3d(1) : 1,2,3,3,3
CircularPad1d(1) : 1,2,3
CircularPad2d(1) : 1,2,3,3
CircularPad3d(1) : 1,2,3,3,3
Flatten(0, 1) : 2,3,4
Unflatten(1, (2, 3)) : 2,6
Fold((4, 5), 2, padding=1) : 1,12,30
Unfold((2, 3), stride=2) : 1,3,6,6
Upsample((5, 7), mode="bicubic") : 1,2,3,3
UpsamplingNearest2d(scale_factor=2) : 1,2,3,3
UpsamplingBilinear2d((5, 5)) : 1,2,3,3
PixelShuffle(2) : 1,4,3,3
PixelUnshuffle(2) : 1,1,4,4
ChannelShuffle(2) : 1,4,3,3
CosineSimilarity(0, 0.1) : 2,3 2,3
PairwiseDistance(1.0, keepdim=True) : 2,3 2,3
CrossEntropyLoss(ignore_index=1, label_smoothing=0.1) : 4,3 i3,4
MSELoss(reduction="sum") : 2,3 2,3
L1Loss() : 2,3 2,3
SmoothL1Loss(beta=0.5) : 2,3 2,3
HuberLoss(delta=0.5) : 2,3 2,3
BCELoss() : 01,2,3 01,2,3
BCEWithLogitsLoss() : 2,3 01,2,3
NLLLoss(reduction="none") : 4,3 i3,4
CTCLoss(blank=1) : 6,1,4 i1,1,2 i1,1 i1,1
CosineEmbeddingLoss(0.2) : 2,3 2,3 2
GaussianNLLLoss(full=True, eps=0.1) : 2,3 2,3 01,2,3
HingeEmbeddingLoss(0.5) : 2,3 2,3
KLDivLoss(log_target=True) : 2,3 2,3
MarginRankingLoss(0.5) : 3 3 3
MultiLabelMarginLoss() : 2,3 i3,2,3
MultiLabelSoftMarginLoss() : 2,3 01,2,3
MultiMarginLoss(p=2, margin=0.5) : 2,3 i3,2
PoissonNLLLoss(log_input=False, full=True) : 01,2,3 01,2,3
SoftMarginLoss() : 2,3 2,3
TripletMarginLoss(0.5, swap=True) : 2,3 2,3 2,3
AdaptiveLogSoftmaxWithLoss(8, 10, [4, 7], div_value=2.0, head_bias=True) : 3,8 i10,3
""".strip().splitlines()
